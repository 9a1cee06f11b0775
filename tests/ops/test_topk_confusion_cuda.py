"""What decides between kernels on a GPU: few or many rows, narrow or wide, few or many labels.

The same cases hold on the CPU.
"""

import pytest
import torch
from gpu import GPU
from test_topk_confusion import DTYPES, INF, KINDS, NAN, scores_of

from fastheads.ops import (
    topk_co_detection_,
    topk_co_detection_reference,
    topk_indices,
    topk_indices_reference,
)

# A row for each block of 128 threads; a row in parts on several blocks; rows in turn; k too large
# for parts, for a sample, for the list of a block.
SHAPES = [
    (300, 1024, 100),
    (5, 1024, 1024),
    (1, 70_001, 100),
    (3, 33_003, 1024),
    (2, 8192, 1),
    (400, 5003, 100),
    (2, 20_011, 1025),
    (2, 9001, 4097),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows,labels,k", SHAPES)
def test_every_shape(rows, labels, k, dtype, device):
    scores = scores_of("normal", rows, labels).to(device, dtype)
    assert torch.equal(topk_indices(scores, k), topk_indices_reference(scores, k))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_one_wide_row(kind, dtype, device):
    """Ties and NaN within a part and across parts, samples that mislead, and all of a row equal."""
    scores = scores_of(kind, 1, 40_009).to(device, dtype)
    for k in (1, 100, 1000):
        assert torch.equal(topk_indices(scores, k), topk_indices_reference(scores, k))


def test_best_at_the_ends_of_parts(device):
    """One row in 16 parts: the best are the first and last labels of each, then NaN."""
    labels, parts = 65_536, 16
    scores = torch.full((1, labels), NAN, device=device)
    ends = torch.arange(parts, device=device) * (labels // parts)
    best = torch.cat([ends, ends + labels // parts - 1]).sort().values
    scores[0, best] = 1.0
    scores[0, best[5]] = INF
    expected = torch.cat([best[5:6], best[:5], best[6:]])
    top = topk_indices(scores, 40)[0]
    assert torch.equal(top[: 2 * parts], expected)
    rest = torch.arange(labels, device=device)[scores[0].isnan()]
    assert torch.equal(top[2 * parts :], rest[: 40 - 2 * parts])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_at_any_address(dtype, device):
    """Rows that begin and end off the 16 bytes that a thread reads at once."""
    base = scores_of("normal", 2, 9100).to(device, dtype)
    for first in range(9):
        scores = base[:, first : 9050 + 3 * first]
        assert torch.equal(topk_indices(scores, 50), topk_indices_reference(scores, 50))


def top_of(rows, labels, k, device):
    return topk_indices(scores_of("normal", rows, labels).to(device), k)


# A product of bits: one tile, several, with more rows than a step; one by one: many labels.
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    "rows,labels,k", [(1, 2, 1), (513, 128, 9), (700, 300, 20), (1025, 129, 64), (8, 3000, 5)]
)
def test_co_detection_either_way(rows, labels, k, dtype, device):
    top = top_of(rows, labels, k, device)
    counts = torch.randint(0, 9, (labels, labels), dtype=dtype, device=device)
    expected = counts.clone()
    topk_co_detection_(counts, top)
    topk_co_detection_reference(expected, top)
    assert torch.equal(counts, expected)


@pytest.mark.parametrize("labels", [150, 3000])
def test_counts_beyond_32_bits(labels, device):
    top = top_of(10, labels, 5, device)
    counts = torch.full((labels, labels), 2**31 - 1, device=device)
    expected = torch.full_like(counts, 2**31 - 1)
    topk_co_detection_(counts, top)
    topk_co_detection_reference(expected, top)
    assert torch.equal(counts, expected)


@pytest.mark.gpu  # too long to emulate
def test_more_rows_than_bits_at_a_time():
    """The matrix of bits of 230,000 rows is made in two parts."""
    top = topk_indices(torch.rand(230_000, 5000, device=GPU), 50)
    whole, halves = (torch.zeros(5000, 5000, dtype=torch.int32, device=GPU) for _ in range(2))
    topk_co_detection_(whole, top)
    for half in top.chunk(2):
        topk_co_detection_(halves, half)
    assert torch.equal(whole, halves)
    assert torch.equal(whole.diagonal(), top.flatten().bincount(minlength=5000).int())


@pytest.mark.gpu
def test_graph_of_rows_in_parts():
    """The counters of the blocks that share a row are cleared at every replay."""
    scores = torch.randn(2, 90_000, device="cuda")
    topk_indices(scores, 100)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        top = topk_indices(scores, 100)
    for _ in range(3):
        scores.normal_()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(top, topk_indices_reference(scores, 100))


@pytest.mark.gpu
def test_counting_in_a_graph_is_refused():
    counts = torch.zeros(9, 9, dtype=torch.int32, device="cuda")
    top = torch.zeros(4, 1, dtype=torch.int64, device="cuda")
    with pytest.raises(RuntimeError, match="waits for the device"):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            topk_co_detection_(counts, top)


@pytest.mark.cuda
def test_the_same_on_every_run():
    scores = torch.randn(4, 100_000, device=GPU).bfloat16()
    first = topk_indices(scores, 100)
    assert all(torch.equal(topk_indices(scores, 100), first) for _ in range(20))
