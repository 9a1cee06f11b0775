"""sc_linear and sc_linear_ against their reference, float64 and literal cases."""

import os
import subprocess
import sys
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastheads.ops import sc_linear, sc_linear_, sc_linear_conditional, sc_linear_reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OP = torch.ops.fastheads


def offsets(sizes) -> list[int]:
    return [0, *accumulate(sizes)]


class Layer:
    """Random inputs of one layer; ``read`` None for a shared input of ``shared`` columns."""

    def __init__(self, batch, read, written, *, generic=None, shared=0, bias=True, device="cpu",
                 dtype=torch.float32):  # fmt: skip
        generator = torch.Generator().manual_seed(batch)

        def draw(*shape):
            values = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return values.to(dtype).to(device)

        widths = [shared] * len(written) if read is None else read
        self.ins = None if read is None else offsets(read)
        self.outs = offsets(written)
        size = sum(n * (k + (generic or 0)) for n, k in zip(written, widths, strict=True))
        self.x = draw(batch, shared if read is None else sum(read))
        self.weight, self.bias = draw(size), draw(sum(written)) if bias else None
        self.generic = None if generic is None else draw(batch, generic)
        self.grad = draw(batch, sum(written))

    def tensors(self) -> list[Tensor | None]:
        return [self.x, self.weight, self.bias, self.generic]

    def __call__(self, function, tensors=None):
        x, weight, bias, generic = tensors or self.tensors()
        return function(x, weight, bias, self.ins, self.outs, generic=generic)

    def gradients(self, function, dtype) -> list[Tensor]:
        """Of every tensor, and the result before them."""
        leaves = [t if t is None else t.detach().to(dtype).requires_grad_() for t in self.tensors()]
        y = self(function, leaves)
        wanted = [t for t in leaves if t is not None]
        grads = torch.autograd.grad(y, wanted, self.grad.to(dtype), materialize_grads=True)
        return [y.detach(), *grads]


def assert_as_accurate(layer: Layer) -> None:
    """Result and gradients: off by at most twice what eager PyTorch is, and one rounding."""
    dtype = layer.x.dtype
    wanted = layer.gradients(sc_linear_reference, torch.float64)
    eager, found = (layer.gradients(f, dtype) for f in (sc_linear_reference, sc_linear))
    for ours, theirs, exact in zip(found, eager, wanted, strict=True):
        assert ours.dtype == dtype and ours.shape == exact.shape and ours.is_contiguous()
        if exact.numel() == 0:
            continue
        errors = [(t.double() - exact).abs().max() for t in (ours, theirs)]
        # In float64 eager is the reference itself, so its error is not known: 64 roundings.
        roundings = 64 if dtype == torch.float64 else 1
        assert errors[0] <= 2 * errors[1] + roundings * torch.finfo(dtype).eps * exact.abs().max()


def zipf(groups: int, largest: int) -> list[int]:
    return [max(1, int(largest / (g + 1))) for g in range(groups)]


# columns read and labels written by group: equal, ragged, sizes 0 and 1, not divisible by 8.
GROUPS = {
    "one": ([1], [1]),
    "equal": ([64] * 4, [64] * 4),
    "ragged": ([33, 7, 130, 16], [5, 41, 1, 200]),
    "empty": ([3, 0, 17, 4, 0], [0, 6, 0, 13, 0]),
    "zipf": ([24] * 30, zipf(30, 900)),
    "long": ([600, 1100], [13, 7]),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_by_hand(dtype, device):
    """Figure 3 (d) of Gao et al.: generic features before those of the group."""

    def tensor(values):
        return torch.tensor(values, dtype=dtype, device=device)

    x, generic = tensor([[1.0, 2, 3]]), tensor([[10.0]])
    weight = tensor([1.0, 1, 0, 2, 0, 1, 0, 4, 1, 5])  # [2, 1 + 2] and [2, 1 + 1]
    y = sc_linear(x, weight, tensor([0.0, 1, 2, 3]), [0, 2, 3], [0, 2, 4], generic=generic)
    assert y.tolist() == [[11, 10 * 2 + 2 + 1, 12 + 2, 10 + 15 + 3]]
    shared = sc_linear(x, tensor([1.0, 0, 0, 0, 1, 1]), None, None, [0, 1, 2])
    assert shared.tolist() == [[1, 5]]


@pytest.mark.parametrize("generic", [None, 9])
@pytest.mark.parametrize("batch", [0, 1, 7, 64])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_accuracy(dtype, groups, batch, generic, device):
    assert_as_accurate(Layer(batch, *GROUPS[groups], generic=generic, device=device, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_batch(dtype, device):
    assert_as_accurate(Layer(1000, [40, 9], [130, 21], generic=3, device=device, dtype=dtype))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [16, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_groups(dtype, batch, bias, device):
    layer = Layer(
        batch, [256, 0, 256, 300], [512, 3, 700, 0], bias=bias, device=device, dtype=dtype
    )
    assert_as_accurate(layer)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_shared_input(bias, dtype, device):
    assert_as_accurate(
        Layer(13, None, [5, 0, 70], shared=37, bias=bias, device=device, dtype=dtype)
    )


def test_no_groups(device):
    x, weight = torch.ones(3, 0, device=device), torch.ones(0, device=device)
    assert sc_linear(x, weight, weight, [0], [0]).shape == (3, 0)


def test_every_pair_is_the_whole_layer(device):
    layer = Layer(5, [33, 7, 20], [40, 40, 40], device=device)
    rows = torch.arange(5, device=device).repeat_interleave(3)
    groups = torch.arange(3, device=device).repeat(5)
    x, weight, bias, _ = layer.tensors()
    values, _ = sc_linear_conditional(x, weight, bias, rows, groups, layer.ins, layer.outs)
    torch.testing.assert_close(values.view(5, -1), layer(sc_linear))


def test_many_small_groups(device):
    rng = np.random.default_rng(0)
    written, read = rng.integers(1, 51, 2000).tolist(), rng.integers(1, 20, 2000).tolist()
    layer = Layer(3, read, written, device=device)
    torch.testing.assert_close(layer(sc_linear), layer(sc_linear_reference))
    assert_as_accurate(Layer(3, read[:150], written[:150], device=device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_vocabulary(dtype, device):
    """100,000 labels, the largest group 30,000, the smallest 1; gradients summed over segments."""
    written = [*zipf(12, 30_000), 1]
    written.append(100_000 - sum(written))
    assert_as_accurate(Layer(2, [8] * 14, written, device=device, dtype=dtype))


@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(0, 40),
    sizes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6),
    generic=st.none() | st.integers(0, 20),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_shape(seed, batch, sizes, generic, dtype):
    """Whole numbers, so that the order of the sums does not matter."""
    layer = Layer(batch, [k for k, _ in sizes], [n for _, n in sizes], generic=generic, dtype=dtype)
    for tensor in (*layer.tensors(), layer.grad):
        if tensor is not None:
            tensor.mul_(3).round_()
    found, wanted = (layer.gradients(f, dtype) for f in (sc_linear, sc_linear_reference))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("generic", [None, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place(dtype, generic, device):
    """Adds to columns of a larger matrix, to transposed logits, and overwrites."""
    layer = Layer(9, [12, 30], [17, 6], generic=generic, device=device, dtype=dtype)
    product = layer(sc_linear_reference, [t if t is None else t.double() for t in layer.tensors()])
    larger = layer.grad.new_zeros(9, 31)
    for y in (layer.grad.clone(), larger[:, 5:28], layer.grad.t().contiguous().t()):
        before = y.double()
        for add in (True, False):
            wanted = before + product if add else product
            y.copy_(before)
            x, *rest = layer.tensors()
            given = (*rest[:2], layer.ins, layer.outs)
            assert sc_linear_(y, x, *given, generic=rest[2], accumulate=add) is y
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(y.double(), wanted, rtol=4 * eps, atol=16 * eps)
    assert larger[:, :5].eq(0).all() and larger[:, 28:].eq(0).all()


def test_gradients_in_place(device):
    layer = Layer(4, [3, 5], [6, 2], generic=2, device=device, dtype=torch.float64)
    x, weight, bias, generic = (t.requires_grad_() for t in layer.tensors())
    base = layer.grad.clone().requires_grad_()

    def added(base, x, weight, bias, generic):
        return sc_linear_(2 * base, x, weight, bias, layer.ins, layer.outs, generic=generic)

    assert torch.autograd.gradcheck(added, (base, x, weight, bias, generic))
    with pytest.raises(ValueError, match="accumulate must be True where gradients are wanted"):
        sc_linear_(2 * base, x, weight, bias, layer.ins, layer.outs, generic=generic,
                   accumulate=False)  # fmt: skip


@pytest.mark.parametrize("groups", ["ragged", "empty"])
@pytest.mark.parametrize("generic", [None, 2])
def test_gradcheck(groups, generic, device):
    read, written = GROUPS[groups]
    layer = Layer(2, [k % 9 for k in read], [n % 7 for n in written], generic=generic,
                  device=device, dtype=torch.float64)  # fmt: skip
    leaves = [t for t in layer.tensors() if t is not None]

    def call(*tensors):
        return layer(sc_linear, [*tensors, None][:4])

    assert torch.autograd.gradcheck(call, [t.requires_grad_() for t in leaves])


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


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_with_lesser_instruction_sets(capability):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(
        [*command, "-k", "hand or ragged-7 or long-7 or large_batch or any_shape or test_in_place"],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout + run.stderr


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


@pytest.mark.cuda
def test_side_stream():
    layer = Layer(64, [64] * 5, [300] * 5, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        y = layer(sc_linear, [layer.x.clone().mul_(-1), *layer.tensors()[1:]])
    stream.synchronize()
    assert torch.equal(y, layer(sc_linear, [-layer.x, *layer.tensors()[1:]]))


@pytest.mark.cuda
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
