"""Patching and its undoing: what is kept, what is left alone and why, what a call falls back to."""

import copy

import pytest
import timm
import torch
from patched import assert_same, count, images, lively, patched_copy, seresnet
from timm.layers.squeeze_excite import SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.resnet import BasicBlock
from torch import nn
from torchvision.models.quantization.mobilenetv3 import QuantizableSqueezeExcitation
from torchvision.ops import SqueezeExcitation

from fastheads.nn import patch, unpatch


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
