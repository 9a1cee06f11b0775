"""The best labels of picture files, whichever way round their ink is."""

import pytest
import torch
from PIL import Image, ImageOps

from fastheads.pipelines.predict import predict, read_image


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, data):
    """Test glyphs as files: as they are, inverted, larger, in colour, with transparency."""
    folder = tmp_path_factory.mktemp("pictures")
    images, _ = data.test.__getitems__(list(range(0, 60, 4)))
    paths = {"light": [], "dark": []}
    for number, image in enumerate(images):
        glyph = Image.fromarray(image[0].numpy())
        for ink, drawn in (("light", glyph), ("dark", ImageOps.invert(glyph))):
            path = folder / f"{number} {ink}.png"
            drawn.save(path)
            paths[ink].append(path)
    return paths, images


def test_best_labels_with_probabilities(finished, full_config, pictures, data):
    paths, images = pictures
    found = predict(paths["light"], full_config.output_dir, top=3, ink="light")
    with torch.no_grad():
        scores = finished.network(full_config.augmentation.normalize(images)).sigmoid()
    assert list(found) == paths["light"]
    for row, labels in zip(scores, found.values(), strict=True):
        best = row.argsort(descending=True)[:3].tolist()
        assert [name for name, _ in labels] == [data.label_space.names[label] for label in best]
        assert [score for _, score in labels] == pytest.approx(row[best].tolist(), abs=1e-5)


def test_dark_on_light_is_light_on_dark(finished, full_config, pictures):
    paths, _ = pictures
    run = full_config.output_dir
    light = list(predict(paths["light"], run).values())
    assert list(predict(paths["dark"], run).values()) == light
    assert list(predict(paths["dark"], run, ink="dark").values()) == light
    assert list(predict(paths["light"], run, ink="light").values()) == light
    assert list(predict(paths["dark"], run, ink="light").values()) != light
    assert len({labels[0][0] for labels in light}) > 1


@pytest.mark.parametrize("ink", ["light", "dark"])
def test_any_mode_and_shape(pictures, tmp_path, ink):
    """A scan in colour, three times as wide as high: the glyph between margins of paper."""
    paths, images = pictures
    small = Image.open(paths[ink][0])
    paper = 255 if ink == "dark" else 0
    wide = Image.new("RGB", (96, 32), (paper,) * 3)
    wide.paste(small.convert("RGB"), (32, 0))
    wide.save(tmp_path / "wide.png")
    read = read_image(tmp_path / "wide.png", (1, 96, 96), "auto")
    assert read.shape == (1, 96, 96) and read.dtype == torch.uint8
    assert torch.equal(read[0, 32:64, 32:64], images[0, 0])
    read[0, 32:64, 32:64] = 0
    assert (read == 0).all()


def test_unreadable_image(finished, full_config, tmp_path):
    for name, content in (("text.png", b"not a picture"), ("missing.png", None)):
        if content:
            (tmp_path / name).write_bytes(content)
        message = f"image must be a readable picture, got .*{name}"
        with pytest.raises(ValueError, match=message) as error:
            predict([tmp_path / name], full_config.output_dir)
        assert "\n" not in str(error.value)


def test_unfinished_run(tmp_path, pictures):
    paths, _ = pictures
    with pytest.raises(ValueError, match=r"run must be a folder of a finished run, got .* without"):
        predict(paths["light"], tmp_path)


@pytest.mark.parametrize("top", [0, 61])
def test_number_of_labels(finished, full_config, pictures, top):
    paths, _ = pictures
    with pytest.raises(ValueError, match=f"top must be 1 to 60, got {top}"):
        predict(paths["light"], full_config.output_dir, top=top)
