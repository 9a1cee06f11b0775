"""VGG-15: its layers, and what it computes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastheads.models import vgg15
from fastheads.models.vgg import Layer


def test_fifteen_layers_of_one_width():
    model = vgg15(7, in_channels=1)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(convolutions) + len(linear) == 15 and len(linear) == 1
    assert {c.out_channels for c in convolutions} == {128}
    assert [c.in_channels for c in convolutions] == [1] + [128] * 13
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 4


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (33, 49)])
def test_any_size(size):
    model = vgg15(5, in_channels=2, width=3)
    assert model(torch.randn(2, 2, *size)).shape == (2, 5)


def test_layer_by_hand():
    """Equation 4.7: norm and ReLU follow the convolution."""
    torch.manual_seed(0)
    layer = Layer(2, 3).double().eval()
    layer.norm.running_mean.normal_()
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    f = F.conv2d(x, layer.conv.weight, padding=1)
    expected = ((f - layer.norm.running_mean.view(-1, 1, 1)) / (1 + 1e-5) ** 0.5).clamp(min=0)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("arguments", [(0,), (3, 0), (3, 1, 0)])
def test_rejects(arguments):
    with pytest.raises(ValueError, match="must be positive, got"):
        vgg15(*arguments)
