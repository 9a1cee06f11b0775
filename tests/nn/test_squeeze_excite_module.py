"""SqueezeExcite against the explicit convolution, by hand, and beside its peers' weights."""

import copy
import io
import math

import numpy as np
import pytest
import torch
import torchvision.models
from timm.layers.squeeze_excite import SEModule, SqueezeExciteCl
from timm.models._efficientnet_blocks import SqueezeExcite as EfficientNetSE
from torch import nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation

from fastheads.nn import SqueezeExcite


def maps(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def explicit(module, x):
    """Section 5.1.1: the 1x1 convolution on every pixel, then the squeeze and the excitation."""
    expanded = module.expand(x) if module.expansion > 1 else x
    squeezed = expanded.mean((2, 3), keepdim=True)
    if module.squeeze == "averaged":
        squeezed = squeezed.unflatten(1, (module.channels, module.expansion)).mean(2)
    inner = {"relu": F.relu, "silu": F.silu, "identity": nn.Identity(), "hard_swish": F.hardswish}
    gate = {"sigmoid": torch.sigmoid, "hard_sigmoid": lambda a: F.relu6(a + 3) / 6}[module.gate]
    return x * gate(module.fc2(inner[module.inner](module.fc1(squeezed))))


def test_by_hand():
    """Means 2 and -1; h = relu(2 * 2 + 1 * -1 - 1) = 2; s = sigmoid(0), sigmoid(ln 3)."""
    module = SqueezeExcite(2, rd_channels=1)
    with torch.no_grad():
        module.fc1.weight.copy_(torch.tensor([2.0, 1.0]).view(1, 2, 1, 1))
        module.fc1.bias.fill_(-1)
        module.fc2.weight.copy_(torch.tensor([0.0, math.log(3) / 2]).view(2, 1, 1, 1))
        module.fc2.bias.zero_()
    x = torch.tensor([[1.0, 3.0], [-2.0, 0.0]]).view(1, 2, 1, 2)
    expected = torch.tensor([[0.5, 1.5], [-1.5, 0.0]]).view(1, 2, 1, 2)
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module(x, torch.ones_like(x), relu=True), (expected + 1).relu())


@pytest.mark.parametrize("squeeze", ["all", "averaged"])
@pytest.mark.parametrize("expansion", [1, 2, 4])
@pytest.mark.parametrize("inner, gate", [("relu", "sigmoid"), ("silu", "hard_sigmoid")])
def test_expansion_is_a_product_of_matrices(expansion, squeeze, inner, gate):
    options = {"expansion": expansion, "squeeze": squeeze, "inner": inner, "gate": gate}
    module = SqueezeExcite(12, 4, **options).double()
    x = maps(3, 12, 5, 4).requires_grad_()
    expected, got = explicit(module, x), module(x)
    torch.testing.assert_close(got, expected)
    weight = maps(*x.shape)
    wanted = [x, *module.parameters()]
    gradients = (torch.autograd.grad((weight * y).sum(), wanted) for y in (expected, got))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-9)  # hard sigmoid: 1/6 in float32
    torch.testing.assert_close(module.merged()(x), expected)
    assert module.merged().expand is None


@pytest.mark.parametrize(
    "channels, reduction, options, width",
    [
        (256, 16, {}, 16),
        (256, 8, {}, 32),
        (256, 32, {}, 8),
        (128, "sqrt", {}, 11),  # sqrt(128) = 11.3
        (128, "log", {}, 4),  # ln(128) = 4.85
        (2, "log", {}, 1),
        (8, 16, {}, 1),
        (256, 16, {"expansion": 2}, 32),
        (256, 16, {"expansion": 2, "squeeze": "averaged"}, 16),
        (256, "sqrt", {"expansion": 4}, 32),
        (256, 16, {"rd_channels": 24, "expansion": 2}, 24),
    ],
)
def test_width(channels, reduction, options, width):
    assert SqueezeExcite(channels, reduction, **options).fc1.out_channels == width


@pytest.mark.parametrize(
    "options, parameters",
    [
        ({"reduction": 16}, 11_327_152),
        ({"reduction": 8}, 11_414_312),
        ({"reduction": 32}, 11_283_572),
        ({"reduction": "sqrt"}, 11_309_226),
        ({"expansion": 2}, 12_893_992),
        ({"expansion": 4}, 14_896_152),
        ({"expansion": 2, "reduction": 32}, 12_763_312),
    ],
)
def test_parameters_of_seresnet18(options, parameters):
    """Section 6.1: SE behind the second norm of every block, 120 classes."""
    with torch.device("meta"):
        model = torchvision.models.resnet18(num_classes=120)
        for block in model.modules():
            if isinstance(block, torchvision.models.resnet.BasicBlock):
                block.bn2 = nn.Sequential(
                    block.bn2, SqueezeExcite(block.bn2.num_features, **options)
                )
    assert sum(p.numel() for p in model.parameters()) == parameters


PEERS = {
    "torchvision": (lambda: SqueezeExcitation(12, 3), ("fc1", "fc2")),
    "timm": (lambda: SEModule(12, rd_channels=3), ("fc1", "fc2")),
    "timm EfficientNet": (
        lambda: EfficientNetSE(12, rd_channels=3),
        ("conv_reduce", "conv_expand"),
    ),
}


@pytest.mark.parametrize("make, names", PEERS.values(), ids=PEERS)
@pytest.mark.parametrize("prefix", ["", "stage.0.se."])
def test_weights_of_peers(make, names, prefix):
    def within(module):
        """At the prefix of a larger network."""
        if not prefix:
            return module
        return nn.ModuleDict({"stage": nn.Sequential(nn.ModuleDict({"se": module}))})

    peer, module, back = make(), SqueezeExcite(12, rd_channels=3), make()
    state = within(peer).state_dict()
    keys = list(state)
    within(module).load_state_dict(state)
    assert list(state) == keys  # the caller's
    x = maps(2, 12, 3, 3, dtype=torch.float32)
    torch.testing.assert_close(module(x), peer(x))
    back.load_state_dict(module.state_dict_for(*names))
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in peer.state_dict().items())


def test_weights_of_linear_layers():
    peer, module = SqueezeExciteCl(12, rd_channels=3), SqueezeExcite(12, rd_channels=3)
    module.load_state_dict(peer.state_dict())
    x = maps(2, 12, 3, 3, dtype=torch.float32)
    torch.testing.assert_close(module(x), peer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_expansion_into_peers():
    """Merged weights; a peer without the expansion computes the same."""
    module, peer = SqueezeExcite(12, 4, expansion=2), SqueezeExcitation(12, 6)
    peer.load_state_dict(module.state_dict_for())
    x = maps(2, 12, 3, 3, dtype=torch.float32)
    torch.testing.assert_close(module(x), peer(x))


def test_own_state_dict():
    module = SqueezeExcite(12, 4, expansion=2, squeeze="averaged", bias=False)
    assert list(module.state_dict()) == ["expand.weight", "fc1.weight", "fc2.weight"]
    other = SqueezeExcite(12, 4, expansion=2, squeeze="averaged", bias=False)
    other.load_state_dict(module.state_dict())
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    x = maps(2, 12, 3, 3, dtype=torch.float32)
    for same in (other, copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert torch.equal(same(x), module(x))


@pytest.mark.parametrize(
    "state, message",
    [
        ({}, "Missing key"),
        ({"fc1.weight": torch.zeros(3, 11)}, "size mismatch"),
        ({"conv_reduce.gamma": torch.zeros(3)}, "Unexpected key"),
    ],
)
def test_wrong_weights_are_errors(state, message):
    with pytest.raises(RuntimeError, match=message):
        SqueezeExcite(12, rd_channels=3).load_state_dict(state)


def test_repr():
    assert repr(SqueezeExcite(64)).startswith(
        "SqueezeExcite(\n  64, rd_channels=4, inner=relu, gate=sigmoid\n"
    )
    text = SqueezeExcite(64, "sqrt", expansion=2, squeeze="averaged", gate="hard_sigmoid")
    assert text.extra_repr() == (
        "64, rd_channels=8, expansion=2, squeeze=averaged, inner=relu, gate=hard_sigmoid"
    )


def exactly(module, x):
    """`explicit` with all numbers wider than float64, so that float64 is judged as well."""

    def wide(tensor):
        return tensor.detach().double().cpu().numpy().astype(np.longdouble)

    def layer(conv, columns):
        bias = 0 if conv.bias is None else wide(conv.bias)
        return columns @ wide(conv.weight.flatten(1)).T + bias

    pixels = wide(x.movedim(1, -1))
    squeezed = layer(module.expand, pixels).mean((1, 2))
    logits = layer(module.fc2, np.maximum(layer(module.fc1, squeezed), 0))
    return wide(x) / (1 + np.exp(-logits))[:, :, None, None]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_layouts(dtype, layout, device):
    """No further from the exact numbers than twice the explicit convolution in the same dtype."""
    torch.manual_seed(0)
    module = SqueezeExcite(16, 4, expansion=2, device=device, dtype=dtype)
    x = maps(2, 16, 5, 3).to(device, dtype).to(memory_format=layout)
    got, plain = module(x), explicit(module, x)
    assert got.dtype == dtype and got.is_contiguous(memory_format=layout)
    exact = exactly(module, x)

    def error(y):
        return np.abs(y.detach().double().cpu().numpy() - exact).max()

    assert error(got) <= 2 * error(plain) + torch.finfo(dtype).eps * np.abs(exact).max()


def test_autocast():
    """Weights of float32 with an expansion and a map of either dtype."""
    module = SqueezeExcite(16, 4, expansion=2)
    x = maps(2, 16, 5, 3, dtype=torch.float32)
    exact = explicit(module, x)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            y = module(x.to(dtype))
            assert y.dtype == dtype
            torch.testing.assert_close(y.float(), exact, rtol=0.02, atol=0.02)


def test_gradcheck():
    module = SqueezeExcite(4, 2, expansion=2, squeeze="averaged", inner="silu").double()
    x, residual = (maps(2, 4, 2, 3).requires_grad_() for _ in range(2))
    names = [name for name, _ in module.named_parameters()]

    def call(x, residual, *tensors):
        state = dict(zip(names, tensors, strict=True))
        return torch.func.functional_call(module, state, (x, residual))

    assert torch.autograd.gradcheck(call, (x, residual, *module.parameters()))


@pytest.mark.parametrize("expansion", [1, 2])
def test_compile(expansion):
    module = SqueezeExcite(16, 4, expansion=expansion)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = maps(2, 16, 5, 3, dtype=torch.float32).requires_grad_()
    torch.testing.assert_close(compiled(x, x, relu=True), module(x, x, relu=True))
    compiled(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_numbers_of_numpy():
    module = SqueezeExcite(np.int64(8), np.int64(2), expansion=np.int32(2))
    assert repr(module) == repr(SqueezeExcite(8, 2, expansion=2))
    assert type(module.channels) is int and module(maps(2, 8, 3, 3).float()).shape == (2, 8, 3, 3)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((0,), {}, "channels must be at least 1, got 0"),
        ((8,), {"expansion": 0}, "expansion must be at least 1, got 0"),
        ((8, 0), {}, "reduction must be a whole number of at least 1, sqrt or log, got 0"),
        (
            (8, "cbrt"),
            {},
            "reduction must be a whole number of at least 1, sqrt or log, got 'cbrt'",
        ),
        ((8, 2.5), {}, "^reduction must be a whole number of at least 1, sqrt or log, got 2.5$"),
        ((8.0,), {}, "^channels must be a whole number, got 8.0$"),
        ((8,), {"expansion": 1.5}, "^expansion must be a whole number, got 1.5$"),
        ((8,), {"rd_channels": 2.5}, "^rd_channels must be a whole number, got 2.5$"),
        ((8,), {"rd_channels": 0}, "rd_channels must be at least 1, got 0"),
        ((8,), {"squeeze": "half"}, "squeeze must be one of all, averaged, got 'half'"),
        (
            (8,),
            {"inner": "gelu"},
            "inner must be one of relu, silu, identity, hard_swish, got",
        ),
        ((8,), {"gate": "tanh"}, "gate must be one of sigmoid, hard_sigmoid, got 'tanh'"),
    ],
)
def test_rejects(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        SqueezeExcite(*arguments, **options)
