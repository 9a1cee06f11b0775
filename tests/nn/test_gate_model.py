"""Gates on a network and off again: what is kept, what is refused, what it says."""

import copy
import pickle

import pytest
import timm
import torch
import torchvision.models
from residual_networks import identity, images, short, small, timm_resnet
from torch import nn

from fastheads.metrics.cost import count_macs
from fastheads.models import imagenet_resnet, resnet110
from fastheads.nn import (
    Gate,
    GatedResidual,
    force_gates,
    gate_model,
    gated_blocks,
    record_gates,
    residual_blocks,
    ungate,
)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("mode", ["auto", "dense", "gather"])
def test_closed_gates_skip(mode):
    """Equation 5.3 with z = 0: only the shortcuts are left."""
    model, x = small(blocks=(2, 2)).eval(), images()
    plain = copy.deepcopy(model)
    gate_model(model, mode=mode)
    for block in gated_blocks(model).values():
        block.gate.fc2.bias.data = torch.tensor([9.0, 0.0])
    with torch.no_grad():
        for block in residual_blocks(plain)[0]:
            block.module.branch = Zero(block.module.shortcut)
        assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("count", [1, 5])
def test_inplace(count):
    """The same bits, and the images stay as they are."""
    model, x = small(blocks=(2, 2)).eval(), images(count=count)
    gate_model(model, rate=0.5, mode="gather")
    for number, block in enumerate(gated_blocks(model).values()):
        nn.init.normal_(block.gate.fc2.weight, std=3, generator=torch.manual_seed(number))
    over = copy.deepcopy(model)
    for block in gated_blocks(over).values():
        block.inplace = True
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(over(x), model(x))
    assert torch.equal(x, before)
    fresh = small(blocks=(2, 2))
    gate_model(fresh, inplace=True)
    assert all(block.inplace for block in gated_blocks(fresh).values())


class Zero(nn.Module):
    def __init__(self, shortcut):
        super().__init__()
        self.shortcut = shortcut

    def forward(self, x):
        return torch.zeros_like(x if self.shortcut is None else self.shortcut(x))


def test_modes_of_the_layers_stay():
    model = small().train()
    model.stages[0][0].branch[1].eval()
    model.stages[0][1].eval()
    modes = {id(m): m.training for m in model.modules()}
    gate_model(model)
    assert all(m.training == modes.get(id(m), m.training) for m in model.modules())
    assert [b.training for b in gated_blocks(model).values()] == [True, False, True]
    assert [b.gate.norm.training for b in gated_blocks(model).values()] == [True, False, True]
    ungate(model.eval())
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize(
    ("build", "count", "options"),
    [
        (lambda: imagenet_resnet(50), 25_768_264, {}),
        (lambda: imagenet_resnet(50), 26_556_748, {"hidden": "c/16"}),
        (lambda: imagenet_resnet(101), 45_040_314, {}),
        (resnet110, 1_763_878, {}),
    ],
)
def test_exact_counts(build, count, options):
    """Of "Conditional networks", section 5.3: 26.56, 46.23 and 1.78 million are printed."""
    with torch.device("meta"):
        model = build()
    before = parameters(model)
    report = gate_model(model, **options)
    assert parameters(model) == count
    assert report.parameters == count - before
    ungate(model)
    assert parameters(model) == before


@pytest.mark.parametrize("is_open", [True, False])
def test_multiply_adds(is_open):
    """ResNet-50: 3.858 G, of which 0.480 G cannot be skipped; the gates add 0.0055 %."""
    model, x = imagenet_resnet(50).eval(), torch.randn(1, 3, 224, 224)
    gate_model(model)
    units, products = 0, []
    for block in gated_blocks(model).values():
        block.gate.fc2.bias.data = torch.tensor([0.0, 9.0 if is_open else -9.0])
        units += block.gate.fc1.weight.numel() + block.gate.fc2.weight.numel()
        block.register_forward_hook(lambda m, x, y: products.append(is_open * y.numel()))
    total = count_macs(model, x)
    assert round((total - units - sum(products)) / 1e9, 3) == (3.858 if is_open else 0.480)
    assert units / 3.858e9 == pytest.approx(5.5e-5, rel=0.01)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (3, 64)])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_sizes(count, size):
    """Skipping gives the bits of the masked network, whatever the batch."""
    model = small(shortcut="projection").eval()
    gate_model(model)
    for i, block in enumerate(gated_blocks(model).values()):
        torch.manual_seed(i)
        nn.init.normal_(block.gate.fc2.weight)
        nn.init.zeros_(block.gate.fc2.bias)
    x = torch.randn(count, 3, *size)
    with torch.no_grad(), record_gates(model) as record:
        y = model(x)
        z = dict(zip(record.names, record.z, strict=True))
        assert y.shape == (count, 3) and record.layers().shape == (count,)
        with force_gates(model, z):
            assert torch.equal(model(x), y)


def test_initial_rate():
    """Section 5.3.1: open at a rate of 85 % at first; logit 1.7346."""
    model = small(blocks=(9, 9)).train()
    gate_model(model)
    for block in gated_blocks(model).values():
        low, high = block.gate.fc2.bias.tolist()
        assert torch.tensor(high - low).sigmoid().item() == pytest.approx(0.85, abs=1e-7)
    torch.manual_seed(0)
    with record_gates(model) as record:
        rates = []
        for _ in range(10):
            model(images(count=32))
            rates.append(record.rates().detach())
        assert torch.stack(rates).mean().item() == pytest.approx(0.85, abs=0.02)
        model.eval()(images())
        for p in record.probability:
            torch.testing.assert_close(p, torch.full_like(p, 0.85), rtol=0, atol=0.01)


def test_options():
    model = small()
    options = dict(batch_norm=False, temperature=2.0, soft=True, sample=True)
    gate_model(model, hidden=3, rate=0.3, mode="gather", **options)
    for block in gated_blocks(model).values():
        gate = block.gate
        assert gate.norm is None and gate.fc1.out_features == 3
        assert (gate.temperature, gate.soft, gate.sample) == (2.0, True, True)
        assert block.mode == "gather" and not block.inplace
        assert torch.softmax(gate.fc2.bias, 0)[1].item() == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("always_on", "gated"),
    [
        ((), ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0"]),
        (["layer1", "layer2.0"], ["layer2.1", "layer3.0", "layer4.0"]),
        (["layer2.1", "layer2"], ["layer1.0", "layer3.0", "layer4.0"]),
    ],
)
def test_always_on(always_on, gated):
    model = short("torchvision resnet18")
    report = gate_model(model, always_on=always_on)
    assert list(gated_blocks(model)) == [entry.name for entry in report.gated] == gated
    assert len(report.always_on) == 5 - len(gated)


def test_report():
    with torch.device("meta"):
        model = timm.create_model("tf_mixnet_s")
    report = gate_model(model, always_on=["blocks.3.2", "blocks.5"], hidden="c/16")
    lines = str(report).splitlines()
    assert lines[0] == "gated      blocks.0.0  DepthwiseSeparableConv  16 -> 1 -> 2"
    assert lines[2] == "always on  blocks.3.2  InvertedResidual        no gate, as asked"
    note = "its first layer is more than one convolution"
    assert lines[5] == f"skipped    blocks.1.1  InvertedResidual        {note}"
    assert len(lines) == 12 and lines[-1] == "2 gated, 3 always on, 6 skipped"
    assert str(gate_model(small(), hidden=2)).splitlines() == [
        "gated  stages.0.0  Residual  4 -> 2 -> 2",
        "gated  stages.0.1  Residual  4 -> 2 -> 2",
        "gated  stages.1.0  Residual  4 -> 2 -> 2, downsampling",
        "3 gated, 0 always on, 0 skipped",
    ]


def test_a_gate_behind_the_pre_activation():
    model = timm_resnet("resnetv2_18")
    gate_model(model)
    names = list(gated_blocks(model))
    assert names[:2] == ["stages.0.blocks.0", "stages.1.blocks.0.block"]
    assert [name for name, _ in model.stages[1].blocks[0].named_children()] == ["before", "block"]


def test_an_optimiser_goes_on():
    """One made before trains the same parameters; the gates' are added to it."""
    model = small().train()
    other = copy.deepcopy(model)
    first, second = (torch.optim.SGD(m.parameters(), 0.01, momentum=0.9) for m in (model, other))
    gate_model(model)
    gates = [p for block in gated_blocks(model).values() for p in block.gate.parameters()]
    known = {id(p) for group in first.param_groups for p in group["params"]}
    assert {id(p) for p in model.parameters()} - known == {id(p) for p in gates}
    first.add_param_group({"params": gates})
    for _ in range(2):
        with force_gates(model, 1.0):
            for m, optimiser in ((model, first), (other, second)):
                optimiser.zero_grad()
                m(images()).square().sum().backward()
                optimiser.step()
    ungate(model)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert not torch.equal(model.classifier.weight, small().classifier.weight)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(again):
    model, x = small().train(), images()
    gate_model(model)
    with record_gates(model) as record:
        model(x).sum().backward()
        other = again(model)  # while a graph is recorded
        assert record.z[0].requires_grad
    model.eval()
    other.eval()
    with force_gates(model, 0.5), force_gates(other, 0.5):
        assert torch.equal(model(x), other(x))
    own = {id(p) for p in other.parameters()}
    assert own.isdisjoint(id(p) for p in model.parameters())
    ungate(other)
    assert {id(p) for p in other.parameters()} < own
    ungate(model)
    assert torch.equal(model(x), other(x))
    assert list(other.state_dict()) == list(model.state_dict())


def test_state_dict_of_a_gated_network():
    model, other = small(), small()
    for m in (model, other):
        gate_model(m)
    nn.init.normal_(model.stages[0][0].branch[0].weight)
    other.load_state_dict(model.state_dict())
    with force_gates(model.eval(), 0.5), force_gates(other.eval(), 0.5):
        assert torch.equal(model(images()), other(images()))


def test_gates_are_on_the_device_of_their_block(device):
    model, x = small().to(device), images().to(device)
    gate_model(model)
    assert {p.device.type for p in model.parameters()} == {device.type}
    with record_gates(model) as record:
        (model(x).sum() + record.rates().sum()).backward()
        assert record.layers().device.type == device.type
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    with torch.no_grad():
        with force_gates(model, torch.ones(4, device=device)):
            got = model(x)
        ungate(model)
        torch.testing.assert_close(model(x), got)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gates_of_other_dtypes(dtype):
    model = small().to(dtype)
    gate_model(model)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {p.dtype for b in gated_blocks(model).values() for p in b.gate.parameters()} == {wide}
    assert model(images(dtype=dtype)).dtype == dtype
    with torch.no_grad():
        assert model.eval()(images(dtype=dtype)).dtype == dtype
        with force_gates(model, 0.5):
            assert model(images(dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"always_on": ["stages.2"]}, "blocks among stages.0.0, stages.0.1, .* got 'stages.2'"),
        ({"always_on": ["stages.0.00"]}, "got 'stages.0.00'"),
        ({"hidden": "c/8"}, "a number or 'c/16', got 'c/8'"),
        ({"hidden": 0}, "must be positive"),
        ({"rate": 1.0}, "between 0 and 1, got 1.0"),
        ({"mode": "fast"}, "mode must be one of"),
    ],
)
def test_rejects(options, message):
    model = small()
    before = identity(model)
    with pytest.raises(ValueError, match=message):
        gate_model(model, **options)
    assert identity(model) == before


def test_rejects_models():
    model = small()
    gate_model(model)
    with pytest.raises(ValueError, match="no gates yet, got 3: ungate it first"):
        gate_model(model)
    with pytest.raises(ValueError, match="without any"):
        gate_model(torchvision.models.vgg11(num_classes=2))
    with pytest.raises(ValueError, match="before tracing, scripting or export"):
        gate_model(torch.fx.symbolic_trace(nn.Sequential(small().stages[0][0])))
    with pytest.raises(ValueError, match="its branch changes the shape and there is no projection"):
        bad = small()
        bad.stages[1][0].shortcut = None
        gate_model(bad)


def test_gated_blocks_of_other_making_stay():
    block = GatedResidual(nn.Conv2d(4, 4, 1), Gate(4))
    model = nn.Sequential(block)
    ungate(model)
    assert gated_blocks(model) == {"0": block}
