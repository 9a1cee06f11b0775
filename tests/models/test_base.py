"""The base network: shapes, and logistic units that start out saying no."""

import pytest
import torch
from torch import nn

from fastheads.models import BaseConfig, BaseNetwork, logistic_units
from fastheads.nn import Standardize


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 16, 48), (1, 17, 16)])
def test_shapes(shape):
    network = BaseNetwork(shape, 11, BaseConfig((4, 6, 8, 5), (9, 7))).eval()
    images = torch.randn(3, *shape)
    assert network(images).shape == (3, 11)
    features = network.trunk(images)
    assert features.shape[1:] == network.feature_shape == (5, shape[1] // 16, shape[2] // 16)
    hidden = network.stack(features)
    assert hidden.shape == (3, 7)
    torch.testing.assert_close(network.classifier(hidden), network(images))


def test_is_a_trunk_a_stack_of_relu_and_logistic_units():
    network = BaseNetwork((1, 32, 32), 11, BaseConfig((4, 6), (9, 7)))
    kinds = [type(layer) for layer in network.trunk]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d] * 2
    assert [type(layer) for layer in network.stack] == [
        Standardize,
        nn.Flatten,
        *[nn.Linear, nn.ReLU] * 2,
    ]
    assert (network.stack(network.trunk(torch.randn(2, 1, 32, 32))) >= 0).all()


@pytest.mark.parametrize("labels", [1, 2, 1000])
def test_bias_says_one_label_in_many(labels):
    """With hidden units at 0, the probabilities sum to 1, and to 1/2 for a single label."""
    probabilities = logistic_units(5, labels)(torch.zeros(1, 5)).sigmoid()
    torch.testing.assert_close(probabilities.sum().item(), 1.0 if labels > 1 else 0.5)


def test_memory_format_does_not_matter():
    network = BaseNetwork((3, 32, 32), 5, BaseConfig((4,), (6,))).eval()
    images = torch.randn(2, 3, 32, 32)
    again = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(again), network(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BaseConfig(channels=()), r"channels must hold at least one width.*got \(\)"),
        (lambda: BaseConfig(hidden=(8, 0)), r"hidden must hold .* each above 0, got \(8, 0\)"),
        (
            lambda: BaseNetwork((1, 8, 32), 5, BaseConfig()),
            r"image_shape must be at least 16 pixels .* 4 trunk blocks, got \(1, 8, 32\)",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
