"""The in-place scatter of gated_residual against its reference and literal cases."""

import itertools
import warnings

import pytest
import torch
from accuracy import assert_as_accurate
from gated import DTYPES, LAYOUTS, sum_dtype, triple
from gpu import GPU, is_gpu
from torch import Tensor
from torch.library import opcheck

from fastheads.ops import (
    active_samples,
    gated_residual_scatter_,
    gated_residual_scatter_reference,
)

IMAGES = [(6, 1, 1, 1), (7, 5, 3, 5), (6, 64, 8, 8), (4, 2100, 3, 3), (3, 17, 40, 41)]
IMAGES += [(3, 9, 112, 112), (600, 5, 3, 2)]


def test_scatter_by_hand(device):
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device).reshape(2, 1, 1, 2)
    mean = torch.tensor([[7.0], [8.0]], device=device)
    f = torch.tensor([-9.0, 2.0], device=device).reshape(1, 1, 1, 2)
    active = torch.tensor([1, 0], device=device)
    gated_residual_scatter_(x, f, active, mean, relu=True)
    assert x.flatten().tolist() == [1, 2, 0, 6] and mean.tolist() == [[7], [3]]


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


def test_means_do_not_depend_on_threads():
    x, f, _ = triple((2, 9, 90, 90), torch.float32, "cpu", "channels-last")
    results = []
    for count in (1, 4):
        torch.set_num_threads(count)
        results.append(torch.zeros(1, 9))
        gated_residual_scatter_(x[:1].clone(), f[:1], torch.tensor([0]), results[-1])
    assert torch.equal(*results)


def test_scatter_is_not_for_training(device):
    x, f, _ = triple((3, 4), torch.float32, device)
    active = torch.tensor([1, 0, 2], device=device)
    with pytest.raises(RuntimeError, match="no input must require a gradient"):
        gated_residual_scatter_(x, f.requires_grad_(), active)
    with torch.no_grad():
        gated_residual_scatter_(x, f, active)


def test_opcheck(device):
    op = torch.ops.fastheads.gated_residual_scatter_.default
    for dtype, relu in itertools.product((torch.float64, torch.bfloat16), (False, True)):
        x, f, z = triple((4, 3, 5, 2), dtype, device)
        active, count = active_samples(z)
        last = x.contiguous(memory_format=torch.channels_last)
        mean = torch.zeros(4, 3, dtype=sum_dtype(dtype), device=device)
        for view, m, c in ((x, None, None), (last, mean, count)):
            opcheck(op, (view, f[:2], active, c, m, relu))


def test_compile(device):
    def step(x: Tensor, f: Tensor, z: Tensor, mean: Tensor) -> Tensor:
        active, count = active_samples(z)
        gated_residual_scatter_(x, f, active, mean, count=count, relu=True)
        return x + 1

    x, f, z = triple((5, 6, 3, 3), torch.float32, device)
    kept = [x.clone() for _ in range(2)]
    means = [torch.zeros(5, 6, device=device) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        results = [run(kept[i], f, z, means[i]) for i, run in enumerate((compiled, step))]
    assert torch.equal(*results) and torch.equal(*kept) and torch.equal(*means)


def rejected(device):
    """Every check of the operator once: a call and a part of its sentence."""
    x, f, _ = triple((3, 4, 2, 2), torch.float32, device)
    mean = torch.zeros(3, 4, device=device)
    active = torch.tensor([2, 0, 1], device=device)

    def scatter(x=x, f=f, active=active, mean=mean, count=None):
        return lambda: gated_residual_scatter_(x, f, active, mean, count=count)

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
        yield scatter(f=f.cpu()), "f must be on the device of x"
        yield scatter(active=active.cpu()), "active must be on the device of x"
        yield scatter(mean=mean.cpu()), "mean must be on the device of x"
    if not is_gpu(device):
        yield scatter(active=active - 1), "active must hold rows from 0 to 2, got -1 at 1"
        yield scatter(active=active + 1), "active must hold rows from 0 to 2, got 3 at 0"


def test_rejects(device):
    for call, message in rejected(device):
        with pytest.raises(RuntimeError) as error:
            call()
        assert message in str(error.value), message


@pytest.mark.parametrize("rows", [(0, 3), (1, 3), (0, 1), (3, 4), (2, 2)], ids=str)
def test_a_branch_in_the_memory_of_x_is_an_error(rows, device):
    """However the rows come, some would be read after they have been written."""
    memory, _, _ = triple((5, 4, 2, 2), torch.float32, device)
    x, f, kept = memory[1:], memory[rows[0] : rows[1]], memory.clone()
    active = torch.tensor([2, 0, 1], device=device)
    if rows in ((0, 1), (2, 2)):  # in front of x, and nothing at all
        gated_residual_scatter_(x, f, active)
        kept[3] += 0 if rows == (2, 2) else kept[0]
    else:
        with pytest.raises(RuntimeError, match="f must not overlap x, whose rows change meanwhile"):
            gated_residual_scatter_(x, f, active)
    assert torch.equal(memory, kept)


def test_a_rejected_list_writes_nothing():
    x, f, _ = triple((3, 4), torch.float32, "cpu")
    kept = x.clone()
    with pytest.raises(RuntimeError, match="got 3 at 2"):
        gated_residual_scatter_(x, f, torch.tensor([0, 1, 3]))
    assert torch.equal(x, kept)


@pytest.mark.cuda
def test_rows_outside_are_left_out_without_a_wait():
    x, f, _ = triple((3, 4, 2, 2), torch.float32, GPU)
    wanted = x.clone()
    wanted[1] += f[1]
    gated_residual_scatter_(x, f, torch.tensor([-1, 1, 3], device=GPU))
    assert torch.equal(x, wanted)


@pytest.mark.gpu
def test_side_stream():
    x, f, _ = triple((32, 64, 28, 28), torch.float32, "cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        doubled = x.clone().mul_(2)
        gated_residual_scatter_(doubled, f, torch.arange(32, device="cuda"), relu=True)
    stream.synchronize()
    assert torch.equal(doubled, (x * 2 + f).relu())


@pytest.mark.gpu
def test_cuda_graph():
    x, f, z = triple((8, 64, 14, 14), torch.float32, "cuda")
    mean = torch.zeros(8, 64, device="cuda")
    gated_residual_scatter_(x.clone(), f, *active_samples(z)[:1], mean)
    graph, kept = torch.cuda.CUDAGraph(), x.clone()
    with torch.cuda.graph(graph):
        active, count = active_samples(z)
        gated_residual_scatter_(kept, f[active], active, mean, count=count, relu=True)
    z.copy_((torch.arange(8) % 2).to(z))
    kept.copy_(x)
    graph.replay()
    torch.cuda.synchronize()
    opened = z > 0
    wanted = (x + f).relu()
    assert torch.equal(kept[opened], wanted[opened]) and torch.equal(kept[~opened], x[~opened])
    torch.testing.assert_close(mean[opened], wanted[opened].mean((2, 3)))
