"""VGG-15 and VGG-16: their layers, and what they compute."""

import pytest
import torch
import torchvision.models
from torch import nn
from torch.nn import functional as F

from fastheads.metrics import count_parameters
from fastheads.models import vgg15, vgg16
from fastheads.models.vgg import Layer
from fastheads.nn import plain_layers


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


@pytest.mark.parametrize(("norm", "count"), [(False, 138_357_544), (True, 138_365_992)])
def test_vgg16_is_torchvisions(norm, count):
    """Section 2.1.2 of Huang, 2019: 3x3 convolutions, 16 layers; the names of torchvision."""
    with torch.device("meta"):
        model = vgg16(norm=norm)
        theirs = torchvision.models.vgg16_bn() if norm else torchvision.models.vgg16()
        assert model(torch.empty(2, 3, 33, 70)).shape == (2, 1000)
    shapes = [{name: t.shape for name, t in m.state_dict().items()} for m in (model, theirs)]
    assert shapes[0] == shapes[1] and count_parameters(model) == count
    kernels = [m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(3, 3)] * 13


def test_vgg16_of_other_channels():
    with torch.device("meta"):
        model = vgg16(7, 1)
        assert model(torch.empty(2, 1, 32, 32)).shape == (2, 7)


def test_vgg16_for_small_pictures():
    model = vgg16(7, 1, small=True, width=4, dropout=0.0)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    widths = [4] * 2 + [8] * 2 + [16] * 3 + [32] * 6
    assert [c.out_channels for c in convolutions] == widths
    assert [c.in_channels for c in convolutions] == [1, *widths[:-1]]
    assert model(torch.randn(2, 1, 16, 21)).shape == (2, 7)
    assert len(plain_layers(model)) == 9
    before = [1, *widths[:-1]]
    inside = sum(9 * i * o + 2 * o for i, o in zip(before, widths, strict=True))
    assert count_parameters(model) == inside + 32 * 7 + 7


def test_vgg16_for_small_pictures_trains():
    torch.manual_seed(0)
    model = vgg16(3, 2, small=True, width=4)
    rates = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    x, labels = torch.randn(12, 2, 16, 16), torch.arange(12) % 3
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(model(x), labels)
        rates.zero_grad()
        loss.backward()
        rates.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda: vgg15(3, width=2), 16),
        (lambda: vgg16(3, small=True, width=2), 16),
        (lambda: vgg16(3), 32),
    ],
)
def test_pictures_too_small(make, least):
    with torch.device("meta"):
        model = make().eval()
        model(torch.empty(1, 3, least, least))
        message = (
            f"images must be at least {least} pixels high and wide .* got \\({least - 1}, 64\\)"
        )
        with pytest.raises(ValueError, match=message):
            model(torch.empty(1, 3, least - 1, 64))


@pytest.mark.parametrize("options", [{"num_labels": 0}, {"in_channels": 0}, {"width": 0}])
def test_vgg16_rejects(options):
    with pytest.raises(ValueError, match="must be positive, got"):
        vgg16(**options)
