import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fastheads.data import load_folder
from fastheads.data.files import decode
from fastheads.labels import LabelSpace


@pytest.fixture
def options(cache_dir):
    return {"cache_dir": cache_dir, "progress": False, "channels": 1}


def test_digits_as_a_folder(digits, options):
    data = load_folder(digits, size=16, **options)
    assert data.label_space.names == tuple("0123456789") and not data.skipped
    parts = [data.train, data.holdout, data.test]
    assert sum(map(len, parts)) == 400
    assert [len(p) / 400 for p in parts] == pytest.approx([0.7, 0.15, 0.15], abs=0.06)
    rows = [row for part in parts for row in part.rows.tolist()]
    assert sorted(rows) == list(range(400))
    for part in parts:
        images, targets = part.__getitems__(list(range(len(part))))
        assert images.shape == (len(part), 1, 16, 16) and images.dtype == torch.uint8
        assert len(targets.indices.unique()) == 10 and targets.counts.unique().tolist() == [1]
    again = load_folder(digits, size=16, **options)
    assert again.test.rows.tolist() == data.test.rows.tolist()
    other = load_folder(digits, size=16, seed=1, **options)
    assert other.test.rows.tolist() != data.test.rows.tolist()


def test_pictures_are_those_of_their_label(digits, options):
    data = load_folder(digits, size=8, **options)
    files = sorted(digits.glob("*/*.png"))
    for part in (data.train, data.holdout, data.test):
        images, targets = part.__getitems__(list(range(20)))
        for row, image, (label,) in zip(part.rows, images, targets.tolist(), strict=False):
            assert files[row].parent.name == data.label_space.names[label]
            assert np.array_equal(image, decode(files[row], 8, 1))


def test_given_splits_are_kept(digits, tmp_path, options):
    for split, some in (("train", slice(0, 5)), ("val", slice(5, 7)), ("test", slice(7, 10))):
        for label in "012":
            files = sorted((digits / label).iterdir())[some]
            (tmp_path / split / label).mkdir(parents=True)
            for file in files:
                shutil.copy(file, tmp_path / split / label)
    data = load_folder(tmp_path, **options)
    assert [len(data.train), len(data.holdout), len(data.test)] == [15, 6, 9]
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(ValueError, match=r"all of train, holdout, test .*, got test, train"):
        load_folder(tmp_path, **options)
    (tmp_path / "boat").mkdir()  # now they can only be labels
    with pytest.raises(ValueError, match="label 'boat' must have images"):
        load_folder(tmp_path, **options)


def test_unreadable_images_are_skipped_and_named(digits, tmp_path, options):
    shutil.copytree(digits, tmp_path / "root")
    folder = tmp_path / "root" / "3"
    whole = next(folder.iterdir()).read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no image")
    (folder / ".DS_Store").touch()
    for _ in range(2):  # drawn, then from the cache
        data = load_folder(tmp_path / "root", **options)
        names = {path.rsplit("/", 1)[1] for path in data.skipped}
        assert names == {"half.png", "empty.jpg", "notes.txt"} and all(data.skipped.values())
        assert len(data.train) + len(data.holdout) + len(data.test) == 400
        assert "3 unreadable files skipped" in data.summary()


def test_changed_file_is_read_again(digits, tmp_path, options):
    for label in "01":
        shutil.copytree(digits / label, tmp_path / label)
    before = load_folder(tmp_path, **options).train.images[0].copy()
    first = sorted((tmp_path / "0").iterdir())[0]
    Image.new("L", (8, 8), 200).save(first)
    after = load_folder(tmp_path, **options).train.images[0]
    assert (after == 200).all() and (before != 200).any()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_gives_bytes_of_the_right_size(mode, channels, tmp_path):
    Image.new(mode, (40, 20), 1 if mode in "P1" else None).save(tmp_path / "a.png")
    picture = decode(tmp_path / "a.png", 16, channels)
    assert picture.shape == (channels, 16, 16) and picture.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["jpg", "gif", "webp", "png", "bmp", "tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_keeps_the_aspect(suffix, channels, tmp_path):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (40, 20), (200, 200, 200)).save(path)
    picture = decode(path, 16, channels)
    assert (picture[:, :4] == 0).all() and (picture[:, 12:] == 0).all()
    assert abs(picture[:, 4:12].astype(int) - 200).max() <= 4


def test_decode_scales_sixteen_bits_and_turns_by_exif(tmp_path):
    values = np.full((8, 8), 40000, dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert (decode(tmp_path / "deep.png", 8, 1) == 40000 // 256).all()
    tall = Image.new("RGB", (8, 16), (255, 255, 255))
    exif = tall.getexif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    tall.save(tmp_path / "turned.png", exif=exif)
    picture = decode(tmp_path / "turned.png", 16, 1)[0]
    assert picture[:4].max() == 0 and picture[4:12].min() == 255


def test_rejects(digits, tmp_path, options):
    def rejects(message, root, **more):
        with pytest.raises(ValueError, match=message):
            load_folder(root, **options | more)

    rejects("path must be a folder of images, got '.*nowhere'", tmp_path / "nowhere")
    rejects("path must hold one folder a label, got none", tmp_path)
    rejects("channels must be 1 or 3, got 2", digits, channels=2)
    rejects("size must be at least 1 pixel, got 0", digits, size=0)
    known = LabelSpace(tuple("012345678"))
    rejects("label '9' is not among the 9 known labels", digits, label_space=known)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.png").touch()
    rejects("images must be readable, got none that is among 1 files", tmp_path)
    for i in range(3):
        shutil.copy(next((digits / "0").iterdir()), tmp_path / "x" / f"{i}.png")
    rejects("at least 4 readable images, which these lack: x", tmp_path)


def test_known_labels_keep_their_numbers(digits, options):
    known = LabelSpace(("z", *"9876543210"))
    data = load_folder(digits, label_space=known, **options)
    assert data.label_space is known and 0 not in data.train.targets.indices
