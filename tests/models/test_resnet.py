"""Residual networks: their shapes, what they compute, what they cost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fastheads.metrics.cost import count_macs
from fastheads.models import PadShortcut, Residual, imagenet_resnet, resnet, resnet110
from fastheads.models.resnet import Projection


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_pad_shortcut_by_hand():
    x = torch.arange(1.0, 10).view(1, 1, 3, 3)
    y = PadShortcut(2, 1)(x)
    assert y.tolist() == [[[[1, 3], [7, 9]], [[0, 0], [0, 0]]]]


@given(
    st.integers(0, 3), st.integers(0, 4), st.integers(1, 7), st.integers(1, 7), st.integers(1, 3),
    st.integers(0, 5),
)  # fmt: skip
def test_pad_shortcut_any_shape(count, channels, height, width, stride, extra):
    x = torch.randn(count, channels, height, width)
    y = PadShortcut(stride, extra)(x)
    picked = x[:, :, torch.arange(0, height, stride)][..., torch.arange(0, width, stride)]
    zeros = torch.zeros(count, extra, *picked.shape[2:])
    assert torch.equal(y, torch.cat([picked, zeros], 1))


@pytest.mark.parametrize(("relu", "expected"), [(True, [0, 3]), (False, [-3, 3])])
def test_residual_by_hand(relu, expected):
    """Equation 4.1 with y = -1 and 1 and f(y) = 2 y; and with the paths exchanged."""
    double = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(double.weight, 2)
    x = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    assert Residual(double, relu=relu)(x).flatten().tolist() == expected
    assert Residual(nn.Identity(), double, relu=relu)(x).flatten().tolist() == expected


def test_resnet_written_out():
    """A post-activation network of one block a stage, layer by layer."""
    torch.manual_seed(0)
    model = resnet((1, 1), (4, 6), num_labels=3, in_channels=2).double().eval()
    x = torch.randn(3, 2, 9, 7, dtype=torch.float64)
    state = model.state_dict()

    def convolution(x, name, stride=1):
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=1)

    def norm(x, name):
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])

    y = norm(convolution(x, "stem.0"), "stem.1").relu()
    for stage, stride in ((0, 1), (1, 2)):
        branch = f"stages.{stage}.0.branch"
        f = norm(convolution(y, f"{branch}.0", stride), f"{branch}.1").relu()
        f = norm(convolution(f, f"{branch}.3"), f"{branch}.4")
        if stride == 2:
            y = torch.cat([y[:, :, ::2, ::2], torch.zeros_like(f[:, :2])], 1)
        y = (y + f).relu()
    expected = y.mean((2, 3)) @ state["classifier.weight"].T + state["classifier.bias"]
    torch.testing.assert_close(model(x), expected)


def test_preactivation_order():
    """Equation 4.2: norm and ReLU before each convolution, and behind the last sum."""
    model = resnet((1,), (4,), num_labels=3, preactivation=True)
    block = model.stages[0][0]
    kinds = [type(layer) for layer in block.branch]
    assert kinds == [nn.BatchNorm2d, nn.ReLU, nn.Conv2d] * 2
    assert not block.relu and block.shortcut is None
    assert isinstance(model.stem, nn.Conv2d)
    assert [type(layer) for layer in model.norm] == [nn.BatchNorm2d, nn.ReLU]


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("shortcut", ["pad", "projection"])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_resnet_trains(preactivation, shortcut, stem_stride):
    options = dict(preactivation=preactivation, shortcut=shortcut, stem_stride=stem_stride)
    model = resnet((1, 2), (4, 8), num_labels=3, in_channels=1, **options)
    logits = model(torch.randn(2, 1, 12, 13))
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    size = {}
    model.stages.register_forward_hook(lambda m, x, y: size.update(shape=tuple(y.shape)))
    model(torch.randn(2, 1, 12, 13))
    assert size["shape"] == ((2, 8, 6, 7) if stem_stride == 1 else (2, 8, 3, 4))


def test_projection_widens_without_a_stride():
    model = resnet((1, 1), (4, 4), num_labels=3, shortcut="projection")
    assert model.stages[0][0].shortcut is None
    assert model.stages[1][0].shortcut[0].stride == (2, 2)


@pytest.mark.parametrize("preactivation", [False, True])
def test_resnet110(preactivation):
    with torch.device("meta"):
        model = resnet110(preactivation=preactivation)
        macs = count_macs(model, torch.empty(1, 3, 32, 32))
    assert round(macs / 1e9, 4) == 0.2529
    assert sum(isinstance(m, Residual) for m in model.modules()) == 54
    if not preactivation:
        assert parameters(model) == 1_727_962
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(
    ("depth", "stride_in", "count", "macs"),
    [
        (50, "1x1", 25_557_032, 3.858),
        (50, "3x3", 25_557_032, 4.089),
        (101, "1x1", 44_549_160, 7.570),
        (101, "3x3", 44_549_160, 7.801),
    ],
)
def test_imagenet_resnet(depth, stride_in, count, macs):
    with torch.device("meta"):
        model = imagenet_resnet(depth, stride_in=stride_in)
        assert round(count_macs(model, torch.empty(1, 3, 224, 224)) / 1e9, 3) == macs
    assert parameters(model) == count


def test_channels_last():
    model = resnet((1, 1), (4, 8), num_labels=3)
    seen = []
    for block in model.stages:
        block.register_forward_hook(lambda m, x, y: seen.append(y))
    model(torch.randn(2, 3, 8, 8))
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": ()}, "one number a stage"),
        ({"blocks": (1, 1), "widths": (4,)}, r"one number a stage, got \(1, 1\) and \(4,\)"),
        ({"blocks": (0, 1, 1)}, "must be positive"),
        ({"num_labels": 0}, "must be positive"),
        ({"shortcut": "none"}, "'pad' or 'projection', got 'none'"),
        ({"blocks": (1, 1), "widths": (8, 4)}, "widths must not fall"),
    ],
)
def test_resnet_rejects(options, message):
    with pytest.raises(ValueError, match=message):
        resnet(**{"num_labels": 3, **options})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((34,), "50 or 101, got 34"), ((50, 10, "5x5"), "'1x1' or '3x3', got '5x5'")],
)
def test_imagenet_resnet_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        imagenet_resnet(*arguments)


@pytest.mark.parametrize("channels", [4, 16])
def test_projection_is_a_strided_convolution(channels):
    """Of few channels too, forward and backward, odd batches and sizes."""
    torch.manual_seed(0)
    projection = Projection(channels, 8, 2).double()
    x = torch.randn(3, channels, 9, 7, dtype=torch.float64, requires_grad=True)
    grads = []
    for y in (projection(x), torch.nn.functional.conv2d(x, projection.weight, stride=2)):
        assert y.shape == (3, 8, 5, 4)
        grads.append((y, *torch.autograd.grad(y.square().sum(), (x, projection.weight))))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)
