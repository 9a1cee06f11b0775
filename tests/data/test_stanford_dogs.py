"""Stanford Dogs: a few pictures in the official layout, with lists as the official ones are."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fastheads.data import load_stanford_dogs

BREEDS = ("n02085620-Chihuahua", "n02099601-golden_retriever", "n02110958-pug")
NAMES = ("Chihuahua", "golden_retriever", "pug")


@pytest.fixture
def options(cache_dir):
    return {"cache_dir": cache_dir, "progress": False, "size": 16, "channels": 3}


@pytest.fixture
def root(tmp_path):
    """Ten pictures of each breed, of several sizes; the more red the later the breed."""
    for b, breed in enumerate(BREEDS):
        folder = tmp_path / "Images" / breed
        folder.mkdir(parents=True)
        for i in range(10):
            picture = Image.new("RGB", (50 + i, 40), (60 + 80 * b, 10, 10))
            picture.save(folder / f"{breed.split('-')[0]}_{100 + i}.jpg")
    return tmp_path


def write_list(path, names):
    """A MATLAB cell array of file names, one of annotations, and the labels from 1."""

    def cells(texts):
        return np.array(texts, dtype=object).reshape(-1, 1)

    labels = [1 + BREEDS.index(name.split("/")[0]) for name in names]
    content = {
        "file_list": cells(names),
        "annotation_list": cells([name.removesuffix(".jpg") for name in names]),
        "labels": np.array(labels, dtype=np.uint8).reshape(-1, 1),
    }
    savemat(path, content)


def files_of(root, numbers):
    return [f"{b}/{b.split('-')[0]}_{100 + i}.jpg" for b in BREEDS for i in numbers]


def labels_agree_with_pictures(part):
    images, targets = part.__getitems__(list(range(len(part))))
    red = images[:, 0, 8, 8].float()
    labels = targets.indices
    return targets.counts.unique().tolist() == [1] and ((red - 60 - 80 * labels).abs() < 20).all()


@pytest.mark.parametrize("below", [".", "lists"])
def test_official_lists(below, root, options):
    (root / below).mkdir(exist_ok=True)
    write_list(root / below / "train_list.mat", files_of(root, range(6)))
    write_list(root / below / "test_list.mat", files_of(root, range(6, 10)))
    data = load_stanford_dogs(root, **options)
    assert data.label_space.names == NAMES
    assert [len(p) for p in (data.train, data.holdout, data.test)] == [16, 2, 12]  # a tenth of 18
    assert all(map(labels_agree_with_pictures, (data.train, data.holdout, data.test)))
    assert data.test.targets.tolist() == [[b] for b in range(3) for _ in range(4)]


def test_divided_by_seed_without_lists(root, options):
    data = load_stanford_dogs(root, **options)
    parts = [data.train, data.holdout, data.test]
    assert data.label_space.names == NAMES and sum(map(len, parts)) == 30
    assert all(map(labels_agree_with_pictures, parts))
    assert 2 <= len(data.test) <= 12 and len(data.train) >= 14
    other = load_stanford_dogs(root, seed=1, **options)
    assert other.test.rows.tolist() != data.test.rows.tolist()


def test_pictures_that_are_missing_or_damaged_are_named(root, options):
    write_list(root / "train_list.mat", files_of(root, range(6)))
    write_list(root / "test_list.mat", files_of(root, range(6, 11)))  # 110 is not there
    (root / "Images" / BREEDS[2] / "n02110958_100.jpg").write_bytes(b"no picture")
    data = load_stanford_dogs(root, **options)
    names = {path.rsplit("/", 1)[1] for path in data.skipped}
    assert names == {"n02085620_110.jpg", "n02099601_110.jpg", "n02110958_110.jpg"} | {
        "n02110958_100.jpg"
    }


def test_rejects(root, options):
    def rejects(message):
        with pytest.raises(ValueError, match=message):
            load_stanford_dogs(root, **options)

    (root / "train_list.mat").write_bytes(b"noise")
    rejects("path must hold both lists or none, got no test_list.mat")
    write_list(root / "test_list.mat", files_of(root, [0]))
    rejects("train_list.mat must be a MATLAB file that holds file_list, got")
    savemat(root / "train_list.mat", {"labels": [1]})
    rejects("train_list.mat must be a MATLAB file that holds file_list, got KeyError")
    write_list(root / "train_list.mat", files_of(root, range(5)))
    for name in ("train_list.mat", "test_list.mat"):
        (root / name).unlink()
    (root / "Images" / "pugs").mkdir()
    Image.new("RGB", (9, 9)).save(root / "Images" / "pugs" / "a.jpg")
    rejects("folders of Images must be called as n02085620-Chihuahua, got 'pugs'")
    (root / "Images").rename(root / "images_")
    rejects("path must hold the folder Images of Stanford Dogs, got none in")
