"""gated_residual in place of x, against the reference and literal cases."""

import itertools
import warnings

import pytest
import torch
from accuracy import assert_as_accurate
from gated import DTYPES, FIRST_STAGE, LAYOUTS, SHAPES, sum_dtype, triple
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck

from fastheads.ops import gated_residual, gated_residual_, gated_residual_reference

NAN, INF = float("nan"), float("inf")


def test_in_place_by_hand_eq_5_3(device):
    x = torch.tensor([[1.0, -2.0], [1.0, -2.0], [1.0, -2.0]], device=device)
    f = torch.tensor([[NAN, INF], [3.0, 1.0], [-4.0, 8.0]], device=device)
    z = torch.tensor([0.0, 1.0, 0.5], device=device)
    y = x.clone()
    gated_residual_(x, f, z)
    gated_residual_(y, f, z, relu=True)
    assert x.tolist() == [[1, -2], [4, -1], [-1, 2]]
    assert y.tolist() == [[1, 0], [4, 0], [0, 2]]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, FIRST_STAGE])
def test_in_place_gives_the_same_bits(shape, dtype, relu, device):
    for layout in LAYOUTS if len(shape) == 4 else ["contiguous"]:
        x, f, z = triple(shape, dtype, device, layout)
        wanted, eager = (
            function(x, f, z, relu=relu) for function in (gated_residual, gated_residual_reference)
        )
        strides, exact = x.stride(), (t.double() for t in (x, f, z))
        gated_residual_(x, f, z, relu=relu)
        assert torch.equal(x, wanted) and x.stride() == strides
        assert_as_accurate(x, eager, gated_residual_reference(*exact, relu=relu))


@pytest.mark.parametrize("dtype", DTYPES)
def test_closed_gates_leave_x_alone(dtype, device):
    """To the bit, whatever is in x and f."""
    x, f, _ = triple((3, 37, 31, 29), dtype, device)
    x[1, 0, 0, :4] = torch.tensor([NAN, INF, -INF, -0.0])
    kept = x.clone()
    gated_residual_(x, f * NAN, torch.tensor([1.0, 0.0, 1.0]).to(device, sum_dtype(dtype)))
    assert torch.equal(x[1].view(torch.uint8), kept[1].view(torch.uint8))
    assert x[0].isnan().all() and x[2].isnan().all()


def test_f_of_any_layout_or_x_itself(device):
    x, f, z = triple((4, 6, 5, 3), torch.float32, device)
    last = torch.channels_last
    views = [lambda t: t.clone(), lambda t: t.contiguous(memory_format=last)]
    strided = [*views, lambda t: torch.stack((t, t), 4)[..., 0], lambda t: t.mT.clone().mT]
    wanted = gated_residual(x, f, z, relu=True)
    doubled = gated_residual(x, x, z)
    for of_x, of_f in itertools.product(views, strided):
        y = of_x(x)
        gated_residual_(y, of_f(f), z, relu=True)
        assert torch.equal(y, wanted)
    for of_x in views:
        y = of_x(x)
        gated_residual_(y, y, z)
        assert torch.equal(y, doubled)
    square = triple((4, 6, 5, 5), torch.float32, device)[0]
    y = square.clone()
    gated_residual_(y, y.mT, z)  # a view of x that is no x: copied first
    assert torch.equal(y, gated_residual(square, square.mT.clone(), z))


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 6), size=st.integers(0, 70))
def test_in_place_agrees_on_any_shape(seed, rows, size):
    generator = torch.Generator().manual_seed(seed)
    x, f = torch.randn(2, rows, size, generator=generator)
    z = torch.rand(rows, generator=generator).round()
    wanted = gated_residual_reference(x, f, z, relu=seed % 2 == 0)
    gated_residual_(x, f, z, relu=seed % 2 == 0)
    assert torch.equal(x, wanted)


def test_in_place_is_not_for_training(device):
    inputs = triple((3, 4), torch.float32, device)
    for needed in range(3):
        x, f, z = (t.clone().requires_grad_(i == needed) for i, t in enumerate(inputs))
        with pytest.raises(RuntimeError, match="no input must require a gradient, since x is over"):
            gated_residual_(x, f, z)
        with torch.no_grad():
            gated_residual_(x, f, z)


def test_opcheck(device):
    for dtype, relu in itertools.product((torch.float64, torch.bfloat16), (False, True)):
        x, f, z = triple((4, 3, 5, 2), dtype, device)
        last = x.contiguous(memory_format=torch.channels_last)
        for view, branch in itertools.product((x, last), (f, f.mT.clone().mT)):
            opcheck(torch.ops.fastheads.gated_residual_.default, (view, branch, z, relu))


def test_compile(device):
    def step(x: Tensor, f: Tensor, z: Tensor) -> Tensor:
        gated_residual_(x, f, z, relu=True)
        return x + 1

    x, f, z = triple((5, 6, 3, 3), torch.float32, device)
    kept = [x.clone() for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        results = [run(kept[i], f, z) for i, run in enumerate((compiled, step))]
    assert torch.equal(*results) and torch.equal(*kept)


def rejected(device):
    """Every check of the operator once: a call and a part of its sentence."""
    x, f, z = triple((3, 4, 2, 2), torch.float32, device)
    longer = triple((4, 4, 2, 2), torch.float32, device)[0]

    def gated(x=x, f=f, z=z):
        return lambda: gated_residual_(x, f, z)

    yield gated(x=z[0]), "x must be [N, ...], got 0 dimensions"
    yield gated(x=x.int()), "x must be float32, float64, float16 or bfloat16, got Int"
    yield gated(f=f[:2]), "f must have the shape of x"
    yield gated(f=f.half()), "f must be Float, got Half"
    yield gated(z=z[:2]), "z must be [3], got 1 dimensions or another size"
    yield gated(z=z.double()), "z must be Float, got Double"
    yield gated(x=x.mT), "x must be contiguous or channels-last"
    yield gated(x=longer[1:], f=longer[:3]), "f must not overlap x, except as a whole"
    yield gated(x=longer[:3], f=longer[1:]), "f must not overlap x, except as a whole"
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
        doubled = x.clone().mul_(2)
        gated_residual_(doubled, f, z, relu=True)
    stream.synchronize()
    assert torch.equal(doubled, wanted)


@pytest.mark.gpu
def test_cuda_graph():
    x, f, z = triple((8, 64, 14, 14), torch.float32, "cuda")
    gated_residual_(x.clone(), f, z)
    graph, kept = torch.cuda.CUDAGraph(), x.clone()
    with torch.cuda.graph(graph):
        y = gated_residual(x, f, z, relu=True)
        gated_residual_(kept, f, z, relu=True)
    z.copy_((torch.arange(8) % 2).to(z))
    kept.copy_(x)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, gated_residual_reference(x, f, z, relu=True)) and torch.equal(kept, y)
