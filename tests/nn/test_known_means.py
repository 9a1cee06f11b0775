"""Means of channels go from one gated block to the next, and are never those of other features."""

import copy

import pytest
import torch
from gated_blocks import SOME, accept_all, features, gated
from residual_networks import images, small
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastheads.nn import gate_model, gated_blocks


class Pooled(TorchDispatchMode):
    """Which gates read features, and which means."""

    def __init__(self):
        super().__init__()
        self.dims = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.fastheads.gate.default:
            self.dims.append(args[0].dim())
        return func(*args, **(kwargs or {}))


def chain(**options):
    """Three blocks, each of which reads what the one before it returns."""
    blocks = nn.Sequential(*(gated(nonnegative=True, **options) for _ in range(3)))
    for number, block in enumerate(blocks):
        block.gate.fc2.bias.data[0] = 0.5 + number / 8
        block.leads = number < 2
    return blocks


def run(blocks, x):
    for block in blocks:
        if hasattr(block, "set_calibration"):
            accept_all(block, x)
    with Pooled() as pooled, torch.no_grad():
        return blocks(x.clone()), pooled.dims


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_same_bits(dtype, layout, inplace):
    x = features(SOME, 8, 5, dtype).to(memory_format=layout)
    blocks = chain(inplace=inplace).to(dtype, memory_format=layout)
    y, dims = run(blocks, x)
    assert dims == [4, 2, 2]
    for block in blocks:
        block.leads = False
    expected, dims = run(blocks, x)
    assert dims == [4, 4, 4]
    assert torch.equal(y, expected)


def test_the_means_are_those_of_what_it_returns():
    x = features(SOME, 8, 5, torch.float32)
    block = chain()[0]
    accept_all(block, x)
    with torch.no_grad():
        y = block(x)
        means, _ = y.channel_means
        torch.testing.assert_close(means, y.mean((2, 3)), rtol=1e-6, atol=1e-6)
        assert not torch.equal(means, x.mean((2, 3)))


def test_inference_mode_cannot_tell_changed_features():
    """It counts no versions, so that each gate takes the means itself."""
    x = features(SOME, 8, 5, torch.float32)
    first, second, _ = chain()
    accept_all(first, x), accept_all(second, x)
    with torch.inference_mode(), Pooled() as pooled:
        y = first(x.clone())
        y[:, :4].mul_(-4)
        found = second(y.clone(), return_gate=True)[2]
        assert torch.equal(second(y, return_gate=True)[2], found)
    assert pooled.dims == [4, 4, 4]


@pytest.mark.parametrize("change", ["between", "hook"])
def test_changed_features_are_pooled_again(change):
    x = features(SOME, 8, 5, torch.float32)
    blocks = chain()
    if change == "between":
        blocks.insert(1, nn.Hardtanh(0, 0.1, inplace=True))
    else:
        blocks[0].register_forward_hook(lambda module, args, y: y.clamp_(max=0.1))
    y, dims = run(blocks, x)
    assert dims == [4, 4, 2]
    for block in blocks:
        block.leads = False
    assert torch.equal(y, run(blocks, x)[0])


def test_hooks_of_a_gate_see_it():
    """A budget is one such hook."""
    x = features(SOME, 8, 5, torch.float32)
    blocks = chain()
    blocks[1].gate.register_forward_hook(lambda gate, args, out: (torch.zeros_like(out[0]), out[1]))
    y, dims = run(blocks, x)
    assert dims == [4, 4, 4]
    assert blocks[1].last_executed == 0
    assert torch.equal(y, run(nn.Sequential(blocks[0], blocks[2]), x)[0])


@pytest.mark.parametrize("way", ["hook", "given"])
def test_written_over_without_a_version(way):
    """In inference mode, in place, by a block that does not ask for the means."""
    x = features(SOME, 8, 5, torch.float32)
    blocks = chain(inplace=True)
    for block in blocks:
        accept_all(block, x)
    blocks[1].gate.register_forward_hook(lambda gate, args, out: None)
    z = torch.ones(7) if way == "given" else None

    with torch.inference_mode(), Pooled() as pooled:
        y = blocks[1](blocks[0](x.clone()), z)
        assert not hasattr(y, "channel_means")
        blocks[2](y)
    assert pooled.dims[0] == pooled.dims[-1] == 4


def test_used_once():
    """A second reader of the same features, which may be others by then, pools them."""
    x = features(SOME, 8, 5, torch.float32)
    blocks = chain(inplace=True)
    blocks[1].leads = False
    assert run(blocks, x)[1] == [4, 2, 4]


def test_others_pool():
    """Where skipped samples change or the shape does, and where gates close all or none."""
    x = features(SOME, 8, 5, torch.float32)
    for options in ({"nonnegative": False}, {"nonnegative": True, "shortcut": nn.Identity()}):
        block = gated(**options)
        block.leads = True
        accept_all(block, x)
        with torch.no_grad():
            assert not hasattr(block(x), "channel_means")
    rectified = chain()
    for block in rectified:
        block.nonnegative = False
    assert run(rectified, x)[1] == [4, 4, 4]


def test_gate_model_knows_the_order():
    model, x = small(blocks=(3, 2)).eval(), images(count=7)
    gate_model(model, rate=0.5, mode="gather", exact=False)
    assert [b.leads for b in gated_blocks(model).values()] == [True, True, True, True, False]
    for number, block in enumerate(gated_blocks(model).values()):
        nn.init.normal_(block.gate.fc2.weight, std=3, generator=torch.manual_seed(number))
    without = copy.deepcopy(model)
    for block in gated_blocks(without).values():
        block.leads = False
    with Pooled() as pooled, torch.no_grad():
        y = model(x)
    assert 2 in pooled.dims
    with torch.no_grad():
        assert torch.equal(y, without(x))


def test_blocks_behind_another_layer_do_not_lead():
    model = small(blocks=(3,), widths=(4,)).eval()
    model.stages[0].insert(1, nn.Identity())
    gate_model(model)
    assert [b.leads for b in gated_blocks(model).values()] == [False, True, False]
