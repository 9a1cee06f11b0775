import dataclasses

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from fastheads.data import Augmentation, Normalize, eval_transform

STILL = Augmentation(degrees=0, translate=0, scale=(1.0, 1.0), shear=0, blur=0, contrast=0, noise=0)


def pictures(count=8, channels=1, height=32, width=32):
    generator = torch.Generator().manual_seed(1)
    shape = (count, channels, height, width)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def augment(augmentation, images, seed=0):
    return augmentation(images, torch.Generator().manual_seed(seed))


def test_eval_transform_normalizes():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    out = eval_transform(images)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.flatten(), torch.tensor([-1.0, -0.6, 1.0]))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = pictures(channels=3)
    expected = tv.normalize(tv.to_dtype(images, torch.float32, scale=True), mean, std)
    torch.testing.assert_close(Normalize(mean, std)(images), expected)


def test_normalize_is_inverted():
    images = pictures(channels=3)
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = tv.to_dtype(images, torch.float32, scale=True)
    torch.testing.assert_close(normalize.invert(normalize(images)), expected)


def test_nothing_asked_changes_nothing():
    images = pictures(channels=3, height=24)
    torch.testing.assert_close(augment(STILL, images), eval_transform(images), atol=1e-4, rtol=0)


def test_result_follows_the_generator_alone():
    images = pictures()
    first = augment(Augmentation(), images)
    torch.manual_seed(7)
    assert torch.equal(augment(Augmentation(), images), first)
    assert not torch.equal(augment(Augmentation(), images, seed=1), first)
    assert first.shape == images.shape and first.abs().max() < 1.0001


def test_flip():
    images = pictures(64)
    all_mirrored = augment(dataclasses.replace(STILL, flip=1.0), images)
    torch.testing.assert_close(all_mirrored, eval_transform(images.flip(3)), atol=1e-4, rtol=0)
    half = augment(dataclasses.replace(STILL, flip=0.5), images)
    mirrored = (half - all_mirrored).abs().amax((1, 2, 3)) < 1e-3
    plain = (half - eval_transform(images)).abs().amax((1, 2, 3)) < 1e-3
    assert torch.equal(mirrored, ~plain) and 16 < mirrored.sum() < 48


def test_each_picture_draws_its_own_parameters():
    images = pictures(1).expand(16, -1, -1, -1)
    for name in ("degrees", "translate", "shear", "blur", "contrast", "noise"):
        one = dataclasses.replace(STILL, **{name: getattr(Augmentation(), name)})
        assert len({picture.numpy().tobytes() for picture in augment(one, images)}) == 16, name
    one = dataclasses.replace(STILL, scale=(0.7, 1.3))
    assert len({picture.numpy().tobytes() for picture in augment(one, images)}) == 16


@pytest.mark.parametrize(("height", "width"), [(33, 33), (25, 41)])
def test_affine_matches_torchvision(height, width):
    """The map that one picture drew, given to torchvision, gives the same picture."""
    images = tv.gaussian_blur(pictures(1, height=height, width=width), [7, 7], [2.0, 2.0])
    augmentation = dataclasses.replace(STILL, degrees=25, translate=0.1, scale=(0.8, 1.3))
    draws = torch.rand(8, 1, generator=torch.Generator().manual_seed(3))[:, 0].tolist()
    angle = 25 * (2 * draws[0] - 1)
    scale = 0.8 * (1.3 / 0.8) ** draws[2]
    out = augment(augmentation, images, seed=3) * 127.5 + 127.5
    # grid_sample shifts before it rotates, torchvision after: turn the shift along.
    shift = torch.tensor([-width * 0.1 * (2 * draws[3] - 1), -height * 0.1 * (2 * draws[4] - 1)])
    turn = torch.deg2rad(torch.tensor(angle))
    cos, sin = turn.cos(), turn.sin()
    dx, dy = cos * shift[0] + sin * shift[1], -sin * shift[0] + cos * shift[1]
    expected = tv.affine(
        images.float(),
        angle=-angle,
        translate=[float(dx) * scale, float(dy) * scale],
        scale=scale,
        shear=[0.0, 0.0],
        interpolation=tv.InterpolationMode.BILINEAR,
    )
    inside = (..., slice(9, -9), slice(9, -9))
    assert (out[inside] - expected[inside]).abs().max() < 12  # translate is rounded to pixels there
    assert (out[inside] - expected[inside]).abs().mean() < 3
    still = (images.float()[inside] - expected[inside]).abs().mean()
    assert still > 6  # the map moved something


def test_contrast_keeps_the_mean_and_noise_adds_its_deviation():
    images = torch.full((64, 1, 32, 32), 128, dtype=torch.uint8)
    images[..., :16] = 100
    out = augment(dataclasses.replace(STILL, contrast=0.5), images)
    assert (out.mean((1, 2, 3)) - eval_transform(images).mean((1, 2, 3))).abs().max() < 1e-4
    ratio = out.std((1, 2, 3)) / eval_transform(images).std((1, 2, 3))
    assert 0.5 <= ratio.min() < 0.7 and 1.3 < ratio.max() <= 1.5
    flat = torch.full((64, 1, 32, 32), 128, dtype=torch.uint8)
    deviation = augment(dataclasses.replace(STILL, noise=0.1), flat).std((1, 2, 3)) / 2
    assert deviation.min() < 0.02 and 0.08 < deviation.max() < 0.105


def test_padding():
    images = torch.full((16, 1, 32, 32), 255, dtype=torch.uint8)
    moved = dataclasses.replace(STILL, translate=0.3)
    assert augment(moved, images).min() == -1
    assert augment(dataclasses.replace(moved, padding="border"), images).min() > 0.99


def test_rejects():
    generator = torch.Generator()
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, C, H, W\], got torch.float32"):
        STILL(torch.zeros(1, 1, 8, 8), generator)
    for options, message in [
        ({"scale": (0.0, 1.0)}, "scale must be positive"),
        ({"blur": 2.0}, "blur must be at least 0 and at most 1, got 2.0"),
        ({"flip": -0.5}, "flip must be at least 0 and at most 1, got -0.5"),
        ({"contrast": 5.0}, "contrast must be at least 0 and at most 1, got 5.0"),
        ({"noise": -1.0}, "noise must be at least 0, got -1.0"),
        ({"shear": 90.0}, "shear must be at least 0 and below 90, got 90.0"),
        ({"padding": "wrap"}, "padding must be .* got 'wrap'"),
    ]:
        with pytest.raises(ValueError, match=message):
            Augmentation(**options)
    with pytest.raises(ValueError, match="std must be above 0"):
        Normalize(std=(0.0,))
    for name in ("mean", "std"):
        with pytest.raises(ValueError, match=f"{name} must hold at least one number"):
            Normalize(**{name: ()})
        for channels in (1, 3):
            Normalize().check_channels(channels)
            with pytest.raises(ValueError, match=f"{name} must hold one number .* each of the"):
                Normalize(**{name: (0.1, 0.2)}).check_channels(channels)
    assert augment(Augmentation(), pictures(0)).shape == (0, 1, 32, 32)
