"""gated_residual against its reference and literal cases, forward and backward."""

import itertools
import warnings

import pytest
import torch
from accuracy import assert_as_accurate
from gated import DTYPES, FIRST_STAGE, LAYOUTS, SHAPES, samples, sum_dtype, triple
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastheads.ops import (
    active_samples,
    gated_residual,
    gated_residual_,
    gated_residual_reference,
    gated_residual_scatter_,
)

NAN, INF = float("nan"), float("inf")


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


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, FIRST_STAGE])
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_one_large_map(dtype, layout, device):
    """Of a single sum, eager's rounding may be any; that of n terms grows with sqrt(n)."""
    x, f, z = triple(FIRST_STAGE, dtype, device, layout)
    upstream = samples(FIRST_STAGE, dtype, device, 3)
    inputs = [t.requires_grad_() for t in (x, f, z + 0.3)]
    grad_x, grad_f, grad_z = torch.autograd.grad(gated_residual(*inputs), inputs, upstream)
    wanted = (upstream.to(sum_dtype(dtype)) * inputs[2].detach()).to(dtype)
    assert torch.equal(grad_x, upstream) and torch.equal(grad_f, wanted)
    exact = (upstream.double() * f.double()).sum()
    error = (grad_z.double() - exact).abs().item()
    assert error <= 4 * torch.finfo(grad_z.dtype).eps * x.numel() ** 0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_pass_where_the_result_is_nan(dtype, device):
    """As those of PyTorch's ReLU: what went wrong shows in the gradients too."""
    for layout in LAYOUTS:
        x, f, z = triple((4, 64, 4, 4), dtype, device, layout)
        x[0, 3, 1, 2], x[1, 63, 3, 3], z[2] = NAN, NAN, NAN
        inputs = [t.requires_grad_() for t in (x, f, z)]
        upstream = samples(x.shape, dtype, device, 3)
        ours, eager = (
            torch.autograd.grad(function(*inputs, relu=True), inputs, upstream)
            for function in (gated_residual, gated_residual_reference)
        )
        passed = ours[0][0, 3, 1, 2], ours[0][1, 63, 3, 3], *ours[0][2].flatten()
        wanted = upstream[0, 3, 1, 2], upstream[1, 63, 3, 3], *upstream[2].flatten()
        assert torch.equal(torch.stack(passed), torch.stack(wanted))
        for a, b in zip(ours[:2], eager[:2], strict=True):
            assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))
        assert torch.equal(ours[2].isnan(), eager[2].isnan())


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
    results = []
    for count in (1, 4):
        torch.set_num_threads(count)
        results += torch.autograd.grad(gated_residual(x, f, z).square().sum(), z)
    assert torch.equal(*results)


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
    matrix = torch.randn(5, 4, device=device)
    opcheck(ops.gated_residual.default, (matrix.t(), matrix.t(), torch.ones(4).to(device), True))


def test_compile(device):
    inputs = [t.requires_grad_() for t in triple((5, 6, 3, 3), torch.float32, device)]

    def step(x: Tensor, f: Tensor, z: Tensor) -> Tensor:
        return gated_residual(x, f, z, relu=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        ours, eager = compiled(*inputs), step(*inputs)
    assert torch.equal(ours, eager)
    gradients = [torch.autograd.grad(y.square().sum(), inputs) for y in (ours, eager)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_flops(device):
    """By hand, of 120 elements: 2 for x + z f, 2 for the sum of g f; what only adds has none."""
    x, f, z = (t.requires_grad_() for t in triple((4, 3, 5, 2), torch.float32, device))
    for need, backward in ((True, 240), (False, 0)):
        with FlopCounterMode(display=False) as counter:
            gated_residual(x, f, z.detach().requires_grad_(need)).backward(torch.ones_like(x))
        assert counter.get_total_flops() == 240 + backward
    active = torch.tensor([3, 1], device=device)
    for in_place, flops in (
        (lambda: gated_residual_(x, f, z), 240),
        (lambda: gated_residual_scatter_(x, f[:2], active), 0),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            in_place()
        assert counter.get_total_flops() == flops


def rejected(device):
    """Every check of the operator once: a call and a part of its sentence."""
    ops = torch.ops.fastheads
    x, f, z = triple((3, 4, 2, 2), torch.float32, device)

    def gated(x=x, f=f, z=z):
        return lambda: gated_residual(x, f, z)

    def backward(grad=f, y=None, f=None):
        return lambda: ops.gated_residual_backward(grad, y, f, z)

    yield gated(x=z[0]), "x must be [N, ...], got 0 dimensions"
    yield gated(x=x.int()), "x must be float32, float64, float16 or bfloat16, got Int"
    yield gated(f=f[:2]), "f must have the shape of x"
    yield gated(f=f.half()), "f must be Float, got Half"
    yield gated(z=z[:2]), "z must be [3], got 1 dimensions or another size"
    yield gated(z=z.double()), "z must be Float, got Double"
    yield backward(y=x[:2]), "y must have the shape of grad"
    yield backward(f=x.half()), "f must be Float, got Half"
    if device.type == "cuda":
        yield gated(f=f.cpu()), "f must be on the device of x"


def test_rejects(device):
    for call, message in rejected(device):
        with pytest.raises(RuntimeError) as error:
            call()
        assert message in str(error.value), message


@pytest.mark.gpu
def test_side_stream():
    x, f, z = triple((32, 64, 28, 28), torch.float32, "cuda")
    wanted = gated_residual(x * 2, f, z, relu=True)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        y = gated_residual(x.clone().mul_(2), f, z, relu=True)
    stream.synchronize()
    assert torch.equal(y, wanted)
