"""topk_confusion against its references, a NumPy brute force and literal cases."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck

from fastheads.ops import (
    topk_co_detection_,
    topk_co_detection_reference,
    topk_confusion_,
    topk_confusion_reference,
    topk_indices,
    topk_indices_reference,
)

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# One, primes, a whole row kept, the running bound, a bound from lanes, a k beyond every buffer, and
# bounds from blocks of 64, 256 and 64 labels.
SHAPES = [(1, 1, 1), (7, 5, 5), (3, 127, 10), (4, 2503, 100), (2, 9001, 100), (2, 9001, 4999)]
SHAPES += [(3, 701, 2), (2, 9001, 3), (2, 30011, 100)]
INF, NAN = float("inf"), float("nan")


def rank(scores: Tensor, k: int) -> np.ndarray:
    """Top k by Python's own sort: by NaN, then score, then label."""
    rows = scores.double().cpu().tolist()
    keys = [[(x != x, -x if x == x else 0.0, i) for i, x in enumerate(row)] for row in rows]
    return np.array([[i for *_, i in sorted(row)[:k]] for row in keys], np.int64).reshape(-1, k)


def count(first: list[list[int]], second: list[list[int]], labels: int) -> np.ndarray:
    counts = np.zeros((labels, labels), np.int64)
    for a, b in zip(first, second, strict=True):
        for i in a:
            for j in b:
                counts[i, j] += 1
    return counts


def csr(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    flat = torch.tensor([label for row in rows for label in row], dtype=torch.int64)
    return flat.to(device), torch.from_numpy(offsets).to(device)


def scores_of(kind: str, rows: int, labels: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows * labels)
    x = torch.randn(rows, labels, generator=generator)
    chance = torch.rand(rows, labels, generator=generator)
    if kind == "ascending":
        return x.sort(dim=1).values
    if kind == "descending":
        return x.sort(dim=1, descending=True).values
    if kind == "equal":
        return torch.zeros_like(x)
    if kind == "signed zeros":
        return torch.where(chance < 0.5, 0.0, -0.0)
    if kind == "few values":
        return x.round()
    if kind == "mostly nan":
        return x.masked_fill(chance < 0.99, NAN).masked_fill(chance < 0.5, -NAN)
    if kind == "some nan":
        return x.masked_fill(chance < 0.01, NAN).masked_fill(chance < 0.005, -NAN)
    if kind == "negative":
        return x - 100
    if kind == "all nan but one":
        return torch.full_like(x, NAN).index_fill_(1, torch.tensor([labels - 1]), -INF)
    if kind == "many inf":
        return x.masked_fill(chance < 0.5, INF)
    if kind == "mostly -inf":
        return x.masked_fill(chance < 0.999, -INF)
    if kind == "denormal":
        return x * 1e-40
    if kind == "peaks in one block":
        return x - 100 * (torch.arange(labels) // 256 != 3)
    return x


KINDS = [
    "normal",
    "ascending",
    "descending",
    "equal",
    "signed zeros",
    "few values",
    "mostly nan",
    "some nan",
    "negative",
    "all nan but one",
    "many inf",
    "mostly -inf",
    "denormal",
    "peaks in one block",
]


def test_top_by_hand(device):
    """Ties by lowest label, -0 equal to 0, NaN below -inf."""
    scores = torch.tensor(
        [[1.0, 3.0, 3.0, 2.0, -1.0], [-0.0, NAN, 0.0, -INF, NAN], [INF, 1.0, INF, -INF, 5.0]],
        device=device,
    )
    expected = [[1, 2, 3, 0, 4], [0, 2, 3, 1, 4], [0, 2, 4, 1, 3]]
    for k in range(1, 6):
        assert topk_indices(scores, k).tolist() == [row[:k] for row in expected]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_top_equals_reference(kind, dtype, device):
    for rows, labels, k in SHAPES:
        scores = scores_of(kind, rows, labels).to(device, dtype)
        top = topk_indices(scores, k)
        assert top.dtype == torch.int64 and top.is_contiguous()
        assert torch.equal(top, topk_indices_reference(scores, k)), (rows, labels, k)
        if labels < 200:
            np.testing.assert_array_equal(top.cpu().numpy(), rank(scores, k))


@pytest.mark.parametrize("kind", ["normal", "ascending", "few values"])
def test_top_of_a_huge_odd_row(kind, device):
    scores = scores_of(kind, 1, 2_000_003).to(device)
    assert torch.equal(topk_indices(scores, 100), topk_indices_reference(scores, 100))


@given(st.data())
def test_top_equals_brute_force(data):
    labels = data.draw(st.integers(1, 40))
    rows = data.draw(st.integers(0, 4))
    values = st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 1e-45, -1e-45]),
        st.floats(width=32),
    )
    scores = torch.tensor(
        data.draw(st.lists(values, min_size=rows * labels, max_size=rows * labels))
    ).reshape(rows, labels)
    k = data.draw(st.integers(1, labels))
    for dtype in DTYPES:
        x = scores.to(dtype)
        np.testing.assert_array_equal(topk_indices(x, k).numpy(), rank(x, k))


@given(seed=st.integers(0, 2**32 - 1), labels=st.integers(1, 30_000), log_k=st.floats(0, 1))
def test_top_equals_torch_on_any_shape(seed, labels, log_k):
    k = max(1, round(labels**log_k))
    scores = torch.randn(2, labels, generator=torch.Generator().manual_seed(seed))
    top = topk_indices(scores, k)
    assert torch.equal(scores.gather(1, top), scores.topk(k, dim=1).values)
    assert torch.equal(top, topk_indices_reference(scores, k))


@pytest.mark.parametrize("dtype", DTYPES)
def test_top_of_strided_rows(dtype, device):
    base = torch.randn(9, 300, device=device).to(dtype)
    for scores in (base.t(), base[:, 7:250], base[::2], base[:, ::3], base[:1].expand(4, 300)):
        assert torch.equal(topk_indices(scores, 5), topk_indices_reference(scores, 5))


def test_top_does_not_depend_on_threads():
    scores = scores_of("few values", 64, 3000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = topk_indices(scores, 50)
    finally:
        torch.set_num_threads(max(2, threads))
    two = topk_indices(scores, 50)
    torch.set_num_threads(threads)
    assert torch.equal(one, two)


def test_no_rows(device):
    top = topk_indices(torch.empty(0, 9, device=device), 3)
    assert top.shape == (0, 3) and top.dtype == torch.int64
    counts = torch.ones(9, 9, dtype=torch.int32, device=device)
    topk_co_detection_(counts, top)
    topk_confusion_(counts, top, *csr([], device))
    assert torch.equal(counts, torch.ones_like(counts))


def test_indicators_eq_1_and_2(device):
    """One row: a cell is 1 where M[i] g[j] = 1, that is top label by annotated label."""
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7]], device=device)
    counts = torch.zeros(4, 4, dtype=torch.int32, device=device)
    topk_confusion_(counts, topk_indices(scores, 2), *csr([[0, 3]], device))
    assert counts.tolist() == [[0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]]


def test_confusion_eq_3(device):
    """By hand: label 1 detected in both rows, annotated 2 in both and 0 in one."""
    top = torch.tensor([[1, 0], [2, 1]], device=device)
    counts = torch.zeros(3, 3, dtype=torch.int64, device=device)
    topk_confusion_(counts, top, *csr([[0, 2], [2]], device))
    assert counts.tolist() == [[1, 0, 1], [1, 0, 2], [0, 0, 1]]


def test_co_detection_eq_4(device):
    """By hand, in the upper triangle; the diagonal counts detections."""
    top = torch.tensor([[1, 0], [2, 1]], device=device)
    counts = torch.zeros(3, 3, dtype=torch.int64, device=device)
    topk_co_detection_(counts, top)
    assert counts.tolist() == [[1, 1, 0], [0, 2, 1], [0, 0, 1]]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("rows,labels,k", [(1, 1, 1), (5, 7, 3), (300, 61, 20), (2000, 40, 17)])
def test_counts_equal_brute_force(rows, labels, k, dtype, device):
    generator = np.random.default_rng(labels)
    top = torch.stack([torch.from_numpy(generator.permutation(labels)[:k]) for _ in range(rows)])
    annotation = [
        generator.permutation(labels)[: generator.integers(0, min(4, labels + 1))].tolist()
        for _ in range(rows)
    ]
    start = torch.randint(0, 9, (labels, labels), dtype=dtype, device=device)
    indices, offsets = csr(annotation, device)
    confusion, co_detection = start.clone(), start.clone()
    topk_confusion_(confusion, top.to(device), indices, offsets)
    topk_co_detection_(co_detection, top.to(device))
    gained = (confusion - start).cpu().numpy(), (co_detection - start).cpu().numpy()
    np.testing.assert_array_equal(gained[0], count(top.tolist(), annotation, labels))
    np.testing.assert_array_equal(gained[1], np.triu(count(top.tolist(), top.tolist(), labels)))
    topk_confusion_reference(start, top.to(device), indices, offsets)
    assert torch.equal(start, confusion)
    start.copy_(co_detection)
    topk_co_detection_(co_detection, top.to(device))
    topk_co_detection_reference(start, top.to(device))
    assert torch.equal(start, co_detection)


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 60), labels=st.integers(1, 200))
def test_counts_equal_reference_on_any_shape(seed, rows, labels):
    generator = torch.Generator().manual_seed(seed)
    k = int(torch.randint(1, labels + 1, (), generator=generator))
    top = topk_indices(torch.randn(rows, labels, generator=generator), k)
    ours, theirs = (torch.zeros(labels, labels, dtype=torch.int32) for _ in range(2))
    topk_co_detection_(ours, top)
    topk_co_detection_reference(theirs, top)
    assert torch.equal(ours, theirs)


def test_counts_of_strided_top(device):
    top = topk_indices(torch.randn(8, 20, device=device), 6)
    ours, theirs = (torch.zeros(20, 20, dtype=torch.int32, device=device) for _ in range(2))
    topk_co_detection_(ours, top[::2, :4])
    topk_co_detection_reference(theirs, top[::2, :4])
    assert torch.equal(ours, theirs)


def test_more_rows_than_16_bits_count():
    """One cell gains more than 65,535 in one call."""
    counts = torch.zeros(2, 2, dtype=torch.int32)
    topk_co_detection_(counts, torch.tensor([[1, 0]]).repeat(70_001, 1))
    assert counts.tolist() == [[70_001, 70_001], [0, 70_001]]


def test_opcheck(device):
    ops = torch.ops.fastheads
    scores = torch.randn(6, 40, device=device)
    for x in (scores, scores.t(), scores[:, ::2], scores.bfloat16()):
        opcheck(ops.topk_indices.default, (x, 3))
    top = topk_indices(scores, 4)
    counts = torch.zeros(40, 40, dtype=torch.int32, device=device)
    for t in (top, topk_indices(scores[:4], 6).t()):
        opcheck(ops.topk_co_detection_.default, (counts, t))
        opcheck(ops.topk_confusion_.default, (counts, t, *csr([[1]] * 6, device)))


def test_compile(device):
    def step(co_detection: Tensor, confusion: Tensor, scores: Tensor) -> Tensor:
        top = topk_indices(scores, 3)
        topk_co_detection_(co_detection, top)
        topk_confusion_(confusion, top, indices, offsets)
        return top

    scores = torch.randn(5, 30, device=device)
    indices, offsets = csr([[4, 9], [], [9], [0], [29]], device)
    zeros = torch.zeros(30, 30, dtype=torch.int32, device=device)
    eager, compiled = ([zeros.clone() for _ in range(2)] for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        top = torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled, scores)
    assert torch.equal(top, step(*eager, scores))
    for counts, expected in zip(compiled, eager, strict=True):
        assert counts.any() and torch.equal(counts, expected)


def rejected(device):
    """Every check of the operators once: a call and a part of its sentence."""
    ops = torch.ops.fastheads
    x = torch.zeros(2, 5, device=device)
    top = torch.tensor([[0, 1], [2, 3]], device=device)
    counts = torch.zeros(5, 5, dtype=torch.int32, device=device)
    indices, offsets = csr([[4], [0]], device)

    def confusion(*, c=counts, t=top, i=indices, o=offsets):
        return lambda: ops.topk_confusion_(c, t, i, o)

    def co_detection(c=counts, t=top):
        return lambda: ops.topk_co_detection_(c, t)

    low, high = top.clone(), top.clone()
    low[1, 0], high[0, 1] = -1, 5
    yield lambda: ops.topk_indices(x[0], 1), "scores must be [N, L], got 1 dimensions"
    yield lambda: ops.topk_indices(x.int(), 1), "scores must be float32, float64"
    yield lambda: ops.topk_indices(x, 0), "k must be between 1 and the 5 labels of scores, got 0"
    yield lambda: ops.topk_indices(x, 6), "k must be between 1 and the 5 labels of scores, got 6"
    yield lambda: ops.topk_indices(x[:, :0], 1), "k must be between 1 and the 0 labels"
    yield co_detection(counts[:4]), "counts must be [L, L]"
    yield co_detection(counts.float()), "counts must be int32 or int64, got Float"
    yield co_detection(torch.zeros(5, 10, device=device).int()[:, ::2]), "counts must be contiguous"
    yield co_detection(t=top[0]), "top must be [N, K], got 1 dimensions"
    yield co_detection(t=top.int()), "top must be int64, got Int"
    yield co_detection(t=low), "top must hold labels from 0 to 4, got -1 in row 1"
    yield co_detection(t=high), "top must hold labels from 0 to 4, got 5 in row 0"
    yield confusion(t=high), "top must hold labels from 0 to 4, got 5 in row 0"
    yield confusion(i=indices.int()), "indices must be [nonzeros] int64"
    yield confusion(o=offsets.int()), "offsets must be [N + 1] int64"
    yield confusion(o=offsets[:2]), "offsets must have 3 entries"
    yield confusion(i=indices + 1), "indices must hold labels from 0 to 4, got 5 in row 0"
    yield confusion(i=indices - 1), "indices must hold labels from 0 to 4, got -1 in row 1"
    yield confusion(o=offsets + 1), "offsets must ascend from 0 to the 2 entries of indices"
    yield confusion(o=offsets.flip(0)), "offsets must ascend"
    yield confusion(o=offsets.clamp(max=1)), "offsets must ascend"
    if device.type == "cuda":
        yield co_detection(t=top.cpu()), "top must be on the device of counts"
        yield confusion(i=indices.cpu()), "indices and offsets must be on the device of counts"


def test_rejects(device):
    for call, message in rejected(device):
        with pytest.raises(RuntimeError) as error:
            call()
        assert message in str(error.value), message


def test_a_rejected_batch_counts_nothing(device):
    counts = torch.zeros(5, 5, dtype=torch.int32, device=device)
    with pytest.raises(RuntimeError, match="in row 99"):
        topk_co_detection_(counts, torch.tensor([[0, 1]] * 99 + [[0, 5]], device=device))
    assert not counts.any()


@pytest.mark.gpu
def test_side_stream():
    scores = torch.randn(64, 9001, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        shifted = scores.clone().mul_(-1)
        counts = torch.zeros(9001, 9001, dtype=torch.int32, device="cuda")
        top = topk_indices(shifted, 10)
        topk_co_detection_(counts, top)
        rows = torch.arange(65, device="cuda")  # row n is annotated with label n
        confusion = torch.zeros_like(counts)
        topk_confusion_(confusion, top, rows[:64], rows)
    stream.synchronize()
    assert torch.equal(top, topk_indices_reference(-scores, 10))
    assert int(counts.sum()) == 64 * 10 * 11 // 2
    expected = torch.zeros_like(counts)
    expected[top, rows[:64, None]] = 1
    assert torch.equal(confusion, expected)


@pytest.mark.gpu
def test_cuda_graph():
    scores = torch.randn(8, 9001, device="cuda")
    topk_indices(scores, 10)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        top = topk_indices(scores, 10)
    scores.neg_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(top, topk_indices_reference(scores, 10))
