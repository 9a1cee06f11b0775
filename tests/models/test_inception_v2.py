"""The base networks of paper 002: layer by layer as in slim, whose source has the sizes."""

import pytest
import torch
from torch import nn

from fastheads.metrics import count_macs, count_parameters
from fastheads.models import inception_v2
from fastheads.nn import Standardize

# Of each layer the shape that it reads, its weights at the resolution that it reads, and those at
# half of it: 1x1 branches, then the branch of one 3x3, then that of two, then the pool's.
LAYERS = {
    "conv_1a": ((3, 224), 0, 24 * 49 + 24 * 64),
    "conv_2b": ((64, 56), 64 * 64, 0),
    "conv_2c": ((64, 56), 9 * 64 * 192, 0),
    "mixed_3b": (
        (192, 28),
        192 * 64 + (192 * 64 + 9 * 64 * 64) + (192 * 64 + 9 * 64 * 96 + 9 * 96 * 96) + 192 * 32,
        0,
    ),
    "mixed_3c": (
        (256, 28),
        256 * 64 + (256 * 64 + 9 * 64 * 96) + (256 * 64 + 9 * 64 * 96 + 9 * 96 * 96) + 256 * 64,
        0,
    ),
    "mixed_4a": (
        (320, 28),
        320 * 128 + (320 * 64 + 9 * 64 * 96),
        9 * 128 * 160 + 9 * 96 * 96,
    ),
    "mixed_4b": (
        (576, 14),
        576 * 224 + (576 * 64 + 9 * 64 * 96) + (576 * 96 + 9 * 96 * 128 + 9 * 128**2) + 576 * 128,
        0,
    ),
    "mixed_4c": (
        (576, 14),
        576 * 192 + (576 * 96 + 9 * 96 * 128) + (576 * 96 + 9 * 96 * 128 + 9 * 128**2) + 576 * 128,
        0,
    ),
    "mixed_4d": (
        (576, 14),
        576 * 160 + (576 + 9 * 160) * 128 + (576 * 128 + 9 * 128 * 160 + 9 * 160**2) + 576 * 96,
        0,
    ),
    "mixed_4e": (
        (576, 14),
        576 * 96 + (576 + 9 * 192) * 128 + (576 * 160 + 9 * 160 * 192 + 9 * 192**2) + 576 * 96,
        0,
    ),
    "mixed_5a": (
        (576, 14),
        576 * 128 + (576 * 192 + 9 * 192 * 256),
        9 * 128 * 192 + 9 * 256**2,
    ),
    "mixed_5b": (
        (1024, 7),
        1024 * 352
        + (1024 + 9 * 320) * 192
        + (1024 * 160 + 9 * 160 * 224 + 9 * 224**2)
        + 1024 * 128,
        0,
    ),
    "mixed_5c": (
        (1024, 7),
        1024 * 352
        + (1024 + 9 * 320) * 192
        + (1024 * 192 + 9 * 192 * 224 + 9 * 224**2)
        + 1024 * 128,
        0,
    ),
}


def conv_weights(network):
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d))


@pytest.fixture(scope="module")
def network():
    return inception_v2().eval()


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer(network, name):
    (channels, side), weights, half = LAYERS[name]
    layer = network.get_submodule(name)
    assert conv_weights(layer) == weights + half
    macs = count_macs(layer, torch.zeros(1, channels, side, side))
    assert macs == weights * side**2 + half * (side // 2) ** 2


def test_is_the_one_of_the_paper(network):
    """Section 4.1; the separable first layer as in table 1 of GoogLeNet, 2.7K and 34M."""
    assert conv_weights(network.conv_1a) == 2712
    images = torch.zeros(1, 3, 224, 224)
    assert count_macs(network.conv_1a, images) == 34_019_328
    assert conv_weights(network) == 10_143_384
    norms = sum(2 * m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert count_parameters(network) == 10_143_384 + norms  # no biases
    assert count_macs(network, images) == 1_933_833_216
    sizes = {}
    with torch.no_grad():
        for name, layer in network.named_children():
            images = layer(images)
            sizes[name] = tuple(images.shape[1:])
    assert sizes == {
        "conv_1a": (64, 112, 112),
        "pool_2a": (64, 56, 56),
        "conv_2b": (64, 56, 56),
        "conv_2c": (192, 56, 56),
        "pool_3a": (192, 28, 28),
        "mixed_3b": (256, 28, 28),
        "mixed_3c": (320, 28, 28),
        "mixed_4a": (576, 14, 14),
        **{f"mixed_4{block}": (576, 14, 14) for block in "bcde"},
        **{f"mixed_5{block}": (1024, 7, 7) for block in "abc"},
        "pool": (1024, 3, 3),
    }


def test_smaller_cut_is_the_beginning():
    """Section 4.2: a 28x28 map of 256 channels, pooled."""
    network = inception_v2("mixed_3").eval()
    assert [name for name, _ in network.named_children()][-2:] == ["mixed_3b", "pool"]
    assert conv_weights(network) == 335_512
    assert count_macs(network, torch.zeros(1, 3, 224, 224)) == 564_680_704
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features = network(images)
        for layer in list(network)[:-1]:
            images = layer(images)
    assert images.shape == (2, 256, 28, 28) and network.feature_shape == (256, 1, 1)
    torch.testing.assert_close(features.flatten(1), images.mean((2, 3)))


def test_mean_pools_windows_of_3x3(network):
    x = torch.randn(2, 8, 7, 7)
    torch.testing.assert_close(network.pool(x), nn.AvgPool2d(3, stride=2)(x))


@pytest.mark.parametrize(("cut", "least"), [("mixed_5c", 65), ("mixed_3", 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_gives_as_many_features(cut, least, channels):
    network = inception_v2(cut, channels).eval()
    count = {"mixed_5c": 9216, "mixed_3": 256}[cut]
    for height, width in [(least, least), (97, 130)]:
        with torch.no_grad():
            features = network(torch.randn(2, channels, height, width))
        assert features.shape == (2, *network.feature_shape)
        assert features.flatten(1).shape == (2, count)
    for shape in [(least - 1, 224), (224, least - 1)]:
        with pytest.raises(ValueError, match=f"images must be at least {least} pixels .*{cut}"):
            network(torch.zeros(1, channels, *shape))


def test_trains_and_evaluates():
    network = inception_v2("mixed_3", 1)
    top = nn.Sequential(network, Standardize(256), nn.Flatten(), nn.Linear(256, 3))
    images = torch.randn(4, 1, 32, 32)
    top(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    network.eval()
    once = network(images)
    torch.testing.assert_close(network(images[:1]), once[:1])
    assert (network.train()(images) - once).abs().max() > 0.01  # statistics of the batch


def test_compiles():
    network = inception_v2("mixed_3", 1).eval()
    images = torch.randn(2, 1, 32, 32)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), network(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: inception_v2("mixed_4e"), "cut must be one of mixed_3, mixed_5c, got 'mixed_4e'"),
        (lambda: inception_v2(in_channels=0), "in_channels must be at least 1, got 0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
