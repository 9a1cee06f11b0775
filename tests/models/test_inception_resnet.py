"""Inception-ResNet: widths that the paper gives and those that follow, modules, sizes."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fastheads.metrics import count_parameters
from fastheads.models import Residual, SEResidual, inception_resnet
from fastheads.models.inception_resnet import _shared
from fastheads.nn import SqueezeExcite, residual_blocks

SCALED = {"96": (96, 288, 576), "48": (48, 144, 288)}
TINY = {"channels": (12, 36, 67), "blocks": (1, 1, 1), "num_labels": 3, "in_channels": 2}


def tiny(**options):
    torch.manual_seed(0)
    return inception_resnet(**{**TINY, "stem": "resnet", "small": True, **options})


def images(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def on_meta(*arguments, **options):
    with torch.device("meta"):
        return inception_resnet(*arguments, **options)


def convolutions(module):
    """Channels in and out and size of each, in the order of the branches."""
    return [
        (m.in_channels, m.out_channels, *m.kernel_size)
        for m in module.modules()
        if isinstance(m, nn.Conv2d) and m.bias is None
    ]


def test_sections_of_the_full_form():
    """Section 4.3: 300x300 to 384 channels; 4 modules, 1152; 7 modules, 2144; 3 modules; 512."""
    model = on_meta(num_labels=120)
    shapes = [tuple(model.stem(torch.empty(1, 3, 300, 300, device="meta")).shape)]
    for stage in model.stages:
        shapes.append(tuple(stage(torch.empty(shapes[-1], device="meta")).shape))
    assert [shape[1:3] for shape in shapes] == [
        *((384, 35), (384, 35), (1152, 17), (1152, 17), (2144, 8), (2144, 8), (512, 8))
    ]
    assert [len(model.stages[i]) for i in (0, 2, 4)] == [4, 7, 3]
    assert (model.classifier.in_features, model.classifier.out_features) == (512, 120)
    assert model(torch.empty(2, 3, 300, 300, device="meta")).shape == (2, 120)


def test_modules_of_the_full_form():
    """Figure 10: kinds and order of the filters; Inception-ResNet-v2's widths."""
    a, b, c = (on_meta().stages[i][0] for i in (0, 2, 4))
    assert convolutions(a) == [
        (384, 32, 1, 1),
        *((384, 32, 1, 1), (32, 32, 3, 3)),
        *((384, 32, 1, 1), (32, 48, 3, 3), (48, 64, 3, 3)),
        (128, 384, 1, 1),
    ]
    assert convolutions(b) == [
        (1152, 192, 1, 1),
        *((1152, 128, 1, 1), (128, 160, 1, 7), (160, 192, 7, 1)),
        (384, 1152, 1, 1),
    ]
    assert convolutions(c) == [
        (2144, 192, 1, 1),
        *((2144, 192, 1, 1), (192, 224, 1, 3), (224, 256, 3, 1)),
        (448, 2144, 1, 1),
    ]


def test_reductions_and_stem_of_the_full_form():
    """What the max-pool passes on and the branches add is 1152 and 2144 (section 4.3)."""
    model = on_meta()
    first, second = model.stages[1], model.stages[3]
    assert [c[1] for c in convolutions(first)] == [384, 256, 256, 384]
    assert [c[1] for c in convolutions(second)] == [256, 384, 256, 288, 256, 288, 320]
    assert 384 + 384 + 384 == 1152 and 1152 + 384 + 288 + 320 == 2144
    assert convolutions(model.stem) == [
        *((3, 32, 3, 3), (32, 32, 3, 3), (32, 64, 3, 3), (64, 96, 3, 3)),
        *((160, 64, 1, 1), (64, 96, 3, 3)),
        *((160, 64, 1, 1), (64, 64, 7, 1), (64, 64, 1, 7), (64, 96, 3, 3)),
        (192, 192, 3, 3),
    ]


def expected_parameters(channels, blocks, labels, a, b, c, first, second):
    """Of a form with the ResNet-like stem, written out; widths by branch."""

    def layer(inside, outside, size=1):
        return inside * outside * size + 2 * outside

    total = layer(3, 64, 49)
    w = channels[0]  # section 6.2.2: a block of two layers, 64 to the first width
    total += layer(64, w, 9) + layer(w, w, 9) + layer(64, w)
    total += 2 * w * (w // 16) + w + w // 16
    x = channels[0]
    module = layer(x, a[0]) + layer(x, a[1]) + layer(a[1], a[2], 9)
    module += layer(x, a[3]) + layer(a[3], a[4], 9) + layer(a[4], a[5], 9)
    total += blocks[0] * (module + layer(a[0] + a[2] + a[5], x))
    total += layer(x, first[0], 9)
    total += layer(x, first[1]) + layer(first[1], first[2], 9) + layer(first[2], first[3], 9)
    x = channels[1]
    module = layer(x, b[0]) + layer(x, b[1]) + layer(b[1], b[2], 7) + layer(b[2], b[3], 7)
    total += blocks[1] * (module + layer(b[0] + b[3], x))
    for narrow, *wide in second:
        total += layer(x, narrow)
        for width in wide:
            total += layer(narrow, width, 9)
            narrow = width
    x = channels[2]
    module = layer(x, c[0]) + layer(x, c[1]) + layer(c[1], c[2], 3) + layer(c[2], c[3], 3)
    total += blocks[2] * (module + layer(c[0] + c[3], x))
    return total + layer(x, 512) + 512 * labels + labels


@pytest.mark.parametrize(
    ("channels", "widths", "count"),
    [
        (
            (96, 288, 576),
            {
                "a": (8, 8, 8, 8, 12, 16),
                "b": (48, 32, 40, 48),
                "c": (52, 52, 60, 69),
                "first": (96, 64, 64, 96),
                "second": ((64, 111), (64, 84), (64, 72, 93)),
            },
            1_437_298,
        ),
        (
            (48, 144, 288),
            {
                "a": (4, 4, 4, 4, 6, 8),
                "b": (24, 16, 20, 24),
                "c": (26, 26, 30, 34),
                "first": (48, 32, 32, 48),
                "second": ((32, 56), (32, 42), (32, 36, 46)),
            },
            504_131,
        ),
    ],
    ids=["96", "48"],
)
def test_scaled_forms(channels, widths, count):
    """Section 6.2: two modules a section, all other widths in proportion."""
    model = on_meta(channels, (2, 2, 2), 120, stem="resnet")
    assert count_parameters(model) == count
    assert count == expected_parameters(channels, (2, 2, 2), 120, **widths)
    outputs = [tuple(stage[-1].branch[-1].weight.shape) for stage in model.stages[:5:2]]
    assert outputs == [(c,) for c in channels]


def test_parameters_of_the_full_form():
    assert count_parameters(on_meta(num_labels=120)) == 23_634_520


def test_resnet_like_stem():
    """Section 6.2.2: 7x7 of stride 2 to 64, ReLU, max-pool, and an SE block from 64 to 96."""
    stem = on_meta(SCALED["96"], (2, 2, 2), stem="resnet").stem
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, SEResidual]
    assert [type(layer) for layer in stem] == kinds
    assert convolutions(stem[0]) == [(3, 64, 7, 7)] and stem[0].stride == (2, 2)
    assert convolutions(stem[4].branch) == [(64, 96, 3, 3), (96, 96, 3, 3)]
    assert stem(torch.empty(1, 3, 300, 300, device="meta")).shape == (1, 96, 75, 75)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("channels", list(SCALED.values()))
def test_scaled_inception_stem(small, channels):
    """Section 6.2.2: the traditional stem with all its widths scaled down."""
    stem = on_meta(channels, (2, 2, 2), small=small).stem
    shape = stem(torch.empty(1, 3, 75, 99, device="meta")).shape
    assert shape == (1, channels[0], *((75, 99) if small else (7, 10)))


@pytest.mark.parametrize("section", [0, 1, 2])
@pytest.mark.parametrize("se", [False, True])
def test_module_written_out(section, se):
    """Figure 10: branches side by side, 1x1 to all channels, x added; 8.4: the residual scaled."""
    model = tiny(se=se, reduction=2).double().eval()
    block = model.stages[2 * section][0]
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = images(2, TINY["channels"][section], 5, 8, dtype=torch.float64)

    def layer(x, convolution, norm):
        size = convolution.weight.shape[2:]
        x = F.conv2d(x, convolution.weight, padding=[k // 2 for k in size])
        mean, variance = norm.running_mean, norm.running_var
        return F.batch_norm(x, mean, variance, norm.weight, norm.bias)

    outputs = []
    for branch in block.branch[0]:
        y = x
        for i in range(0, len(branch), 3):
            y = layer(y, branch[i], branch[i + 1]).relu()
        outputs.append(y)
    u = layer(torch.cat(outputs, 1), block.branch[1], block.branch[2])
    if se:
        fc1, fc2 = block.se.fc1, block.se.fc2
        hidden = F.linear(u.mean((2, 3)), fc1.weight.flatten(1), fc1.bias).relu()
        u = u * F.linear(hidden, fc2.weight.flatten(1), fc2.bias).sigmoid()[:, :, None, None]
    torch.testing.assert_close(block(x), (x + u).relu())
    assert (type(block) is SEResidual) == se


def test_inception_senet():
    """Section 8.4: all blocks replaced, with 2x expansion and 32x reduction."""
    plain = on_meta(SCALED["96"], (2, 2, 2), 120, stem="resnet")
    model = on_meta(SCALED["96"], (2, 2, 2), 120, stem="resnet", se=True, expansion=2, reduction=32)
    excitations = [m for m in model.modules() if isinstance(m, SqueezeExcite)]
    assert [m.channels for m in excitations] == [96, 96, 96, 288, 288, 576, 576]
    assert {m.expansion for m in excitations} == {2}
    assert [m.fc1.out_channels for m in excitations] == [6, 6, 6, 18, 18, 36, 36]
    residuals = [m for m in plain.modules() if type(m) is Residual]
    assert len(residuals) == 6


def test_trains():
    model = tiny(se=True, reduction=2, dropout=0.1)
    rates = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    x, labels = images(12, 2, 9, 8), torch.arange(12) % 3
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(model(x), labels)
        rates.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        rates.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"stem": "inception", "small": False}, 75),
        ({"stem": "resnet", "small": False}, 25),
        ({"stem": "inception", "small": True}, 7),
        ({"stem": "resnet", "small": True}, 7),
    ],
    ids=str,
)
def test_least_pictures(options, least):
    """One pixel less and a layer would get a map smaller than its filter."""
    model = tiny(**options).eval()
    assert model(images(1, 2, least, least + 1)).shape == (1, 3)
    with pytest.raises(ValueError, match="images must be at least") as error:
        model(images(1, 2, least + 9, least - 1))
    assert str(error.value) == (
        f"images must be at least {least} pixels high and wide for this network, got "
        f"{(least + 9, least - 1)}"
    )
    model.least = 0
    with pytest.raises(RuntimeError, match=r"Kernel size can't be greater|too small"):
        model(images(1, 2, least - 1, least - 1))


def test_maps_are_channels_last():
    model, seen = tiny(in_channels=3), []
    for stage in model.stages:
        stage.register_forward_hook(lambda m, x, y: seen.append(y))
    model(images(2, 3, 32, 32))
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in seen)


@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_a_break(training):
    model = tiny(se=True, reduction=2).train(training)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    x = images(3, 2, 9, 8)
    torch.testing.assert_close(compiled(x), model(x))


def test_modules_cannot_be_switched_and_the_report_says_why():
    found, unknown = residual_blocks(tiny(se=True, reduction=2))
    assert [block.name for block in found] == ["stem.3"]
    assert [entry.name for entry in unknown] == ["stages.0.0", "stages.2.0", "stages.4.0"]
    assert {entry.note for entry in unknown} == {"its first layer is more than one convolution"}


@pytest.mark.parametrize("stem", ["inception", "resnet"])
@pytest.mark.parametrize("channels", [(3, 6, 9), (4, 7, 11), (5, 9, 13), (6, 10, 20)])
def test_narrowest(channels, stem):
    """No layer is left without a channel."""
    model = on_meta(channels, (1, 1, 1), 2, 1, stem=stem, small=True)
    assert all(min(c) > 0 for c in convolutions(model))
    assert model(torch.empty(2, 1, 8, 8, device="meta")).shape == (2, 2)


@given(st.integers(0, 3000), st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_shares_add_up(total, weights):
    """Each is less than one from its exact share, as what is left over is passed on."""
    shares = _shared(total, weights)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (96, 288)}, "channels and blocks must be three each, got"),
        ({"blocks": (2, 2, 2, 2)}, "channels and blocks must be three each, got"),
        ({"channels": (96, 98, 288)}, r"channels must grow by at least 3.* got \(96, 98, 288\)"),
        (
            {"channels": (2, 96, 288)},
            r"channels must grow by at least 3, from 0.* got \(2, 96, 288\)",
        ),
        ({"blocks": (2, 0, 2)}, r"positive, got .*\(2, 0, 2\)"),
        ({"num_labels": 0}, "positive, got .* 0 and 3"),
        ({"stem": "vgg"}, "stem must be 'inception' or 'resnet', got 'vgg'"),
    ],
)
def test_rejects(options, message):
    with pytest.raises(ValueError, match=message):
        inception_resnet(**options)
