"""SE-ResNets: exact sizes, each formula of the paper, and whose weights they load."""

import copy

import pytest
import timm
import torch
import torchvision.models
from torch import nn
from torch.nn import functional as F

from fastheads.metrics import count_parameters
from fastheads.models import Residual, SEResidual, senet
from fastheads.models.senet import residual_block
from fastheads.nn import SqueezeExcite, patch, residual_blocks, scale_branches


def tiny(depth=18, num_labels=3, in_channels=2, **options):
    torch.manual_seed(0)
    options = {"blocks": (1, 1), "width": 8, "reduction": 2, "small": True, **options}
    return lively(senet(depth, num_labels, in_channels, **options))


def lively(model):
    """Batch norms that are not the identity."""
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        nn.init.normal_(norm.running_mean, std=0.2)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


def images(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"se": False}, 11_238_072),
        ({}, 11_327_152),
        ({"reduction": 8}, 11_414_312),
        ({"reduction": 32}, 11_283_572),
        ({"reduction": "sqrt"}, 11_309_226),
        ({"expansion": 2}, 12_893_992),
        ({"expansion": 4}, 14_896_152),
        ({"expansion": 2, "reduction": 32}, 12_763_312),
        ({"num_labels": 1000}, 11_778_592),
    ],
    ids=str,
)
def test_parameters_of_18_layers(options, count):
    """Sections 4.2.1 and 6.1: 120 labels, and the variants of Tables 3 and 4."""
    with torch.device("meta"):
        assert count_parameters(senet(18, **{"num_labels": 120, **options})) == count


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_without_se_it_is_torchvisions(depth):
    """Section 4.2: ResNet's layers, at every depth; SE has 2 C C/16 + C + C/16 more in a block."""
    with torch.device("meta"):
        plain, theirs = senet(depth, se=False), getattr(torchvision.models, f"resnet{depth}")()
        excited = senet(depth)
    assert count_parameters(plain) == count_parameters(theirs)
    widths = [b.se.channels for b in excited.modules() if isinstance(b, SEResidual)]
    more = sum(2 * c * (c // 16) + c + c // 16 for c in widths)
    assert count_parameters(excited) - count_parameters(plain) == more


def test_152_layers():
    """Section 4.2.2: 3, 8, 36 and 3 blocks of three layers; 256, 512, 1024 and 2048 planes."""
    with torch.device("meta"):
        model = senet(152, 120)
        assert model(torch.empty(2, 3, 300, 300)).shape == (2, 120)
    assert [len(stage) for stage in model.stages] == [3, 8, 36, 3]
    assert [stage[-1].se.channels for stage in model.stages] == [256, 512, 1024, 2048]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is None]
    projections = sum(b.shortcut is not None for stage in model.stages for b in stage)
    assert len(convolutions) - projections + 1 == 152 and projections == 4


def test_planes_of_18_layers():
    """Section 4.2: 64 planes behind the 7x7 convolution, then 64, 128, 256, 512 and the labels."""
    model = senet(18, 120)
    assert model.stem[0].kernel_size == (7, 7) and model.stem[0].stride == (2, 2)
    shapes = []
    for module in (model.stem, *model.stages):
        module.register_forward_hook(lambda m, x, y: shapes.append(tuple(y.shape[1:])))
    assert model.eval()(images(1, 3, 65, 96)).shape == (1, 120)
    assert shapes == [(64, 17, 24), (64, 17, 24), (128, 9, 12), (256, 5, 6), (512, 3, 3)]


def written_out(block, x, layers, stride):
    """A block of section 4.1 by the paper's formulas, its pixels expanded before the squeeze."""
    state = block.state_dict()

    def norm(x, name):
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])

    u = x
    for i in range(layers):
        kernel = state[f"branch.{3 * i}.weight"]
        strided = kernel.shape[2] == 3 and (i == 0 or layers == 3)
        u = F.conv2d(u, kernel, stride=stride if strided else 1, padding=kernel.shape[2] // 2)
        u = norm(u, f"branch.{3 * i + 1}")
        u = u.relu() if i < layers - 1 else u
    se = block.se
    wide = u if se.expand is None else F.conv2d(u, state["se.expand.weight"])  # section 6.1
    z = wide.sum((2, 3)) / (u.shape[2] * u.shape[3])  # section 3.2
    if se.expansion > 1 and se.squeeze == "averaged":  # section 5.1.1
        z = z.view(len(z), se.channels, se.expansion).mean(2)
    first, second = (state[f"se.fc{i}.weight"].flatten(1) for i in (1, 2))
    hidden = (z @ first.T + state["se.fc1.bias"]).relu()
    s = 1 / (1 + (-(hidden @ second.T + state["se.fc2.bias"])).exp())  # section 3.3
    y = s[:, :, None, None] * u
    if block.shortcut is not None:
        x = norm(F.conv2d(x, state["shortcut.0.weight"], stride=stride), "shortcut.1")
    return (y + x).relu()


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize(("channels", "stride"), [(8, 1), (4, 2)])
@pytest.mark.parametrize("excite", [{}, {"expansion": 2}, {"expansion": 3, "squeeze": "averaged"}])
def test_block_written_out(layers, channels, stride, excite):
    """Sections 3.2 and 3.3 in the blocks of 4.1.1 and 4.1.2, widened as in 5.1.1 and 6.1."""
    torch.manual_seed(0)
    block = residual_block(
        channels, 8, stride, layers, lambda width: SqueezeExcite(width, 2, **excite)
    )
    lively(block.double().eval())
    x = images(3, channels, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), written_out(block, x, layers, stride))


@pytest.mark.parametrize("layers", [2, 3])
def test_convolutions_of_a_block(layers):
    """Figure 7: 3x3 and 3x3, or 1x1, 3x3 and 1x1 with four times the planes (section 4.1.2)."""
    block = residual_block(16, 64, 1, layers, SqueezeExcite)
    found = [(m.kernel_size[0], m.out_channels) for m in block.branch if isinstance(m, nn.Conv2d)]
    assert found == ([(3, 64)] * 2 if layers == 2 else [(1, 16), (3, 16), (1, 64)])
    assert block.se.fc1.in_channels == 64


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({"reduction": "sqrt"}, [8, 11, 16, 22]),
        ({"reduction": "log"}, [4, 4, 5, 6]),
        ({"reduction": "log", "expansion": 2}, [4, 5, 6, 6]),
        ({"reduction": 32, "expansion": 2}, [4, 8, 16, 32]),
        ({"reduction": 32, "expansion": 2, "squeeze": "averaged"}, [2, 4, 8, 16]),
    ],
    ids=str,
)
def test_widths_inside_the_excitation(options, widths):
    """Section 6.1: sqrt(c) and log(c) of the c channels that it reads; 5.1.1 reads fewer."""
    with torch.device("meta"):
        model = senet(18, **options)
    assert [stage[0].se.fc1.out_channels for stage in model.stages] == widths


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("se", [True, False])
def test_trains(depth, se):
    model = tiny(depth, se=se, expansion=2 if se else 1)
    rates = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, labels = images(12, 2, 9, 8), torch.arange(12) % 3
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(model(x), labels)
        rates.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        rates.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_dropout_is_before_the_last_layer_and_in_training_only():
    """Section 5.2.2: a neuron is 0, or as large as makes up for the others."""
    model, x = tiny(dropout=0.5), images(4, 2, 16, 16)
    seen = []
    model.dropout.register_forward_hook(lambda m, x, y: seen.append((x[0], y)))
    model.classifier.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    model.eval()(x), model.train()(x)
    (means, kept), read, (trained_means, dropped), trained_read = seen
    assert torch.equal(means, kept) and torch.equal(kept, read)
    assert torch.equal(dropped, trained_read)
    assert torch.equal(dropped, torch.where(dropped == 0, 0, 2 * trained_means))
    assert 0.2 < (dropped == 0)[trained_means > 0].float().mean() < 0.8


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (9, 31)])
def test_small_pictures(size):
    model = senet(18, 5, 1, width=4, small=True, reduction=4).eval()
    assert model.stem[0].kernel_size == (3, 3) and not any(
        isinstance(m, nn.MaxPool2d) for m in model.modules()
    )
    shapes = []
    model.stages.register_forward_hook(lambda m, x, y: shapes.append(tuple(y.shape[1:])))
    assert model(images(2, 1, *size)).shape == (2, 5)
    assert shapes == [(32, *((side + 7) // 8 for side in size))]


def test_all_maps_are_channels_last():
    model, seen = tiny(50, in_channels=3), []
    for block in model.modules():
        if isinstance(block, Residual):
            block.register_forward_hook(lambda m, x, y: seen.append(y))
    model(images(2, 3, 10, 12))
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in seen) and seen


@pytest.mark.parametrize("depth", [18, 50])
def test_loads_torchvision(depth):
    theirs = lively(tiny_torchvision(depth)).eval()
    ours = senet(depth, 10, se=False, blocks=(1, 2, 1, 1)).eval()
    ours.load_resnet(theirs.state_dict())
    torch.testing.assert_close(ours(images(2, 3, 64, 48)), theirs(images(2, 3, 64, 48)))


def tiny_torchvision(depth):
    models = torchvision.models.resnet
    block = models.BasicBlock if depth == 18 else models.Bottleneck
    return models.ResNet(block, [1, 2, 1, 1], num_classes=10)


@pytest.mark.parametrize("name", ["seresnet18", "seresnet50"])
def test_loads_timm(name):
    """Its excitation is 8 wide for 64 channels, and ours 4 until it is loaded."""
    torch.manual_seed(0)
    theirs = lively(timm.create_model(name, layers=(1, 2, 1, 1), num_classes=10)).eval()
    ours = senet(int(name[-2:]), 10, blocks=(1, 2, 1, 1)).eval()
    ours.load_resnet(theirs.state_dict())
    torch.testing.assert_close(ours(images(2, 3, 64, 48)), theirs(images(2, 3, 64, 48)))
    assert ours.stages[0][0].se.fc1.out_channels == theirs.layer1[0].se.fc1.out_channels
    assert all(p.requires_grad for p in ours.parameters())


def test_loads_no_other_network():
    state = tiny_torchvision(50).state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key|size mismatch"):
        senet(18, 10, se=False, blocks=(1, 2, 1, 1)).load_resnet(state)


def test_state_dict_and_copies():
    model = tiny(expansion=2).eval()
    other = senet(18, 3, 2, blocks=(1, 1), width=8, reduction=2, small=True, expansion=2).eval()
    other.load_state_dict(model.state_dict())
    x = images(2, 2, 8, 8)
    for same in (other, copy.deepcopy(model)):
        assert torch.equal(same(x), model(x))


@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_a_break(training):
    model = tiny(expansion=2).train(training)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    x = images(3, 2, 9, 8)
    torch.testing.assert_close(compiled(x), model(x))


def test_autocast():
    model = tiny().eval()
    x = images(2, 2, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    torch.testing.assert_close(found.float(), model(x), atol=0.05, rtol=0.05)


def test_patch_leaves_it_as_it_is():
    model = tiny()
    report = patch(model)
    assert not report.replaced and not report.tails
    assert {entry.note for entry in report.skipped} == {"the operator computes it already"}


def test_branches_that_end_in_a_gate_have_no_scale():
    model = tiny()
    assert [block.name for block in residual_blocks(model)[0]] == ["stages.0.0", "stages.1.0"]
    with pytest.raises(ValueError, match=r"stages\.0\.0 must end in .*, got SqueezeExcite"):
        scale_branches(model, [0.5, 0.5])
    scale_branches(tiny(se=False), [0.5, 0.5])


@pytest.mark.parametrize(
    ("small", "size", "least"),
    [(False, (31, 64), 32), (True, (64, 7), 8), (True, (0, 8), 8)],
)
def test_pictures_too_small(small, size, least):
    model = senet(18, 3, width=4, reduction=2, small=small).eval()
    model(images(1, 3, least, least))
    with pytest.raises(ValueError, match="images must be at least") as error:
        model(images(1, 3, *size))
    assert str(error.value) == (
        f"images must be at least {least} pixels high and wide for this network, got {size}"
    )


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((20,), {}, "depth must be one of 18, 34, 50, 101, 152, got 20"),
        ((18, 0), {}, "must be positive, got .*, 0, 3 and 64"),
        ((18,), {"blocks": ()}, r"blocks, .* must be positive, got \(\)"),
        ((18,), {"blocks": (2, 0)}, r"must be positive, got \(2, 0\)"),
        ((18,), {"width": 0}, "must be positive, got .* and 0"),
        ((18,), {"reduction": 0}, "reduction must be a whole number of at least 1"),
        ((18,), {"squeeze": "half"}, "squeeze must be one of all, averaged, got 'half'"),
    ],
)
def test_rejects(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        senet(*arguments, **options)
