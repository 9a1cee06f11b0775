import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from fastheads.data import load_glyphs
from fastheads.data.draw import draw
from fastheads.data.fonts import find_fonts, read_faces
from fastheads.data.glyphs import drawings

SPLITS = ("train", "holdout", "test")
FEW = {"scripts": ["Greek"], "limit_labels": 40, "progress": False}


def fingerprint(data) -> str:
    """Of everything that a run depends on."""
    digest = hashlib.sha256("".join(data.label_space.names).encode())
    for name in SPLITS:
        part = getattr(data, name)
        digest.update(part.rows.tobytes() + part.targets.indices.numpy().tobytes())
        digest.update(part.images[part.rows].tobytes())
    return digest.hexdigest()


def test_default_fonts_give_a_large_vocabulary(glyphs):
    assert len(glyphs.faces) == 16 and not glyphs.skipped
    assert glyphs.num_labels > 4000 and len(glyphs.train) > 20000
    for script in ("Latin", "Greek", "Cyrillic", "Braille", "Arrows", "Mathematical Symbols"):
        assert glyphs.label_space.levels["script"].count(script) > 100, script


def test_every_label_is_in_every_split(glyphs):
    for name, minimum in zip(SPLITS, (2, 1, 1), strict=True):
        indices = getattr(glyphs, name).targets.indices
        counts = torch.bincount(indices, minlength=glyphs.num_labels)
        assert counts.min() >= minimum, name


def test_no_picture_is_in_two_splits_or_twice_in_one(glyphs):
    parts = [getattr(glyphs, name) for name in SPLITS]
    pictures = [picture.tobytes() for part in parts for picture in part.images[part.rows]]
    assert len(pictures) == sum(map(len, parts)) == len(set(pictures))


def test_pictures_hold_ink_on_black(glyphs):
    images, targets = glyphs.train.__getitems__([5, 0, 5])
    assert images.shape == (3, 1, 32, 32) and images.dtype == torch.uint8
    assert torch.equal(images[0], images[2]) and targets.tolist()[0] == targets.tolist()[2]
    drawn = np.asarray(glyphs.train.images[glyphs.train.rows])
    assert drawn.reshape(len(drawn), -1).max(1).min() > 0
    assert drawn[:, :, 0, 0].mean() < 32 < drawn.max()


def test_annotation_is_the_set_of_identical_drawings(glyphs):
    """Drawn again one by one, characters of one picture agree, and those left out differ."""
    space = glyphs.label_space
    paths = {face.name: face.path for face in read_faces(find_fonts())[0]}
    homoglyphs = [space.index(c) for c in ("A", "Α", "А")]
    shared = 0
    for part in (glyphs.train, glyphs.holdout, glyphs.test):
        for row, labels in zip(part.rows, part.targets.tolist(), strict=True):
            if not set(labels) & set(homoglyphs):
                continue
            face = glyphs.faces[glyphs.face_of[row]]
            font = ImageFont.truetype(str(paths[face]), 24, layout_engine=ImageFont.Layout.BASIC)
            expected = {
                label
                for label in homoglyphs
                if np.array_equal(draw(font, space.names[label], 32), part.images[row, 0])
            }
            assert expected and expected <= set(labels)
            shared += len(expected) == 3
    assert shared >= 4  # A, Greek Alpha and Cyrillic A in most of the faces that have all three


def test_labels_without_enough_distinct_drawings_are_named(glyphs):
    assert glyphs.dropped and not set(glyphs.dropped) & set(glyphs.label_space.names)
    assert all(0 < count < 4 for count in glyphs.dropped.values())
    assert f"{len(glyphs.dropped)} labels dropped" in glyphs.summary()


def test_scripts_and_limit_keep_the_first_labels(cache_dir, glyphs):
    data = load_glyphs(cache_dir=cache_dir, **FEW)
    space = glyphs.label_space
    greek = [n for n, s in zip(space.names, space.levels["script"], strict=True) if s == "Greek"]
    assert data.label_space.names == tuple(greek[:40])


def test_split_follows_the_seed(glyphs, cache_dir):
    same = load_glyphs(cache_dir=cache_dir, progress=False)
    other = load_glyphs(cache_dir=cache_dir, progress=False, seed=1)
    assert fingerprint(same) == fingerprint(glyphs) != fingerprint(other)
    assert other.label_space == glyphs.label_space


def test_processes_agree_even_when_they_draw_at_once(tmp_path, cache_dir):
    code = (
        "from test_glyphs import *; import sys\n"
        "print(fingerprint(load_glyphs(cache_dir=sys.argv[1], **FEW)))"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    }
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen([*command, str(tmp_path)], stdout=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    printed = {process.communicate()[0].decode().strip() for process in running}
    assert printed == {fingerprint(load_glyphs(cache_dir=cache_dir, **FEW))}
    entries = [p for p in tmp_path.iterdir() if p.is_dir()]
    assert len(entries) == 1  # one entry, nothing temporary left


def test_truncated_cache_is_drawn_again(tmp_path):
    first = fingerprint(load_glyphs(cache_dir=tmp_path, **FEW))
    (path,) = tmp_path.glob("*/images.bin")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert fingerprint(load_glyphs(cache_dir=tmp_path, **FEW)) == first
    assert path.read_bytes() == whole


def test_directory_adds_fonts_and_damaged_ones_are_skipped_by_name(tmp_path, cache_dir, glyphs):
    original = find_fonts()[0].read_bytes()
    fonts = tmp_path / "fonts"
    fonts.mkdir()
    (fonts / "noise.ttf").write_bytes(os.urandom(4096))
    (fonts / "empty.otf").write_bytes(b"")
    (fonts / "half.ttf").write_bytes(original[: len(original) // 2])
    (fonts / "copy.ttf").write_bytes(original)
    data = load_glyphs(fonts=str(fonts), cache_dir=cache_dir, progress=False)
    assert {Path(p).name for p in data.skipped} == {"noise.ttf", "empty.otf", "half.ttf"}
    assert all(data.skipped.values())  # a reason each
    assert "3 unreadable files skipped" in data.summary() and "noise.ttf" in data.summary()
    assert fingerprint(data) == fingerprint(glyphs)  # a copy of a font is no new face


def test_font_that_breaks_while_drawing_is_skipped(tmp_path):
    """Coverage can be read, outlines cannot: the face is left out, the others are drawn."""
    faces, _ = read_faces(find_fonts()[:2])
    path = tmp_path / "gone.ttf"
    broken = [faces[0], type(faces[1])("Gone", path, 0, "gone", faces[1].codepoints)]
    wanted = [list(range(0x41, 0x5B))] * 2
    entry = drawings(broken, wanted, 32, tmp_path / "cache", False)
    assert list(entry.meta["skipped"]) == [str(path)]
    assert set(entry.table[:, 1]) == {0} and len(entry.images) == 26


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fonts": "/nowhere"}, "fonts must be 'default', 'system' or a directory"),
        ({"size": 2}, "size must be at least 8 pixels, got 2"),
        ({"min_faces": 0}, "min_faces must be at least 1, got 0"),
        ({"min_faces": 17}, "at least one label with 4 distinct drawings, got none"),
        ({"scripts": ["Klingon"]}, "scripts must be among .*Greek.*; got 'Klingon'"),
        ({"limit_labels": 0}, "limit_labels must be at least 1, got 0"),
    ],
)
def test_rejects(options, message, cache_dir):
    with pytest.raises(ValueError, match=message):
        load_glyphs(cache_dir=cache_dir, progress=False, **options)


def test_rejects_a_directory_without_fonts_and_an_unwritable_cache(tmp_path):
    with pytest.raises(ValueError, match="fonts must be a directory that holds font files"):
        find_fonts(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cache_dir must be a directory that can be written"):
        load_glyphs(cache_dir=tmp_path / "file", progress=False)


def test_draw_fits_wide_and_tall_characters():
    path = next(p for p in find_fonts() if p.name == "DejaVuSans.ttf")
    font = ImageFont.truetype(str(path), 24, layout_engine=ImageFont.Layout.BASIC)
    for character in ("W", "ﷺ", "⸻", "𝌆", "Ǻ", "ʩ", "⃝"):
        picture = draw(font, character, 32)
        assert picture.size == (32, 32) and picture.getbbox() is not None
    assert draw(font, " ", 32) == Image.new("L", (32, 32))
    # Case is kept apart: a common baseline and size, no scaling of each to the picture.
    assert draw(font, "o", 32).getbbox()[1] > draw(font, "O", 32).getbbox()[1]
