"""The best labels of a large vocabulary without ever holding the logits of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastheads.nn.heads import TopLayers
from fastheads.nn.sc_linear import SCLinear
from fastheads.ops import topk_indices
from fastheads.ops.scratch import scratch_on

Best = tuple[Tensor, Tensor]  # logits, labels


@torch.no_grad()
def topk_logits(
    head: TopLayers | SCLinear | nn.Linear,
    x: Tensor,
    k: int,
    per_group: bool = False,
    *,
    generic: Tensor | None = None,
    scratch_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Finds the ``k`` largest logits of each row and their labels, best first.

    ``torch.topk(head(x), k)``, but of equal logits the lowest label goes first on every device, NaN
    goes last, and only a chunk of the logits is there at a time.

    Args:
        head: a head, whose labels are those of its grouping; or a layer, whose labels are its
            outputs.
        x: ``[N, features]``, what the head reads.
        k: between 1 and the number of labels.
        per_group: the best ``k`` of each group of a head or an ``SCLinear``, of any size.
        generic: ``[N, generic]``, of an ``SCLinear`` with generic inputs.
        scratch_bytes: the most that is held at a time, besides the hidden units of a head and the
            result, as long as one row of the largest group fits; by default 64 MB on a CPU, else
            256 MB.

    Returns:
        Logits and labels (int64), ``[N, k]``; per group ``[N, groups, k]``, where a group of fewer
        labels ends in -inf and label -1.

    Raises:
        ValueError: if ``k``, ``per_group`` or ``generic`` do not fit the head, or ``scratch_bytes``
            is below 1.
    """
    source = _source(head, x, generic)
    num_labels = source.offsets[-1]
    if k < 1 or not (per_group or k <= num_labels):
        raise ValueError(f"k must be 1 to {num_labels}, got {k}")
    if per_group and isinstance(head, nn.Linear):
        raise ValueError("per_group must be False for a layer without groups, got True")
    budget = scratch_on(x.device, scratch_bytes)
    step, chunks = _plan(source, len(x), x.element_size(), k, per_group, budget)
    shape = (len(x), len(source.offsets) - 1, k) if per_group else (len(x), k)
    best: Best | None = None
    for row in range(0, max(len(x), 1), step):
        rows = slice(row, row + step)
        for place, values, labels in _found(source, rows, chunks, k, per_group):
            if best is None:
                best = values.new_full(shape, -torch.inf), labels.new_full(shape, -1)
            best[0][place], best[1][place] = values, labels
    assert best is not None
    return best


@dataclass(frozen=True)
class _Source:
    """Where logits come from.

    Attributes:
        score: logits of some rows, of groups ``first`` to ``last - 1``.
        offsets: ``[groups + 1]``, the columns of each group.
        labels: ``[columns]``, the label of each; ``None`` if that is its number.
        position: ``[columns]``, the column of each label, likewise.
        paced: whether logits are normalised, in float32.
    """

    score: Callable[[slice, int, int], Tensor]
    offsets: Sequence[int]
    labels: Tensor | None = None
    position: Tensor | None = None
    paced: bool = False


def _source(head: nn.Module, x: Tensor, generic: Tensor | None) -> _Source:
    """The logits of a head or a layer; the groups of a dense one are blocks of outputs."""
    if generic is not None and isinstance(head, (TopLayers, nn.Linear)):
        raise ValueError(
            f"generic must be None unless head is an SCLinear, got {list(generic.shape)} "
            f"for {type(head).__name__}"
        )
    if isinstance(head, nn.Linear):
        weight, bias = head.weight, head.bias
        blocks = [*range(0, head.out_features, 1024), head.out_features]

        def score_dense(rows: slice, first: int, last: int) -> Tensor:
            part = slice(blocks[first], blocks[last])
            return F.linear(x[rows], weight[part], None if bias is None else bias[part])

        return _Source(score_dense, blocks)

    pacing = labels = position = None
    if isinstance(head, TopLayers):
        x, generic = head.hidden(x)
        if not head.in_label_order:
            labels, position = head.permutation, head.position
        pacing, head = head.pacing, head.logits
    if not isinstance(head, SCLinear):
        raise TypeError(
            f"head must be TopLayers, an SCLinear or an nn.Linear, got {type(head).__name__}"
        )
    layer = head

    def score(rows: slice, first: int, last: int) -> Tensor:
        logits = layer.part(x[rows], first, last, None if generic is None else generic[rows])
        return logits if pacing is None else pacing.part_(logits, first, last)

    return _Source(score, layer.out_offsets, labels, position, pacing is not None)


def _plan(
    source: _Source, rows: int, itemsize: int, k: int, per_group: bool, budget: int
) -> tuple[int, list[tuple[int, int]]]:
    """Rows at a time and runs of groups, such that all copies of their logits fit the budget."""
    alone = itemsize + 4 * (source.paced and itemsize == 2)
    together, column = alone, 0
    if source.labels is not None and not per_group:  # several groups are put in order of labels
        together, column = max(alone, 2 * itemsize), 32
    best = 96 * k  # of a row: two lists of logits and labels, and what merging them takes
    widest = max(end - begin for begin, end in pairwise(source.offsets))
    step = max(1, min(rows, budget // (widest * alone + best)))
    return step, list(
        _chunks(source.offsets, max(0, budget - step * best) // (step * together + column))
    )


def _chunks(offsets: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """Runs of groups of at most ``limit`` labels together, or of one group that has more."""
    first = 0
    for group in range(1, len(offsets) - 1):
        if offsets[group + 1] - offsets[first] > limit:
            yield first, group
            first = group
    yield first, len(offsets) - 1


def _found(
    source: _Source, rows: slice, chunks: Sequence[tuple[int, int]], k: int, per_group: bool
) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """The best of some rows: where they belong in the result, logits, labels."""
    best: Best | None = None
    for first, last in chunks:
        if per_group:
            yield from _best_of_each_group(source, rows, first, last, k)
        elif source.offsets[first] < source.offsets[last]:
            found = _best_of_chunk(source, rows, first, last, k)
            best = found if best is None else _merged(best, found, k)
    if best is not None:
        yield rows, *best


def _best_of_chunk(source: _Source, rows: slice, first: int, last: int, k: int) -> Best:
    begin, end = source.offsets[first], source.offsets[last]
    logits = source.score(rows, first, last)
    labels = None if source.labels is None else source.labels[begin:end]
    if labels is not None and last - first > 1:  # ascending within each group only
        whole = end - begin == source.offsets[-1]
        order = source.position if whole and source.position is not None else labels.argsort()
        labels, logits = labels[order], logits.index_select(1, order)
    top = topk_indices(logits, min(k, end - begin))
    return logits.gather(1, top), top + begin if labels is None else labels[top]


def _merged(a: Best, b: Best, k: int) -> Best:
    """The best ``k`` of two lists of distinct labels."""
    labels, order = torch.cat([a[1], b[1]], 1).sort(1)
    logits = torch.cat([a[0], b[0]], 1).gather(1, order)
    top = topk_indices(logits, min(k, logits.shape[1]))
    return logits.gather(1, top), labels.gather(1, top)


def _best_of_each_group(
    source: _Source, rows: slice, first: int, last: int, k: int
) -> Iterator[tuple[Any, Tensor, Tensor]]:
    logits = source.score(rows, first, last)
    for g in range(first, last):
        begin, end = source.offsets[g], source.offsets[g + 1]
        group = logits.narrow(1, begin - source.offsets[first], end - begin)
        if begin == end:  # nothing to search
            top = torch.empty(group.shape, dtype=torch.int64, device=group.device)
        else:
            top = topk_indices(group, min(k, end - begin))
        labels = top + begin if source.labels is None else source.labels[top + begin]
        yield (rows, g, slice(0, top.shape[1])), group.gather(1, top), labels
