import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastheads.data import fit_size
from fastheads.data.files import decode


def gray(width, height, mode="L"):
    return Image.new(mode, (width, height), 200 if mode == "L" else (200, 100, 50))


def ink(picture):
    """Width and height of what is not black, and whether it is in the middle, up to a pixel."""
    left, top, right, bottom = picture.getbbox()
    middle = abs(left - (picture.width - right)) <= 1 and abs(top - (picture.height - bottom)) <= 1
    return right - left, bottom - top, middle


@pytest.mark.parametrize(
    ("came", "expected"),
    [
        ((300, 300), (300, 300)),  # as it is
        ((280, 260), (280, 260)),  # padded, not scaled up
        ((500, 375), (300, 225)),  # scaled down by its longer side, its aspect kept
        ((250, 1000), (75, 300)),
        ((280, 400), (210, 300)),
    ],
)
def test_section_7_2(came, expected):
    picture = fit_size(gray(*came))
    assert picture.size == (300, 300)
    assert ink(picture) == (*expected, True)


@pytest.mark.parametrize("came", [(249, 900), (900, 249), (10, 10)])
def test_section_7_2_discards(came):
    message = f"image must be at least 250 pixels wide and high, got {came[0]} x {came[1]}"
    with pytest.raises(ValueError, match=message):
        fit_size(gray(*came))


@given(st.integers(20, 90), st.integers(20, 90), st.integers(1, 60))
def test_any_size(width, height, size):
    image = gray(width, height, "RGB")
    picture = fit_size(image, size, least=20)
    assert picture.size == (size, size) and picture.mode == "RGB"
    assert image.size == (width, height)  # untouched
    wide, high, middle = ink(picture)
    factor = min(1, size / max(width, height))
    assert middle and max(abs(wide - factor * width), abs(high - factor * height)) <= 1


def test_decode_by_the_rule(tmp_path):
    """A file is refused by its own size, however small the pictures are that it becomes."""
    gray(400, 200).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="at least 250 pixels wide and high, got 400 x 200"):
        decode(tmp_path / "a.jpg", 32, 1, least=250)
    picture = decode(tmp_path / "a.jpg", 32, 1, least=200)[0]
    assert (picture[:8] == 0).all() and (picture[24:] == 0).all()
    assert abs(picture[8:24].astype(int) - 200).max() <= 4
    gray(20, 20).save(tmp_path / "b.png")
    assert np.count_nonzero(decode(tmp_path / "b.png", 32, 1, least=0)) == 400
    assert np.count_nonzero(decode(tmp_path / "b.png", 32, 1)) == 1024
