"""csr_matmul against its reference, SciPy and literal cases."""

import numpy as np
import pytest
import torch
from gpu import is_gpu
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastheads.ops import csr_matmul, csr_matmul_reference

DTYPES = [torch.float32, torch.float64]
INDICES = [torch.int32, torch.int64]
# One, narrower than every vector, odd, whole vectors, the target, an odd tail, two groups.
WIDTHS = [1, 2, 7, 16, 28, 32, 33, 64, 131]


def matrix(rows: int, labels: int, mean: int, dtype=torch.float32, index=torch.int32, seed=0):
    """Rows of 0 to about twice ``mean`` nonzeros, columns in any order and some of them twice."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 2 * mean + 1, rows) * (rng.random(rows) < 0.9)
    crow = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    col = torch.from_numpy(rng.integers(0, labels, int(crow[-1])))
    values = torch.from_numpy(rng.standard_normal(len(col)))
    return crow.to(index), col.to(index), values.to(dtype)


def vectors(labels: int, width: int, dtype=torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    return torch.randn(labels, width, generator=generator, dtype=torch.float64).to(dtype)


def assert_as_accurate(crow: Tensor, col: Tensor, values: Tensor, x: Tensor) -> None:
    """Against 80-bit floats, off by at most twice what eager PyTorch is, and one rounding."""
    rows = np.arange(len(crow) - 1).repeat(crow.cpu().diff())
    numbers, block = (part.cpu().numpy().astype(np.longdouble) for part in (values, x))
    exact = np.zeros((len(crow) - 1, x.shape[1]), np.longdouble)
    np.add.at(exact, rows, numbers[:, None] * block[col.cpu()])
    found = csr_matmul(crow, col, values, x)
    assert found.dtype == x.dtype and found.is_contiguous()
    eager = csr_matmul_reference(crow, col, values, x)
    errors = [np.abs(y.cpu().numpy() - exact).max(initial=0) for y in (found, eager)]
    assert errors[0] <= 2 * errors[1] + torch.finfo(x.dtype).eps * np.abs(exact).max(initial=0)


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_by_hand(dtype, index, device):
    """[[0, 2], [0, 0], [3 + 1, -1]] times [[1, 10, 100], [2, 20, 200]]."""
    crow = torch.tensor([0, 1, 1, 4], dtype=index, device=device)
    col = torch.tensor([1, 0, 1, 0], dtype=index, device=device)
    values = torch.tensor([2.0, 3, -1, 1], dtype=dtype, device=device)
    x = torch.tensor([[1.0, 10, 100], [2, 20, 200]], dtype=dtype, device=device)
    expected = [[4, 40, 400], [0, 0, 0], [2, 20, 200]]
    assert csr_matmul(crow, col, values, x).tolist() == expected


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward(dtype, index, width, device):
    for rows, labels, mean in [(1, 1, 1), (40, 13, 3), (23, 301, 150)]:
        a = (part.to(device) for part in matrix(rows, labels, mean, dtype, index))
        assert_as_accurate(*a, vectors(labels, width, dtype).to(device))


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 30),
    labels=st.integers(1, 30),
    width=st.integers(0, 70),
    mean=st.integers(0, 20),
)
def test_any_shape(seed, rows, labels, width, mean):
    """Whole numbers, so that the order of the sums does not matter."""
    crow, col, values = matrix(rows, labels, mean, seed=seed)
    values, x = values.mul(4).round(), vectors(labels, width).mul(4).round()
    found = csr_matmul(crow, col, values, x)
    assert found.shape == (rows, width)
    assert torch.equal(found, csr_matmul_reference(crow, col, values, x))


def test_a_large_matrix_as_scipy_does():
    crow, col, values = matrix(20_000, 20_000, 50, torch.float64)
    x = vectors(20_000, 32, torch.float64)
    a = sparse.csr_array((values.numpy(), col.numpy(), crow.numpy()), (20_000, 20_000))
    np.testing.assert_allclose(csr_matmul(crow, col, values, x).numpy(), a @ x.numpy(), atol=1e-11)


def test_one_row_holds_everything(device):
    _, col, values = matrix(100, 77, 90, index=torch.int64)
    crow = torch.tensor([0] * 500 + [len(col)] * 500)
    a = (part.to(device) for part in (crow, col, values))
    assert_as_accurate(*a, vectors(77, 32).to(device))


@pytest.mark.parametrize("width", [3, 32])
def test_same_bits_for_any_number_of_threads(width):
    a, x = matrix(700, 500, 300), vectors(500, width)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = csr_matmul(*a, x)
        torch.set_num_threads(3)
        assert torch.equal(one, csr_matmul(*a, x))
    finally:
        torch.set_num_threads(threads)


def test_same_bits_from_run_to_run(device):
    a, x = [part.to(device) for part in matrix(300, 500, 300)], vectors(500, 32).to(device)
    assert torch.equal(csr_matmul(*a, x), csr_matmul(*a, x))


def test_strided_inputs(device):
    crow, col, values = (part.to(device) for part in matrix(9, 20, 5))
    apart = [torch.stack([part, part], 1)[:, 0] for part in (crow, col, values)]
    for x in (vectors(20, 7).to(device), vectors(7, 20).to(device).t(), vectors(40, 9)[::2, 2:]):
        assert_as_accurate(*apart, x.to(device))


def test_opcheck(device):
    a, op = [part.to(device) for part in matrix(9, 20, 5)], torch.ops.fastheads.csr_matmul.default
    opcheck(op, (*a, vectors(20, 7).to(device)))
    opcheck(op, (*a, vectors(7, 20).to(device).t()))


def test_compile(device):
    a = [part.to(device) for part in matrix(9, 20, 5)]
    compiled = torch.compile(lambda x: csr_matmul(*a, 2 * x) + 1, fullgraph=True)
    x = vectors(20, 7).to(device)
    assert torch.equal(compiled(x), csr_matmul(*a, 2 * x) + 1)


def test_two_flops_a_nonzero_and_vector():
    crow, col, values = matrix(9, 20, 5)
    with FlopCounterMode(display=False) as counter:
        csr_matmul(crow, col, values, vectors(20, 7))
    assert counter.get_total_flops() == 2 * len(values) * 7


@pytest.mark.parametrize("width", [1, 32])
@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("wrong", [-1, 20, 2**31 - 1, -(2**31)])
def test_column_out_of_range(wrong, index, width, device):
    """Never followed: an error on the CPU, NaN in the row where a check would mean to wait."""
    crow, col, values = (part.to(device) for part in matrix(50, 20, 40, index=index))
    col[crow[30]] = wrong
    x = vectors(20, width).to(device)
    if is_gpu(device):
        bad = csr_matmul(crow, col, values, x).isnan().any(1).nonzero().flatten()
        assert bad.tolist() == [30]
        return
    with pytest.raises(RuntimeError) as error:
        csr_matmul(crow, col, values, x)
    message = (
        f"col_indices must be from 0 to 19, one less than the rows of x, got {wrong} in row 30"
    )
    assert message in str(error.value)


@pytest.mark.parametrize("crow", [[1, 2, 4], [0, 3, 2], [0, 5, 4], [-1, 2, 4], [0, 2, 5]])
def test_rows_out_of_range(crow, device):
    crow = torch.tensor(crow, device=device)
    col, values = torch.tensor([0, 1, 2, 3], device=device), torch.ones(4, device=device)
    x = torch.ones(4, 2, device=device)
    if is_gpu(device):
        ends = [0 <= a <= b <= 4 for a, b in zip(crow.tolist(), crow.tolist()[1:], strict=False)]
        assert csr_matmul(crow, col, values, x).isnan().all(1).logical_not().tolist() == ends
        return
    with pytest.raises(RuntimeError, match="crow_indices must ascend from 0 to the 4 nonzeros"):
        csr_matmul(crow, col, values, x)


def rejected(device):
    """Every check of shapes, dtypes and devices once: arguments and a part of its sentence."""
    crow, col, values = (part.to(device) for part in matrix(9, 20, 5))
    x = vectors(20, 7).to(device)
    yield (crow, col, values, x[0]), "x must be [L, B], got 1 dimensions"
    yield (crow, col, values, x.half()), "x must be float32 or float64, got Half"
    yield (crow[:0], col, values, x), "crow_indices must be [M + 1], got 1 dimensions of 0 entries"
    yield (crow[None], col, values, x), "crow_indices must be [M + 1], got 2 dimensions"
    yield (crow.short(), col, values, x), "crow_indices must be int32 or int64, got Short"
    yield (crow, col.long(), values, x), "col_indices must be [nonzeros] in the dtype of crow_ind"
    yield (crow, col[None], values, x), "col_indices must be [nonzeros]"
    yield (crow, col, values.double(), x), "values must be [nonzeros] in the dtype of x"
    yield (crow, col, values[1:], x), f"values must have the {len(col)} entries of col_indices"
    if device.type == "cuda":
        yield (crow.cpu(), col, values, x), "must be on the device of x"


def test_rejects(device):
    for arguments, message in rejected(device):
        with pytest.raises(RuntimeError) as error:
            torch.ops.fastheads.csr_matmul(*arguments)
        assert message in str(error.value), message


def test_too_many_rows_for_int32():
    """More rows of x than int32 can name, in a tensor that holds one number."""
    x = torch.zeros(1, 1).expand(2**31, 1)
    crow, col = torch.tensor([0, 0], dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="at most 2\\^31 - 1 rows with int32 indices"):
        csr_matmul(crow, col, torch.zeros(0), x)


@pytest.mark.gpu
def test_side_stream():
    a = [part.cuda() for part in matrix(900, 500, 200)]
    x = vectors(500, 32).cuda()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        y = csr_matmul(*a, x.clone().mul_(-1))
    stream.synchronize()
    assert torch.equal(y, csr_matmul(*a, -x))


@pytest.mark.gpu
def test_cuda_graph():
    a = [part.cuda() for part in matrix(900, 500, 200)]
    x = vectors(500, 32).cuda()
    csr_matmul(*a, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = csr_matmul(*a, x)
    x.neg_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, csr_matmul(*a, x))
