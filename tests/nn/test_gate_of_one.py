"""The gate of a batch of one as a number: what a call gives, by the weights as they are now."""

import copy
import math
import pickle

import pytest
import torch
from gated_blocks import features, gated
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from fastheads.nn import Gate

FORMATS = (torch.float32, torch.float16, torch.bfloat16)


def random_gate(channels: int, hidden: int, batch_norm: bool = True, seed: int = 0) -> Gate:
    """One that opens for about half of random samples."""
    generator = torch.Generator().manual_seed(seed)
    gate = Gate(channels, hidden, batch_norm=batch_norm, rate=0.5).eval()
    with torch.no_grad():
        for tensor in (*gate.parameters(), *gate.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.5)
        if gate.norm is not None:
            gate.norm.running_var.abs_()
    return gate


def decided(gate: Gate, x: Tensor) -> float | None:
    with torch.no_grad():
        return gate.decide_one(x)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 70),
    st.integers(1, 9),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.booleans(),
    st.booleans(),
    st.sampled_from(FORMATS),
    st.sampled_from(FORMATS),
    st.integers(0, 9),
)
def test_is_what_a_call_gives(channels, hidden, size, batch_norm, last, of_x, of_gate, seed):
    gate = random_gate(channels, hidden, batch_norm, seed).to(of_gate)
    x = torch.randn(8, channels, *size, generator=torch.Generator().manual_seed(seed)).to(of_x)
    x = x.to(memory_format=torch.channels_last) if last else x
    with torch.no_grad():
        ones = [x[i : i + 1] for i in range(8)]
        assert [gate.decide_one(one) for one in ones] == [gate(one)[0].item() for one in ones]


class Keeps:
    """A hook that keeps the probabilities it is told in either way, and changes nothing."""

    def __init__(self) -> None:
        self.kept: list[float] = []

    def __call__(self, gate, args, output) -> None:
        self.kept.append(output[1].item())

    def of_one(self, probability: float) -> float:
        self.kept.append(probability)
        return 1.0


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_hook_is_told_the_probability_at_the_temperature(batch_norm):
    gate, hook = random_gate(7, 5, batch_norm), Keeps()
    x = torch.randn(1, 7, 3, 3)
    gate.register_forward_hook(hook)
    for temperature in (0.3, 1, 4.0, 1e30, 1e-45):
        gate.temperature = temperature
        assert decided(gate, x) == 1
        with torch.no_grad():
            gate(x)
    assert hook.kept[::2] == hook.kept[1::2] and len(set(hook.kept)) == 5


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none_is_left_to_a_call(bad):
    gate, x = random_gate(4, 3), torch.rand(1, 4, 2, 2)
    gate.temperature = bad
    assert decided(gate, x) is None
    with pytest.raises(RuntimeError, match="temperature must be positive"), torch.no_grad():
        gate(x)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_logits_are_nan(bad):
    gate = random_gate(4, 3)
    x = torch.full((1, 4, 2, 2), bad)
    with torch.no_grad():
        wanted = gate(x)[0].item()
    assert str(decided(gate, x)) == str(wanted)


def opened_by(gate: Gate, bias: Tensor) -> float | None:
    """The decision for a sample with that bias at the end, all weights before it zero."""
    nn.init.zeros_(gate.fc2.weight)
    gate.fc2.bias.data.copy_(bias)
    return decided(gate, torch.rand(1, 4, 2, 2))


CLOSED, OPEN = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def assign(gate: Gate) -> None:
    gate.fc2.bias = nn.Parameter(OPEN.clone())


def change_data(gate: Gate) -> None:
    gate.fc2.bias.data = OPEN.clone()


def change_in_place(gate: Gate) -> None:
    gate.fc2.bias.data.copy_(OPEN)


def change_layer(gate: Gate) -> None:
    gate.fc2 = copy.deepcopy(gate.fc2)
    gate.fc2.bias.data.copy_(OPEN)


def load(gate: Gate) -> None:
    gate.load_state_dict({**gate.state_dict(), "fc2.bias": OPEN.clone()})


def load_assigning(gate: Gate) -> None:
    gate.load_state_dict({**gate.state_dict(), "fc2.bias": OPEN.clone()}, assign=True)


def shift_norm(gate: Gate) -> None:
    gate.fc2.weight.data[1] = 10.0
    gate.norm.bias = nn.Parameter(torch.ones(3))


def widen_eps(gate: Gate) -> None:
    """The unit is 1000 with a variance and an eps of next to nothing, and 1 with an eps of 1."""
    gate.fc2.weight.data[0] = 0.5
    nn.init.zeros_(gate.fc1.weight)
    nn.init.ones_(gate.fc1.bias)
    gate.norm.reset_parameters()
    gate.norm.running_var.zero_()
    gate.norm.eps = 1e-6
    assert decided(gate, torch.rand(1, 4, 2, 2)) == 0
    gate.fc2.bias.data.copy_(OPEN * 10)
    gate.norm.eps = 1.0


@pytest.mark.parametrize(
    "change",
    [
        assign,
        change_data,
        change_in_place,
        change_layer,
        load,
        load_assigning,
        shift_norm,
        widen_eps,
    ],
)
def test_weights_that_changed_are_seen(change):
    gate = random_gate(4, 3)
    assert opened_by(gate, CLOSED) == 0
    change(gate)
    assert decided(gate, torch.rand(1, 4, 2, 2)) == 1


def test_copies_have_weights_of_their_own():
    gate = random_gate(4, 3)
    assert opened_by(gate, CLOSED) == 0
    for other in (copy.deepcopy(gate), pickle.loads(pickle.dumps(gate))):
        assert opened_by(other, OPEN) == 1 and decided(gate, torch.rand(1, 4, 2, 2)) == 0


def test_leaves_to_a_call_what_is_not_plain():
    gate, x = random_gate(4, 3), torch.rand(1, 4, 2, 2)
    assert decided(gate, x) is not None
    assert gate.decide_one(x) is None  # a gradient is recorded
    strange = [x.repeat(2, 1, 1, 1), x[:, :, 0, 0], x.double(), x.to(torch.complex64), x[:, :, :0]]
    strange += [x[:, :3], torch.rand(1, 4, 4, 4)[:, :, ::2, ::2], nn.Parameter(x)]
    assert [decided(gate, each) for each in strange] == [None] * len(strange)
    with FlopCounterMode(display=False):
        assert decided(gate, x) is None
    for change in (
        lambda gate: gate.train(),
        lambda gate: gate.norm.train(),
        lambda gate: gate.double(),
        lambda gate: setattr(gate, "sample", True),
        lambda gate: setattr(gate.fc1, "bias", None),
        lambda gate: gate.register_forward_hook(lambda *_: None),
        lambda gate: gate.register_forward_pre_hook(lambda *_: None),
        lambda gate: parametrizations.weight_norm(gate.fc1),
        lambda gate: setattr(gate, "norm", nn.BatchNorm1d(3, affine=False).eval()),
        lambda gate: setattr(gate, "norm", nn.BatchNorm1d(3, track_running_stats=False).eval()),
        lambda gate: setattr(gate, "fc2", nn.Linear(5, 2)),
    ):
        other = copy.deepcopy(gate)
        assert decided(other, x) is not None
        change(other)
        assert decided(other, x) is None
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert decided(gate, x) is None
    finally:
        hook.remove()


@pytest.mark.parametrize("open_gate", [0, 1])
@pytest.mark.parametrize("options", [{}, {"inplace": True}, {"shortcut": nn.Identity()}])
@pytest.mark.parametrize("relu", [False, True])
def test_a_block_gives_the_bits_of_all_modes(relu, options, open_gate):
    block = gated(relu=relu, mode="auto", **options)
    x = features([open_gate], 8, 5, torch.float32) - 0.25
    x[:, 0] += 0.25
    called = copy.deepcopy(block)
    called.gate.register_forward_hook(lambda *_: None)
    dense = copy.deepcopy(called)
    dense.mode = "dense"
    with torch.inference_mode():
        results = [each(x.clone()) for each in (block, called, dense)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert block.last_executed == called.last_executed == open_gate


def test_hooks_of_the_layers_are_called():
    block, seen = gated(mode="auto"), []
    for module in (block, block.gate, *block.branch):
        module.register_forward_hook(lambda module, *_: seen.append(module))
    with torch.no_grad():
        block(features([1], 8, 5, torch.float32))
    assert seen == [block.gate, *block.branch, block]
    for module in block.modules():
        module._forward_hooks.clear()
    kept: list[Tensor] = []
    block.branch[-1].register_forward_hook(lambda *args: kept.append(args[2]))
    with torch.no_grad():
        x = features([1], 8, 5, torch.float32)
        y = block(x)
        assert torch.equal((x + kept[0]).relu(), y)  # what a hook keeps is not overwritten


@pytest.mark.parametrize("batch", [1, 3])
def test_hooks_on_all_modules_see_the_gate(batch):
    block, seen = gated(mode="gather"), []
    x = features([1] * batch, 8, 5, torch.float32)
    with torch.no_grad():
        expected = block(x)
        handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
        try:
            y = block(x)
        finally:
            handle.remove()
    assert seen == [block.gate, *block.branch, block.branch, block] and torch.equal(y, expected)


def test_a_branch_of_another_shape_is_an_error():
    with pytest.raises(RuntimeError, match="f must have the shape of x"), torch.no_grad():
        gated(branch=nn.Conv2d(8, 8, 3), mode="auto")(features([1], 8, 5, torch.float32))
