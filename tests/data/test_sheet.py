import numpy as np
import pytest
from PIL import Image

from fastheads.data import contact_sheet, write_sheet
from fastheads.data.sheet import printable


def test_pictures_lie_in_rows_with_ink_under_them():
    images = np.full((5, 1, 32, 32), 90, dtype=np.uint8)
    sheet = np.asarray(contact_sheet(images, [["A"], ["B"], [], ["long label name"], ["D"]], 2, 64))
    pictures = (sheet == 90).all(-1)
    assert pictures.sum() == 5 * 64 * 64
    heights = np.flatnonzero(np.diff(pictures.any(1).astype(int)))
    assert len(heights) == 6  # three rows of pictures, each between two edges
    dark = sheet.max(-1) < 80
    texts = [dark[start + 65 : start + 84] for start in heights[::2]]
    middle = sheet.shape[1] // 2
    found = [bool(t[:, half].any()) for t in texts for half in (slice(middle), slice(middle, None))]
    assert found == [True, True, False, True, True, False]


def test_colour_and_plain_arrays():
    red = np.zeros((1, 3, 8, 8), dtype=np.uint8)
    red[:, 0] = 250
    assert (np.asarray(contact_sheet(red, [[]]))[20, 20] == (250, 0, 0)).all()
    gray = np.full((1, 8, 8), 77, dtype=np.uint8)
    assert (np.asarray(contact_sheet(gray, [[]]))[20, 20] == 77).all()
    assert contact_sheet(gray[:0], []).size[0] > 0


def test_printable():
    assert [printable(c) for c in ("A", "é", "→", "cat")] == ["A", "é", "→", "cat"]
    assert [printable(c) for c in ("\u0301", "漢", "\n")] == ["U+0301", "U+6F22", "U+000A"]


def test_sheet_of_glyphs(glyphs, tmp_path):
    write_sheet(glyphs.train, tmp_path / "a.png", count=40, seed=1)
    write_sheet(glyphs.train, tmp_path / "b.png", count=40, seed=1)
    write_sheet(glyphs.train, tmp_path / "c.png", count=40, seed=2)
    a, b, c = (Image.open(tmp_path / f"{name}.png").tobytes() for name in "abc")
    assert a == b != c
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]


def test_rejects(glyphs, tmp_path):
    images = np.zeros((2, 8, 8), dtype=np.uint8)
    with pytest.raises(ValueError, match="labels must be one a picture, got 1 for 2"):
        contact_sheet(images, [["A"]])
    with pytest.raises(ValueError, match="columns must be at least 1, got 0"):
        contact_sheet(images, [["A"], ["B"]], columns=0)
    with pytest.raises(ValueError, match=r"path must end in .* got 'sheet.xyz'"):
        write_sheet(glyphs.train, tmp_path / "sheet.xyz")
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        write_sheet(glyphs.train, tmp_path / "sheet.png", count=0)
