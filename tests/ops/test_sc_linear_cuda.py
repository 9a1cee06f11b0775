"""sc_linear on CUDA: each of its kernels against plain PyTorch, in graphs, and from run to run."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import pytest
import torch
from accuracy import assert_as_accurate
from gpu import EMULATED, GPU, is_gpu
from torch import Tensor

from fastheads.ops import (
    sc_linear,
    sc_linear_,
    sc_linear_conditional,
    sc_linear_conditional_reference,
    sc_linear_reference,
)

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
PRODUCTS, STREAMED, GROUPED = 0, 1, 2
# Columns of x and of y by group: whole vectors of 16 bytes; outputs that begin anywhere; inputs
# too; groups in one batched product; more groups than a launch takes.
GROUPS = {
    "aligned": ([512, 64, 128], [128, 1000, 8]),
    "ragged outputs": ([64, 8, 64, 200], [1, 0, 333, 70]),
    "ragged": ([3, 0, 17, 130], [5, 9, 0, 65]),
    "alike": ([48] * 5, [24] * 5),
    "many": ([8, 16] * 60, [3, 0, 9, 70] * 30),
}
# Both sides of what decides between kernels and tiles.
BATCHES = [1, 17, 64, 130, 1030]


def offsets(sizes: list[int]) -> list[int]:
    return [0, *accumulate(sizes)]


def inputs_of(
    groups: str, batch: int, dtype: torch.dtype, device: torch.device = GPU, generic: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x, weight, bias, generic."""
    ins, outs = GROUPS[groups]
    generator = torch.Generator(device).manual_seed(batch)
    weights = sum(n * (generic + k) for k, n in zip(ins, outs, strict=True))

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device).to(dtype)

    before = normal(batch, generic) if generic else None
    return normal(batch, sum(ins)), normal(weights), normal(sum(outs)), before


def skip_without(kernel: int, groups: str, dtype: torch.dtype) -> None:
    """Skips what the grouped kernels leave to others."""
    if kernel != GROUPED:
        return
    if not EMULATED and importlib.util.find_spec("cutlass_library") is None:
        pytest.skip("built without nvidia-cutlass")
    if not EMULATED and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs sm_90")
    if dtype.itemsize != 2 or any(size % 8 or size == 0 for size in GROUPS[groups][0]):
        pytest.skip("rows of x and of the weight must be whole vectors of 16 bytes")


def exact(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.double() for t in tensors]


def launched(kernel: int, groups: str, *inputs: Tensor | None) -> Tensor:
    ins, outs = (offsets(sizes) for sizes in GROUPS[groups])
    return torch.ops.fastheads._sc_linear_launched(*inputs, ins, outs, kernel)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [PRODUCTS, STREAMED, GROUPED])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("groups", GROUPS)
def test_every_kernel(groups, batch, kernel, dtype):
    skip_without(kernel, groups, dtype)
    for generic in (0,) if kernel == GROUPED else (0, 24):
        check_forward(kernel, groups, batch, dtype, generic)


def check_forward(kernel: int, groups: str, batch: int, dtype: torch.dtype, generic: int) -> None:
    x, weight, bias, before = inputs_of(groups, batch, dtype, generic=generic)
    ins, outs = (offsets(sizes) for sizes in GROUPS[groups])
    for b in (bias, None):
        ours = launched(kernel, groups, x, weight, b, before)
        eager = sc_linear_reference(x, weight, b, ins, outs, generic=before)
        x64, weight64, b64, before64 = exact(x, weight, b, before)
        wanted = sc_linear_reference(x64, weight64, b64, ins, outs, generic=before64)
        assert_as_accurate(ours, eager, wanted, roundings=4)  # sums in another order


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [PRODUCTS, GROUPED])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("groups", GROUPS)
def test_every_kernel_of_gradients(groups, batch, kernel, dtype):
    skip_without(kernel, groups, dtype)
    ins, outs = (offsets(sizes) for sizes in GROUPS[groups])
    for columns in (0,) if kernel == GROUPED else (0, 8):
        x, weight, _, generic = inputs_of(groups, batch, dtype, generic=columns)
        grad = torch.randn(batch, outs[-1], device=GPU).to(dtype)
        needed = [True, True, True, generic is not None]
        ours = torch.ops.fastheads._sc_linear_backward_launched(
            grad, x, weight, generic, ins, outs, needed, kernel
        )
        wanted, eager = (
            gradients(g, *tensors, ins, outs)
            for g, *tensors in (exact(grad, x, weight, generic), (grad, x, weight, generic))
        )
        for mine, theirs, right in zip(ours, eager, wanted, strict=False):
            assert_as_accurate(mine, theirs, right, roundings=8)


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, generic: Tensor | None, ins: list[int], outs: list[int]
) -> tuple[Tensor, ...]:
    bias = torch.zeros_like(grad[0])
    leaves = [t.requires_grad_() for t in map(torch.clone, (x, weight, bias))]
    before = None if generic is None else generic.clone().requires_grad_()
    y = sc_linear_reference(*leaves, ins, outs, generic=before)
    return torch.autograd.grad(y, [*leaves, *([] if before is None else [before])], grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [3, 70])
@pytest.mark.parametrize("groups", GROUPS)
def test_into_columns_of_a_larger_matrix(groups, batch, dtype, device):
    """Rows at any address; nothing beside them changes."""
    x, weight, bias, _ = inputs_of(groups, batch, dtype, device)
    ins, outs = (offsets(sizes) for sizes in GROUPS[groups])
    for first in (1, 8):
        base = torch.randn(batch, first + outs[-1] + 5, device=device).to(dtype)
        whole = base.clone()
        sc_linear_(whole[:, first : first + outs[-1]], x, weight, bias, ins, outs)
        before, after = base[:, first:-5], whole[:, first:-5]
        eager = before + sc_linear_reference(x, weight, bias, ins, outs)
        wanted = before.double() + sc_linear_reference(*exact(x, weight, bias), ins, outs)
        assert_as_accurate(after, eager, wanted, roundings=4)
        assert torch.equal(whole[:, :first], base[:, :first])
        assert torch.equal(whole[:, -5:], base[:, -5:])


@pytest.mark.parametrize("batch", [3, 70])
def test_one_row_for_all(batch, device):
    """Rows that lie in the same place, as gradients of a sum do."""
    x, weight, bias, _ = inputs_of("alike", batch, torch.float64, device)
    ins, outs = (offsets(sizes) for sizes in GROUPS["alike"])
    row = x[:1].expand_as(x)
    expected = sc_linear(row.contiguous(), weight, bias, ins, outs)
    torch.testing.assert_close(sc_linear(row, weight, bias, ins, outs), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "groups,with_rows", [("ragged", True), ("aligned", True), ("alike", False)]
)
def test_more_pairs_than_a_tile(groups, with_rows, dtype, device):
    ins, outs = (offsets(sizes) for sizes in GROUPS[groups])
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(outs) - 1, (150,), generator=generator)
    chosen[20:90] = 0  # one group far more often than the others
    rows = torch.randint(70, (150,), generator=generator) if with_rows else None
    x, weight, bias, _ = inputs_of(groups, 70, dtype, device)
    if rows is None:
        x = torch.randn(150, GROUPS[groups][0][0], device=device).to(dtype)
    pairs = (None if rows is None else rows.to(device)), chosen.to(device)
    values, begins = sc_linear_conditional(x, weight, bias, *pairs, ins, outs)
    eager, expected = sc_linear_conditional_reference(x, weight, bias, *pairs, ins, outs)
    wanted, _ = sc_linear_conditional_reference(*exact(x, weight, bias), *pairs, ins, outs)
    assert torch.equal(begins, expected)
    assert_as_accurate(values, eager, wanted, roundings=4)


@pytest.mark.parametrize("bad,name", [((0, 3), "groups"), ((0, -1), "groups"), ((5, 0), "rows")])
def test_pairs_out_of_range_are_rejected_with_their_place(bad, name, device):
    rows, groups = torch.zeros(2, 9, dtype=torch.int64)
    rows[7], groups[7] = bad
    with pytest.raises(RuntimeError, match=f"{name} must be from 0 to .* at 7"):
        sc_linear_conditional(
            *(torch.ones(5, 6, device=device), torch.ones(12, device=device), None),
            *(rows.to(device), groups.to(device), [0, 2, 4, 6], [0, 2, 4, 6]),
        )


@contextmanager
def tf32() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    try:
        yield
    finally:
        matmul.allow_tf32 = before


@pytest.mark.parametrize("batch", [16, 130])
@pytest.mark.parametrize("groups", GROUPS)
def test_tf32_is_of_the_library_alone(groups, batch, device):
    """Its factors keep 10 bits: products are off by 2^-9 at most."""
    x, weight, bias, _ = inputs_of(groups, batch, torch.float32, device)
    ins, outs = (offsets(sizes) for sizes in GROUPS[groups])
    grad = torch.randn(batch, outs[-1], device=device)
    rows, chosen = torch.arange(6, device=device), torch.zeros(6, dtype=torch.int64, device=device)
    needed = [True, True, True, False]

    def results() -> list[Tensor]:
        pairs = sc_linear_conditional(x, weight, bias, rows, chosen, ins, outs)[0]
        y = sc_linear(x, weight, bias, ins, outs)
        backward = torch.ops.fastheads.sc_linear_backward
        return [pairs, y, *backward(grad, x, weight, None, ins, outs, needed)]

    plain = results()
    with tf32():
        switched = results()
    own = 2 if batch <= 16 and is_gpu(device) else 1  # not of a library: the same bits
    assert all(map(torch.equal, switched[:own], plain[:own]))
    # In float64 and with the absolute values of all, so that nothing cancels: the bound.
    tensors = exact(grad, x, weight, bias)
    wanted, largest = (
        [sc_linear_reference(b, w, c, ins, outs), *gradients(g, b, w, None, ins, outs)]
        for g, b, w, c in (tensors, map(torch.abs, tensors))
    )
    for mine, right, bound in zip(switched[1:], wanted, largest, strict=False):
        assert ((mine - right).abs() <= 2**-9 * bound).all()


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [PRODUCTS, STREAMED, GROUPED])
def test_in_a_graph_replayed_with_other_inputs(kernel):
    skip_without(kernel, "aligned", torch.bfloat16)
    x, weight, bias, _ = inputs_of("aligned", 80, torch.bfloat16)
    grad = torch.randn(80, len(bias), device="cuda").bfloat16()
    ins, outs = (offsets(sizes) for sizes in GROUPS["aligned"])
    needed = [True, True, True, False]
    backward_kernel = PRODUCTS if kernel == STREAMED else kernel

    def run() -> tuple[Tensor, ...]:
        backward = torch.ops.fastheads._sc_linear_backward_launched
        y = launched(kernel, "aligned", x, weight, bias, None)
        return y, *backward(grad, x, weight, None, ins, outs, needed, backward_kernel)

    run()  # loads the kernels, which a capture must not
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for _ in range(3):
        for tensor in (x, weight, bias, grad):
            tensor.normal_()
        expected = run()
        graph.replay()
        torch.cuda.synchronize()
        for mine, other in zip(captured, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.gpu
def test_pairs_in_a_graph_are_refused():
    arguments = torch.ones(2, 4, device="cuda"), torch.ones(12, device="cuda"), None, None
    groups = torch.zeros(2, dtype=torch.int64, device="cuda")
    with pytest.raises(RuntimeError, match="waits for the device"):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            sc_linear_conditional(*arguments, groups, None, [0, 3])


@pytest.mark.cuda
@pytest.mark.parametrize("kernel", [PRODUCTS, STREAMED, GROUPED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_on_every_repeat(kernel, dtype):
    skip_without(kernel, "ragged outputs", dtype)
    inputs = inputs_of("ragged outputs", 130, dtype)
    first = launched(kernel, "ragged outputs", *inputs)
    assert all(torch.equal(launched(kernel, "ragged outputs", *inputs), first) for _ in range(20))


@pytest.mark.cuda
@pytest.mark.parametrize("kernel", [PRODUCTS, STREAMED, GROUPED])
def test_large_columns_and_weights(kernel):
    """100,000 labels in 20 groups: offsets of W beyond what tiles of one group reach."""
    skip_without(kernel, "alike", torch.bfloat16)
    outs = offsets([5000] * 20)
    x = torch.randn(64, 20 * 512, device=GPU).bfloat16()
    weight = torch.randn(512 * outs[-1], device=GPU).bfloat16()
    ins = offsets([512] * 20)
    y = torch.ops.fastheads._sc_linear_launched(x, weight, None, None, ins, outs, kernel)
    last = x[:, -512:].double() @ weight[-5000 * 512 :].double().view(5000, 512).T
    assert (y[:, -5000:].double() - last).norm() < 5e-3 * last.norm()
    assert not y.isnan().any()
