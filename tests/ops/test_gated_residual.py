"""gated_residual and its in-place scatter against their references and literal cases."""

import itertools
import os
import subprocess
import sys
import warnings

import pytest
import torch
from accuracy import assert_as_accurate
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastheads.ops import (
    active_samples,
    gated_residual,
    gated_residual_reference,
    gated_residual_scatter_,
    gated_residual_scatter_reference,
)

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# One, primes, whole vectors, more than one part a sample, empty in either way.
SHAPES = [(1, 1), (5, 7, 3, 5), (4, 64, 4, 4), (3, 129), (3, 37, 31, 29), (0, 8), (3, 0)]
IMAGES = [(6, 1, 1, 1), (7, 5, 3, 5), (6, 64, 8, 8), (4, 2100, 3, 3), (3, 17, 40, 41)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
NAN, INF = float("nan"), float("inf")


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def samples(shape, dtype, device, seed=0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)


def gates(count, dtype, device) -> Tensor:
    """0, 1 and between, in turns."""
    return torch.tensor([0.0, 1.0, 0.3]).repeat(count)[:count].to(device, sum_dtype(dtype))


def triple(shape, dtype, device, layout="contiguous") -> tuple[Tensor, Tensor, Tensor]:
    x, f = (samples(shape, dtype, device, seed) for seed in (1, 2))
    if len(shape) == 4:
        x, f = (t.contiguous(memory_format=LAYOUTS[layout]) for t in (x, f))
    return x, f, gates(shape[0], dtype, device)


def test_gated_residual_by_hand_eq_5_3(device):
    x = torch.tensor([[1.0, -2.0], [1.0, -2.0], [1.0, -2.0]], device=device)
    f = torch.tensor([[NAN, INF], [3.0, 1.0], [-4.0, 8.0]], device=device)
    z = torch.tensor([0.0, 1.0, 0.5], device=device)
    assert gated_residual(x, f, z).tolist() == [[1, -2], [4, -1], [-1, 2]]
    assert gated_residual(x, f, z, relu=True).tolist() == [[1, 0], [4, 0], [0, 2]]


def test_gradients_by_hand(device):
    """Y = [[2, 0], [0, 3]]: where it is 0, no gradient; dz is <g, f>, df is z g."""
    x = torch.tensor([[1.0, -5.0], [-1.0, 1.0]], device=device, requires_grad=True)
    f = torch.tensor([[2.0, 4.0], [-6.0, 4.0]], device=device, requires_grad=True)
    z = torch.tensor([0.5, 0.5], device=device, requires_grad=True)
    y = gated_residual(x, f, z, relu=True)
    assert y.tolist() == [[2, 0], [0, 3]]
    upstream = torch.tensor([[1.0, 10.0], [100.0, 1000.0]], device=device)
    grad_x, grad_f, grad_z = torch.autograd.grad(y, (x, f, z), upstream)
    assert grad_x.tolist() == [[1, 0], [0, 1000]]
    assert grad_f.tolist() == [[0.5, 0], [0, 500]]
    assert grad_z.tolist() == [2, 4000]


def test_scatter_by_hand(device):
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device).reshape(2, 1, 1, 2)
    mean = torch.tensor([[7.0], [8.0]], device=device)
    f = torch.tensor([-9.0, 2.0], device=device).reshape(1, 1, 1, 2)
    active = torch.tensor([1, 0], device=device)
    gated_residual_scatter_(x, f, active, mean, relu=True)
    assert x.flatten().tolist() == [1, 2, 0, 6] and mean.tolist() == [[7], [3]]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_as_accurate_as_eager(shape, dtype, relu, device):
    for layout in LAYOUTS if len(shape) == 4 else ["contiguous"]:
        x, f, z = triple(shape, dtype, device, layout)
        y = gated_residual(x, f, z, relu=relu)
        eager = gated_residual_reference(x, f, z, relu=relu)
        exact = gated_residual_reference(x.double(), f.double(), z.double(), relu=relu)
        assert_as_accurate(y, eager, exact)
        assert y.stride() == x.stride()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [False, True])
def test_open_gates_give_the_dense_addition_to_the_bit(relu, dtype, device):
    x, f, z = triple((3, 37, 31, 29), dtype, device)
    x[0, 0, 0, :4] = torch.tensor([NAN, INF, -INF, -0.0])
    dense = x + f
    y = gated_residual(x, f, torch.ones_like(z), relu=relu)
    assert torch.equal(y.nan_to_num(7), (dense.relu() if relu else dense).nan_to_num(7))
    closed = gated_residual(x, f * NAN, torch.zeros_like(z), relu=relu)
    assert torch.equal(closed.nan_to_num(7), (x.relu() if relu else x).nan_to_num(7))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_as_accurate_as_eager(shape, dtype, relu, device):
    for layout in LAYOUTS if len(shape) == 4 else ["contiguous"]:
        inputs = [t.requires_grad_() for t in triple(shape, dtype, device, layout)]
        upstream = samples(shape, dtype, device, 3)
        # The ReLU's mask comes from the same y for all: a rounding must not open or close it.
        mask = gated_residual(*inputs) > 0 if relu else torch.ones_like(upstream)

        def gradients(function, inputs, upstream, **options):
            return torch.autograd.grad(function(*inputs, **options), inputs, upstream)

        ours = gradients(gated_residual, inputs, upstream, relu=relu)
        masked = upstream * mask.to(dtype)
        eager = gradients(gated_residual_reference, inputs, masked)
        doubles = [t.detach().double().requires_grad_() for t in inputs]
        exact = gradients(gated_residual_reference, doubles, masked.double())
        for a, b, c in zip(ours, eager, exact, strict=True):
            assert_as_accurate(a, b, c, roundings=4)  # three sums dz: eager's may all be lucky


@pytest.mark.parametrize("needed", list(itertools.product((False, True), repeat=3)))
@pytest.mark.parametrize("relu", [False, True])
def test_gradients_of_any_subset(relu, needed, device):
    """The same values, whichever inputs need them."""
    if not any(needed):
        return
    full = [t.requires_grad_() for t in triple((4, 3, 5, 2), torch.float32, device)]
    some = [t.detach().requires_grad_(need) for t, need in zip(full, needed, strict=True)]
    for inputs in (full, some):
        gated_residual(*inputs, relu=relu).square().sum().backward()
    for wanted, got, need in zip(full, some, needed, strict=True):
        assert torch.equal(got.grad, wanted.grad) if need else got.grad is None


@pytest.mark.parametrize("relu", [False, True])
def test_gradcheck(relu, device):
    x, f, z = (t.requires_grad_() for t in triple((3, 2, 3, 2), torch.float64, device))
    last = f.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    for branch in (f, last):
        assert torch.autograd.gradcheck(
            lambda *inputs: gated_residual(*inputs, relu=relu), (x, branch, z.detach())
        )
    open_ = (z.detach() + 0.5).requires_grad_()  # z = 0 does without f: no derivative there
    assert torch.autograd.gradcheck(lambda *i: gated_residual(*i, relu=relu), (x, f, open_))


def test_any_layout_of_either(device):
    x, f, z = triple((4, 6, 5, 3), torch.float32, device)
    wanted = gated_residual(x, f, z, relu=True)
    last = torch.channels_last
    views = [lambda t: t, lambda t: t.contiguous(memory_format=last)]
    views += [lambda t: torch.stack((t, t), 4)[..., 0], lambda t: t.mT.clone().mT]
    for of_x, of_f in itertools.product(views, repeat=2):
        assert torch.equal(gated_residual(of_x(x), of_f(f), z, relu=True), wanted)


@pytest.mark.parametrize("means", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", IMAGES)
def test_scatter_is_as_accurate_as_eager(shape, layout, dtype, means, device):
    x, f, z = triple(shape, dtype, device, layout)
    active, count = active_samples(z)
    f = f[: int(count)]
    mean = torch.full(shape[:2], 7.0, dtype=sum_dtype(dtype), device=device) if means else None

    def scattered(function, dtype):
        arguments = [
            t if t is None else t.to(dtype if t.dtype == x.dtype else sum_dtype(dtype)).clone()
            for t in (x, f, mean)
        ]
        function(*arguments[:2], active, arguments[2], relu=True)
        return arguments[0], arguments[2]

    ours = scattered(gated_residual_scatter_, dtype)
    eager = scattered(gated_residual_scatter_reference, dtype)
    exact = scattered(gated_residual_scatter_reference, torch.float64)
    assert torch.equal(ours[0], eager[0]) and ours[0].stride() == x.stride()
    if means:
        assert_as_accurate(ours[1], eager[1], exact[1])
        assert (ours[1][z == 0] == 7).all()


@pytest.mark.parametrize("count", [-1, 0, 2, 5, 9])
def test_scatter_counts_on_the_device(count, device):
    """Rows beyond count are padding: neither they nor what active says of them matter."""
    x, f, _ = triple((6, 3, 4, 4), torch.float32, device)
    active = torch.tensor([5, 0, 3, 1, 2], device=device)
    valid = max(0, min(count, 5))
    wanted, got = x.clone(), x.clone()
    gated_residual_scatter_reference(wanted, f[:valid], active)
    active[valid:] = 99
    counted = torch.tensor([count], device=device)
    mean, kept = (torch.zeros(6, 3, device=device) for _ in range(2))
    gated_residual_scatter_(got, f[:5], active, mean, count=counted)
    gated_residual_scatter_(x, f[:5], active, count=counted)
    kept[active[:valid]] = wanted[active[:valid]].mean((2, 3))
    assert torch.equal(got, wanted) and torch.equal(x, wanted)
    torch.testing.assert_close(mean, kept)


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 6), size=st.integers(0, 70))
def test_both_ways_agree_on_any_shape(seed, rows, size):
    """Gated in one pass, or computed for the open samples alone and added in place."""
    generator = torch.Generator().manual_seed(seed)
    x, f = torch.randn(2, rows, size, generator=generator)
    x = x.relu()  # then a skipped sample is what it was
    z = (torch.rand(rows, generator=generator) < 0.5).float()
    y = gated_residual(x, f, z, relu=True)
    assert torch.equal(y, gated_residual_reference(x, f, z, relu=True))
    active, count = active_samples(z)
    gated_residual_scatter_(x, f[active[: int(count)]], active, relu=True)
    assert torch.equal(x, y)


def test_sums_do_not_depend_on_threads():
    x, f, z = (t.requires_grad_() for t in triple((2, 9, 90, 90), torch.float32, "cpu"))
    last = x.detach().contiguous(memory_format=torch.channels_last)[:1]
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            (grad,) = torch.autograd.grad(gated_residual(x, f, z).square().sum(), z)
            mean = torch.zeros(1, 9)
            active = torch.tensor([0])
            gated_residual_scatter_(last.clone(), f.detach()[:1], active, mean)
            results.append((grad, mean))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_with_lesser_instruction_sets(capability):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    run = subprocess.run(
        [
            *command,
            "-k",
            "by_hand or to_the_bit or every_half or (accurate and (shape1 or shape4))",
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_rounds_as_pytorch_does(dtype):
    """All 65,536 numbers, alone and in random sums, to the bit."""
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)[None]
    other = bits[:, torch.randperm(65536, generator=torch.Generator().manual_seed(0))]
    third = torch.full((1,), 1 / 3)
    for ours, wanted in (
        (gated_residual(bits, other, torch.zeros(1)), bits),
        (gated_residual(bits, other, torch.ones(1)), bits + other),
        (gated_residual(torch.zeros_like(bits), bits, third), (bits.float() * third).to(dtype)),
    ):
        nan = wanted.isnan()
        assert torch.equal(ours.isnan(), nan)
        assert torch.equal(ours[~nan].float(), wanted[~nan].float())


def test_scatter_is_not_for_training(device):
    x, f, _ = triple((3, 4), torch.float32, device)
    active = torch.tensor([1, 0, 2], device=device)
    with pytest.raises(RuntimeError, match="x and f must not require gradients"):
        gated_residual_scatter_(x, f.requires_grad_(), active)
    with torch.no_grad():
        gated_residual_scatter_(x, f, active)


def test_opcheck(device):
    ops = torch.ops.fastheads
    for dtype, relu in itertools.product((torch.float64, torch.bfloat16), (False, True)):
        x, f, z = triple((4, 3, 5, 2), dtype, device)
        last = x.contiguous(memory_format=torch.channels_last)
        for view in (x, last, x.transpose(2, 3).clone().transpose(2, 3)):
            for need in (False, True):
                inputs = [t.detach().requires_grad_(need) for t in (view, f, z)]
                opcheck(ops.gated_residual.default, (*inputs, relu))
            y = torch.relu(view) if relu else None
            for branch in (None, f):
                opcheck(ops.gated_residual_backward.default, (f, y, branch, z))
        active, count = active_samples(z)
        mean = torch.zeros(4, 3, dtype=sum_dtype(dtype), device=device)
        for view, m, c in ((x, None, None), (last, mean, count)):
            opcheck(ops.gated_residual_scatter_.default, (view, f[:2], active, c, m, relu))
    matrix = torch.randn(5, 4, device=device)
    opcheck(ops.gated_residual.default, (matrix.t(), matrix.t(), torch.ones(4).to(device), True))


def test_compile(device):
    def step(x: Tensor, f: Tensor, z: Tensor, kept: Tensor, mean: Tensor) -> Tensor:
        y = gated_residual(x, f, z, relu=True)
        active, count = active_samples(z.detach())
        gated_residual_scatter_(kept, f.detach(), active, mean, count=count, relu=True)
        return y

    inputs = [t.requires_grad_() for t in triple((5, 6, 3, 3), torch.float32, device)]
    kept = [inputs[0].detach().clone() for _ in range(2)]
    means = [torch.zeros(5, 6, device=device) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        ours, eager = compiled(*inputs, kept[0], means[0]), step(*inputs, kept[1], means[1])
    assert torch.equal(ours, eager)
    assert torch.equal(*kept) and torch.equal(*means)
    gradients = [torch.autograd.grad(y.square().sum(), inputs) for y in (ours, eager)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_flops(device):
    """2 an element forward, 3 backward with the gate's gradient, 1 in place."""
    x, f, z = (t.requires_grad_() for t in triple((4, 3, 5, 2), torch.float32, device))
    with FlopCounterMode(display=False) as counter:
        gated_residual(x, f, z).backward(torch.ones_like(x))
    assert counter.get_total_flops() == (2 + 3) * 120
    active = torch.tensor([3, 1], device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        gated_residual_scatter_(x, f[:2], active)
    assert counter.get_total_flops() == 60


def rejected(device):
    """Every check of the operators once: a call and a part of its sentence."""
    ops = torch.ops.fastheads
    x, f, z = triple((3, 4, 2, 2), torch.float32, device)
    mean = torch.zeros(3, 4, device=device)
    active = torch.tensor([2, 0, 1], device=device)

    def gated(x=x, f=f, z=z):
        return lambda: gated_residual(x, f, z)

    def backward(grad=f, y=None, f=None):
        return lambda: ops.gated_residual_backward(grad, y, f, z)

    def scatter(x=x, f=f, active=active, mean=mean, count=None):
        return lambda: gated_residual_scatter_(x, f, active, mean, count=count)

    yield gated(x=z[0]), "x must be [N, ...], got 0 dimensions"
    yield gated(x=x.int()), "x must be float32, float64, float16 or bfloat16, got Int"
    yield gated(f=f[:2]), "f must have the shape of x"
    yield gated(f=f.half()), "f must be Float, got Half"
    yield gated(z=z[:2]), "z must be [3], got 1 dimensions or another size"
    yield gated(z=z.double()), "z must be Float, got Double"
    yield backward(y=x[:2]), "y must have the shape of grad"
    yield backward(f=x.half()), "f must be Float, got Half"
    yield scatter(f=f[0]), "x and f must be [N, ...] and [B, ...], got 4 and 3 dimensions"
    yield scatter(f=f[:, :3]), "f must have samples of the shape of x's, got 3 for 4"
    yield scatter(x=x.int(), f=f.int()), "x must be float32"
    yield scatter(f=f.half()), "f must be Float, got Half"
    yield scatter(active=active[:2]), "active must list a row for each of the 3 samples of f"
    yield scatter(active=active.int()), "active must be Long, got Int"
    yield scatter(count=active), "count must be [1], got 3 elements"
    yield scatter(count=active[:1].int()), "count must be Long, got Int"
    yield scatter(x=x.mT), "x must be contiguous or channels-last"
    yield scatter(x=x[..., 0], f=f[..., 0]), "x must be contiguous or channels-last"
    yield scatter(x=x.flatten(1), f=f.flatten(1)), "x must be [N, C, H, W] with pixels"
    yield scatter(mean=mean[:2]), "mean must be [3, 4], got 2 dimensions or other sizes"
    yield scatter(mean=mean.double()), "mean must be Float, got Double"
    yield scatter(mean=mean.reshape(4, 3).t()), "mean must be contiguous, got strides 1, 3"
    if device.type == "cuda":
        yield gated(f=f.cpu()), "f must be on the device of x"
        yield scatter(active=active.cpu()), "active must be on the device of x"
        yield scatter(mean=mean.cpu()), "mean must be on the device of x"
    else:
        yield scatter(active=active - 1), "active must hold rows from 0 to 2, got -1 at 1"
        yield scatter(active=active + 1), "active must hold rows from 0 to 2, got 3 at 0"


def test_rejects(device):
    for call, message in rejected(device):
        with pytest.raises(RuntimeError) as error:
            call()
        assert message in str(error.value), message


def test_a_rejected_list_writes_nothing():
    x, f, _ = triple((3, 4), torch.float32, "cpu")
    kept = x.clone()
    with pytest.raises(RuntimeError, match="got 3 at 2"):
        gated_residual_scatter_(x, f, torch.tensor([0, 1, 3]))
    assert torch.equal(x, kept)


@pytest.mark.cuda
def test_rows_outside_are_left_out_without_a_wait():
    x, f, _ = triple((3, 4, 2, 2), torch.float32, "cuda")
    wanted = x.clone()
    wanted[1] += f[1]
    gated_residual_scatter_(x, f, torch.tensor([-1, 1, 3], device="cuda"))
    assert torch.equal(x, wanted)


@pytest.mark.cuda
def test_side_stream():
    x, f, z = triple((32, 64, 28, 28), torch.float32, "cuda")
    wanted = gated_residual(x * 2, f, z, relu=True)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        doubled = x.clone().mul_(2)
        y = gated_residual(doubled, f, z, relu=True)
        gated_residual_scatter_(doubled, f, torch.arange(32, device="cuda"), relu=True)
    stream.synchronize()
    assert torch.equal(y, wanted) and torch.equal(doubled, (x * 2 + f).relu())


@pytest.mark.cuda
def test_cuda_graph():
    x, f, z = triple((8, 64, 14, 14), torch.float32, "cuda")
    mean = torch.zeros(8, 64, device="cuda")
    gated_residual(x, f, z)
    gated_residual_scatter_(x.clone(), f, *active_samples(z)[:1], mean)
    graph, kept = torch.cuda.CUDAGraph(), x.clone()
    with torch.cuda.graph(graph):
        y = gated_residual(x, f, z, relu=True)
        active, count = active_samples(z)
        gated_residual_scatter_(kept, f[active], active, mean, count=count, relu=True)
    z.copy_((torch.arange(8) % 2).to(z))
    kept.copy_(x)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, gated_residual_reference(x, f, z, relu=True))
    opened = z > 0
    assert torch.equal(kept[opened], y[opened]) and torch.equal(kept[~opened], x[~opened])
    torch.testing.assert_close(mean[opened], y[opened].mean((2, 3)))
