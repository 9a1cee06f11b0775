"""How sc_linear is called: what is asked for, strides, repeats, compilers, autocast, rejections."""

import re

import pytest
import torch
from linear_groups import Layer
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastheads.ops import sc_linear, sc_linear_

OP = torch.ops.fastheads


def test_only_what_is_needed(device):
    """A frozen weight has no gradient computed, nor a frozen input."""
    layer = Layer(5, [8, 3], [4, 9], generic=2, device=device)
    given = (layer.grad, layer.x, layer.weight, layer.generic, layer.ins, layer.outs)
    whole = OP.sc_linear_backward(*given, [True] * 4)
    for i in range(4):
        found = OP.sc_linear_backward(*given, [j == i for j in range(4)])
        assert [t.numel() > 0 for t in found] == [j == i for j in range(4)]
        assert torch.equal(found[i], whole[i])


def test_strided_inputs(device):
    layer = Layer(10, [7, 20], [30, 9], generic=4, device=device)
    wanted = layer.gradients(sc_linear, torch.float32)
    wide = torch.zeros(10, 41, device=device)
    wide[:, 3:30] = layer.x
    for x in (layer.x.t().contiguous().t(), wide[:, 3:30]):
        layer.x = x
        layer.generic = layer.generic.t().contiguous().t()
        layer.grad = layer.grad.t().contiguous().t()
        found = layer.gradients(sc_linear, torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    one = torch.ones(1, 1, device=device).expand(6, 5)  # one number in every row and column
    weight = torch.arange(10.0, device=device)
    assert sc_linear(one, weight, None, [0, 5], [0, 2]).tolist() == [[10, 35]] * 6


def test_unread_columns_have_no_gradient(device):
    """Groups without labels leave zeros, whatever was in memory."""
    layer = Layer(40, [3000, 5], [0, 4], device=device)
    grads = OP.sc_linear_backward(
        layer.grad, layer.x, layer.weight, None, layer.ins, layer.outs, [True, True, True, False]
    )
    assert grads[0][:, :3000].eq(0).all() and grads[0][:, 3000:].ne(0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_for_any_number_of_threads(dtype):
    layer = Layer(70, [64, 33, 9], [3000, 1, 700], generic=7, dtype=dtype)
    runs = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        runs.append(layer.gradients(sc_linear, dtype)[:3])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_same_bits_from_run_to_run(device):
    layer = Layer(33, [64, 33, 9], [3000, 1, 700], generic=7, device=device)
    runs = [layer.gradients(sc_linear, torch.float32) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("generic", [None, 2])
def test_opcheck(generic, device):
    layer = Layer(6, [3, 0, 7], [5, 2, 4], generic=generic, device=device)
    x, weight, bias, extra = (t if t is None else t.requires_grad_() for t in layer.tensors())
    places = (layer.ins, layer.outs)
    opcheck(OP.sc_linear.default, (x, weight, bias, extra, *places))
    with torch.no_grad():
        apart = x.t().contiguous().t()
        opcheck(OP.sc_linear.default, (apart, weight, None, extra, *places))
        opcheck(OP.sc_linear_.default, (layer.grad.clone(), x, weight, bias, extra, *places))
        needed = [True, False, True, generic is not None]
        opcheck(OP.sc_linear_backward.default, (layer.grad, apart, weight, extra, *places, needed))
    weight = torch.ones(11 * 10, device=device, requires_grad=True)
    opcheck(OP.sc_linear.default, (x, weight, bias, None, None, layer.outs))


def test_compile(device):
    layer = Layer(6, [3, 7], [5, 4], device=device)
    x, weight, bias, _ = (t if t is None else t.requires_grad_() for t in layer.tensors())

    def call(x, weight, bias):
        y = sc_linear(2 * x, weight, bias, layer.ins, layer.outs) + 1
        return sc_linear_(y, x, weight, bias, layer.ins, layer.outs)

    compiled = torch.compile(call, fullgraph=True)
    results = [f(x, weight, bias) for f in (call, compiled)]
    torch.testing.assert_close(*results)
    grads = [torch.autograd.grad(y.square().sum(), (x, weight, bias)) for y in results]
    torch.testing.assert_close(*grads)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, weight, bias), call(x, weight, bias))


class Module(torch.nn.Module):
    def __init__(self, layer: Layer):
        super().__init__()
        self.weight, self.places = torch.nn.Parameter(layer.weight), (layer.ins, layer.outs)

    def forward(self, x: Tensor) -> Tensor:
        return sc_linear(x, self.weight, None, *self.places)


def test_export(device):
    layer = Layer(6, [3, 7], [5, 4], device=device)
    module = Module(layer)
    batch = {"x": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(module, (layer.x,), dynamic_shapes=batch)
    assert torch.equal(exported.module()(layer.x[:4]), module(layer.x[:4]))


def test_autocast(device):
    layer = Layer(6, [3, 7], [5, 4], device=device)
    leaves = [t if t is None else t.requires_grad_() for t in layer.tensors()]
    with torch.autocast(device.type, torch.bfloat16):
        y = layer(sc_linear, leaves)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert leaves[1].grad.dtype == torch.float32
    low = [t if t is None else t.bfloat16() for t in leaves]
    assert torch.equal(y, layer(sc_linear, low))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_in_place(dtype, device):
    """With gradients or without: into float32 logits, as ``y.add_`` would, and into bfloat16."""
    layer = Layer(6, [3, 7], [5, 4], device=device)
    x, weight, bias, _ = layer.tensors()
    low = sc_linear(*(t.bfloat16() for t in (x, weight, bias)), layer.ins, layer.outs)
    for leaf in (weight, weight.clone().requires_grad_()):
        y = layer.grad.to(dtype, copy=True)
        with torch.autocast(device.type, torch.bfloat16):
            sc_linear_(y, x, leaf, bias, layer.ins, layer.outs)
        assert y.dtype == dtype and y.requires_grad == leaf.requires_grad
        if dtype == torch.float32:  # in bfloat16 the sum may be rounded once or twice
            assert torch.equal(y, layer.grad + low)
        torch.testing.assert_close(y, layer.grad.to(dtype) + low)
    y.sum().backward()
    assert leaf.grad.dtype == torch.float32
    with torch.autocast(device.type, torch.bfloat16):
        y = sc_linear_(y.detach(), x, weight, bias, layer.ins, layer.outs, accumulate=False)
    assert torch.equal(y, low.to(dtype))


def test_flops(device):
    """Two a weight and sample; the gradient of the input and that of the weight cost as much."""
    layer = Layer(6, [3, 7], [5, 4], generic=2, device=device)
    leaves = [t.requires_grad_() for t in layer.tensors()]
    with FlopCounterMode(display=False) as counter:
        layer(sc_linear, leaves).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 6 * layer.weight.numel()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x, weight, bias, generic = leaves
        sc_linear_(layer.grad, x, weight, bias, layer.ins, layer.outs, generic=generic)
    assert counter.get_total_flops() == 2 * 6 * layer.weight.numel()


def rejected(device):
    """Every check once: arguments and a part of its sentence."""
    layer = Layer(6, [3, 7], [5, 4], generic=2, device=device)
    x, weight, bias, generic = layer.tensors()
    ins, outs = layer.ins, layer.outs
    good = {"x": x, "weight": weight, "bias": bias, "generic": generic, "in_": ins, "out": outs}

    def but(**change):
        return tuple((good | change).values())

    yield but(x=x[0]), "x must be [B, K], got 1 dimensions"
    yield but(x=x.int()), "x must be float32, float64, float16 or bfloat16, got Int"
    yield but(weight=weight.double()), "weight must be Float, got Double"
    yield but(weight=weight[1:]), f"weight must be [{weight.numel()}], got 1 dimensions of"
    yield but(weight=weight[None]), "got 2 dimensions"
    yield but(bias=bias[1:]), "bias must be [9], got 1 dimensions of 8 entries"
    yield but(bias=bias.half()), "bias must be Float, got Half"
    yield but(generic=generic[1:]), "generic must be [6, s]"
    yield but(generic=generic.half()), "generic must be Float, got Half"
    yield but(in_=[0, 3]), "in_offsets must have the 3 entries of out_offsets, got 2"
    yield but(in_=[0, 3, 9]), "in_offsets must end with the 10 columns of x, got 9"
    yield but(in_=[0, 11, 10]), "in_offsets must ascend, got 10 after 11 at 2"
    yield but(in_=[1, 3, 10]), "in_offsets must begin with 0"
    yield but(out=[]), "out_offsets must begin with 0, got none"
    yield but(out=[0, 5, 4]), "out_offsets must ascend, got 4 after 5 at 2"
    if device.type == "cuda":
        yield but(weight=weight.cpu()), "weight must be on the device of x"


def test_rejects(device):
    for arguments, message in rejected(device):
        with pytest.raises(RuntimeError) as error:
            OP.sc_linear(*arguments)
        assert message in str(error.value), message
    layer = Layer(6, [3, 7], [5, 4], device=device)
    for y, message in [
        (layer.grad[1:], "y must be [6, 9], got 2 dimensions or other sizes"),
        (layer.grad.double(), "y must be Float, got Double"),
    ]:
        with pytest.raises(RuntimeError) as error:
            sc_linear_(y, layer.x, layer.weight, layer.bias, layer.ins, layer.outs)
        assert message in str(error.value), message
        before, found = y.clone(), f"got {list(y.shape)} of {y.dtype}"
        with pytest.raises(RuntimeError, match=re.escape(f"of torch.float32, {found}")):
            weight = layer.weight.clone().requires_grad_()
            sc_linear_(y, layer.x, weight, layer.bias, layer.ins, layer.outs)
        assert torch.equal(y, before)


@pytest.mark.gpu
def test_side_stream():
    layer = Layer(64, [64] * 5, [300] * 5, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        y = layer(sc_linear, [layer.x.clone().mul_(-1), *layer.tensors()[1:]])
    stream.synchronize()
    assert torch.equal(y, layer(sc_linear, [-layer.x, *layer.tensors()[1:]]))


@pytest.mark.gpu
def test_cuda_graph():
    layer = Layer(64, [64] * 5, [300] * 5, device="cuda")
    layer(sc_linear)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(sc_linear)
    layer.x.neg_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, layer(sc_linear))
