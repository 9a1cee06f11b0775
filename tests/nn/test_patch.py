"""Patching and its undoing: what is kept, what is left alone and why, what a call falls back to."""

import copy
import io
import warnings

import pytest
import timm
import torch
from patched import Calls, assert_same, lively, patched_copy, results
from timm.layers.squeeze_excite import SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.resnet import BasicBlock
from torch import nn
from torchvision.models.quantization.mobilenetv3 import QuantizableSqueezeExcitation
from torchvision.ops import SqueezeExcitation

from fastheads.nn import patch, unpatch


def seresnet(**options):
    """Four blocks: timm's seresnet18 or another, cut short."""
    return lively(timm.create_model("seresnet18", layers=(1, 1, 1, 1), num_classes=5, **options))


def images(dtype=torch.float64):
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2)).to(dtype)


def count(model, x):
    with Calls() as calls:
        results(model, x)
    return calls.counts


def reasons(model):
    return [entry.note for entry in patch(model).skipped]


def state(model):
    """Every object that a model is made of, and what it holds."""
    modules = [(id(m), type(m), {**vars(m)}) for m in model.modules()]
    return modules, [(name, id(p)) for name, p in model.named_parameters()]


def test_undone_without_a_trace():
    model = seresnet()
    before, keys = state(model), list(model.state_dict())
    patch(model)
    (modules, parameters), (old_modules, old_parameters) = state(model), before
    assert parameters == old_parameters and list(model.state_dict()) == keys
    assert [(i, content) for i, _, content in modules] == [(i, c) for i, _, c in old_modules]
    classes = [(m[1], old[1]) for m, old in zip(modules, old_modules, strict=True)]
    assert sum(new is not old for new, old in classes) == 8
    assert all(issubclass(new, old) for new, old in classes)
    unpatch(model)
    assert state(model) == before
    assert count(model.eval(), images())["squeeze_excite"] == 0


def test_twice_is_once():
    model = seresnet()
    first = patch(model)
    classes = [type(m) for m in model.modules()]
    assert patch(model) == first
    assert [type(m) for m in model.modules()] == classes
    unpatch(model)
    unpatch(model)
    assert not any(hasattr(m, "original_class") for m in model.modules())


def test_checkpoints_load_before_and_after():
    model = seresnet()
    other, _ = patched_copy(seresnet())
    other.load_state_dict(model.state_dict())
    assert_same(model.eval(), other.eval(), images())
    again = seresnet()
    again.load_state_dict(other.state_dict())
    assert_same(model, again.eval(), images())


def test_an_optimiser_goes_on():
    model = seresnet().train()
    other = copy.deepcopy(model)
    for m in (model, other):
        optimiser = torch.optim.SGD(m.parameters(), 0.01, momentum=0.9)
        for step in range(2):
            if step == 1 and m is other:
                patch(m)
            optimiser.zero_grad()
            m(images()).square().sum().backward()
            optimiser.step()
    assert_same(model.eval(), other.eval(), images())


def test_report():
    model = nn.ModuleDict(
        {
            "a": SEModule(16, rd_channels=4),
            "b": SqueezeExcite(8, rd_channels=2, act_layer=nn.SiLU, gate_layer=nn.Hardsigmoid),
            "c": SEModule(16, add_maxpool=True),
            "d": timm.create_model("seresnet18").layer1[0],
        }
    )
    report = patch(model)
    assert [entry.name for entry in report.replaced] == ["a", "b", "d.se"]
    assert [entry.name for entry in report.tails] == ["d"]
    assert [entry.name for entry in report.skipped] == ["c"]
    assert str(report).splitlines() == [
        "replaced  a     SEModule       16 -> 4, relu, sigmoid",
        "replaced  b     SqueezeExcite  8 -> 2, silu, hard_sigmoid",
        "replaced  d.se  SEModule       64 -> 8, relu, sigmoid",
        "tail      d     BasicBlock     bn2 + se + shortcut + act2",
        "skipped   c     SEModule       it also pools by maximum",
        "3 replaced, 1 tail, 1 skipped",
    ]
    assert str(patch(nn.Linear(2, 2))) == "no squeeze-excitation found"


class SELayer(nn.Module):
    def forward(self, x):
        return x


class Inherits(SEModule):
    """A subclass with the same forward."""


class Overrides(SqueezeExcitation):
    def _scale(self, input):
        return 1 - super()._scale(input)


def newer_se_module():
    """As if a release of timm computed something else in the class of this name."""

    class Newer(SEModule):
        def forward(self, x):
            return super().forward(x) * self.fc1.weight.mean()

    Newer.__module__, Newer.__qualname__ = SEModule.__module__, SEModule.__qualname__
    return Newer(8)


def hooked(part):
    module = SEModule(8)
    module.get_submodule(part).register_forward_hook(lambda *_: None)
    return module


def own_forward():
    module = SEModule(8)
    module.forward = module.forward
    return module


def grouped():
    module = SEModule(16, rd_channels=4)
    module.fc1 = nn.Conv2d(16, 4, 1, groups=4)
    return module


LEFT = {
    "norm": (lambda: SEModule(8, norm_layer=nn.BatchNorm2d), "BatchNorm2d between its layers"),
    "maximum": (lambda: SEModule(8, add_maxpool=True), "it also pools by maximum"),
    "activation": (lambda: SqueezeExcite(8, act_layer=nn.GELU), "its inner activation is GELU"),
    "gate": (lambda: SEModule(8, gate_layer=nn.Tanh), "its gate is Tanh"),
    "groups": (grouped, "its layers are not plain 1x1 convolutions"),
    "hook": (lambda: hooked(""), "it has hooks"),
    "hook inside": (lambda: hooked("fc1"), "it has hooks"),
    "forward": (own_forward, "it has a forward of its own"),
    "class": (SELayer, "its class is unknown"),
    "quantizable": (lambda: QuantizableSqueezeExcitation(8, 2), "its class is unknown"),
    "release": (newer_se_module, "its forward is not the known one"),
    "method": (lambda: Overrides(8, 2), "its forward is not the known one"),
}


@pytest.mark.parametrize("make, reason", LEFT.values(), ids=LEFT)
def test_left_alone(make, reason):
    module = make()
    cls = type(module)
    assert reasons(module) == [reason] and type(module) is cls


def test_a_subclass_with_the_same_forward():
    module = Inherits(8).double()
    other, report = patched_copy(module)
    assert report.replaced == [("", "Inherits", "8 -> 8, relu, sigmoid")]
    assert isinstance(other, Inherits)
    assert_same(module, other, torch.randn(2, 8, 3, 5, dtype=torch.float64), backward=True)


@pytest.mark.parametrize("inner", [nn.ReLU, nn.SiLU, nn.Identity])
@pytest.mark.parametrize("gate", [nn.Sigmoid, nn.Hardsigmoid, "sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("bias", [True, False])
def test_formulas(inner, gate, bias):
    module = SEModule(12, rd_channels=5, act_layer=inner, gate_layer=gate, bias=bias).double()
    other, report = patched_copy(module)
    assert len(report.replaced) == 1
    assert_same(module, other, torch.randn(2, 12, 3, 5, dtype=torch.float64), backward=True)


def test_another_activation_at_the_end():
    model = seresnet(act_layer="silu")
    other, report = patched_copy(model)
    assert len(report.replaced) == 4 and not report.tails
    assert [entry.note for entry in report.skipped] == ["its activation is SiLU"] * 4
    assert_same(model.train(), other.train(), images(), backward=True)


def test_other_ends_of_blocks():
    class Newer(BasicBlock):
        def forward(self, x):
            return super().forward(x) + self.conv1(x)

    Newer.__module__, Newer.__qualname__ = BasicBlock.__module__, BasicBlock.__qualname__
    blocks = {
        "its forward is not the known one": Newer(8, 8, attn_layer="se"),
        "Dropout behind SE": BasicBlock(8, 8, attn_layer="se", drop_path=nn.Dropout()),
        "it has hooks": BasicBlock(8, 8, attn_layer="se"),
    }
    blocks["it has hooks"].act2.register_forward_hook(lambda *_: None)
    for reason, block in blocks.items():
        block = lively(block).eval()
        other, report = patched_copy(block)
        assert len(report.replaced) == 1 and not report.tails
        assert report.skipped == [("", type(block).__name__, reason)]
        assert_same(block, other, torch.randn(2, 8, 4, 4, dtype=torch.float64))


def test_hooks_that_come_later_run():
    model = seresnet().eval()
    patch(model)
    seen = []
    blocks = [stage[0] for stage in (model.layer1, model.layer2, model.layer3)]
    for module in (blocks[0].se, blocks[1].se.fc2, blocks[2].act2):
        module.register_forward_hook(lambda module, *_: seen.append(module))
    assert count(model, images())["squeeze_excite"] == 2
    assert seen == [blocks[0].se, blocks[1].se.fc2, blocks[2].act2]


def test_layers_that_are_exchanged_later_count():
    model = seresnet().eval()
    patch(model)
    model.layer1[0].se = nn.Identity()
    model.layer2[0].se.act = nn.GELU()
    model.layer3[0].act2 = nn.SiLU()
    plain = copy.deepcopy(model)
    unpatch(plain)
    assert_same(plain, model, images())
    assert count(model, images())["squeeze_excite"] == 2


def norms_run(model, x):
    return sum(n for name, n in count(model, x).items() if "batch_norm" in name)


def test_norms_are_folded_in_inference_only():
    model = seresnet().eval()
    x, norms = images(), norms_run(model, images())
    patch(model)
    assert norms_run(model, x) == norms - 4
    assert norms_run(model.train(), x) == norms
    model.eval().layer1[0].bn2.register_forward_hook(lambda *_: None)
    assert norms_run(model, x) == norms - 3
    with Calls() as calls:
        model(x)  # its weights need gradients
    assert sum(n for name, n in calls.counts.items() if "batch_norm" in name) == norms
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with Calls() as calls:
        model(x)
    assert sum(n for name, n in calls.counts.items() if "batch_norm" in name) == norms - 3


def test_written_over_only_where_nobody_looks():
    """In inference the operator writes over the output of the last convolution, if unseen."""
    model, x, kept = seresnet().eval(), images(), []
    patch(model)
    convolution = model.layer1[0].conv2
    assert count(model, x)["squeeze_excite_"] == 4
    hook = convolution.register_forward_hook(lambda _, args, y: kept.extend([*args, y]))
    assert count(model, x)["squeeze_excite_"] == 3
    hook.remove()
    assert torch.equal(convolution(kept[0]), kept[1])
    model.layer2[0].conv2 = nn.Sequential(model.layer2[0].conv2)
    assert count(model, x)["squeeze_excite_"] == 3
    assert count(model.requires_grad_(False), x)["squeeze_excite"] == 4


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.BatchNorm2d(64, affine=False),
        lambda: nn.BatchNorm2d(64, track_running_stats=False),
        lambda: nn.GroupNorm(4, 64),
        lambda: nn.Identity(),
    ],
    ids=["no weights", "no statistics", "group norm", "none"],
)
def test_other_norms(norm):
    model = seresnet()
    model.layer1[0].bn2 = norm().double()
    other, report = patched_copy(model)
    assert len(report.tails) == 4
    assert_same(model.eval(), other.eval(), images())
    assert_same(model, other, images(), backward=True)


def test_stochastic_depth():
    """At work in training only: then SE alone is one operator, and the same paths are dropped."""
    model = seresnet(drop_path_rate=0.5)
    other, report = patched_copy(model)
    assert len(report.tails) == 4
    assert_same(model.train(), other.train(), images(), backward=True)
    relus = count(model, images())["relu_"]
    assert count(other, images())["relu_"] == relus - 5  # in SE; the first block drops nothing
    assert count(other.eval(), images())["relu_"] == relus - 8
    assert_same(model.eval(), other, images())


def test_copies_and_pickles():
    model = seresnet().eval()
    expected, keys = model(images()), list(model.state_dict())
    patch(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert count(other, images())["squeeze_excite"] == 4
        torch.testing.assert_close(other(images()), expected)
        assert list(other.state_dict()) == keys
        assert not {id(p) for p in other.parameters()} & {id(p) for p in model.parameters()}
        unpatch(other)
        assert count(other, images())["squeeze_excite"] == 0
        torch.testing.assert_close(other(images()), expected, rtol=0, atol=0)


def test_replicas():
    """As data parallelism makes them: other weights in a shallow copy."""
    module = SEModule(8).double()
    patch(module)
    replica = module._replicate_for_data_parallel()
    replica.fc1 = nn.Conv2d(8, 8, 1).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    expected = copy.deepcopy(replica)
    unpatch(expected)
    torch.testing.assert_close(replica(x), expected(x))
    assert not torch.allclose(replica(x), module(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["seresnet", "test_efficientnet"])
def test_lower_precision_and_channels_last(name, dtype):
    """No further from float64 than twice the library; patched before or after the change."""
    model = seresnet() if name == "seresnet" else lively(timm.create_model(name))
    exact = results(model.eval(), images())["output"]
    x = images(dtype).to(memory_format=torch.channels_last)
    early, _ = patched_copy(model)
    late = copy.deepcopy(model)
    for m in (early, late):
        m.to(dtype).to(memory_format=torch.channels_last)
    plain = results(late, x)["output"]
    patch(late)
    for other in (early, late):
        y = results(other, x)["output"]
        assert y.dtype == dtype
        bound = 2 * (plain - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()
        assert (y - exact).abs().max() <= bound


def test_layout_is_kept():
    block = timm.create_model("seresnet18").layer1[0].eval()
    patch(block)
    x = torch.randn(2, 64, 5, 7).to(memory_format=torch.channels_last)
    for module in (block, block.se):
        assert module(x).is_contiguous(memory_format=torch.channels_last)


def test_autocast():
    model = seresnet().float()
    other, _ = patched_copy(model)
    x = images(torch.float32)
    exact = results(model.double().eval(), images())["output"]
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        plain, y = (results(m.eval(), x)["output"] for m in (model, other))
    assert y.dtype == plain.dtype == torch.bfloat16
    assert (y - exact).abs().max() <= 2 * (plain - exact).abs().max()


@pytest.mark.parametrize("train", [False, True])
def test_compile(train):
    """In one graph, with a batch norm folded in inference, and without a warning."""
    model = seresnet().train(train)
    other, _ = patched_copy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
        got = results(compiled, images(), backward=train)
    expected = results(model, images(), backward=train)
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, expected[name.removeprefix("_orig_mod.")])


def test_export():
    model = seresnet().eval()
    patch(model)
    program = torch.export.export(model, (images(),))
    called = [str(node.target) for node in program.graph.nodes]
    assert sum("fastheads.squeeze_excite" in name for name in called) == 4
    torch.testing.assert_close(program.module()(images()), model(images()))
