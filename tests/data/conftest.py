from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from fastheads.data import load_glyphs


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def glyphs(cache_dir):
    """The glyphs of the default fonts."""
    return load_glyphs(cache_dir=cache_dir, progress=False)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """scikit-learn's digits, 40 of each, as ``root/label/image.png``."""
    root = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(images[:400], labels[:400], strict=True)):
        folder = root / str(label)
        folder.mkdir(exist_ok=True)
        picture = (image.reshape(8, 8) * 255 / 16).round().astype("uint8")
        Image.fromarray(picture).save(folder / f"{i:03d}.png")
    return root
