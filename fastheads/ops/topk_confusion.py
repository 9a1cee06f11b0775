"""topk_confusion: the K best labels of each row, and exact counts of which labels meet.

Warde-Farley, Rabinovich, Anguelov, "Self-informed neural network structure learning", 2015,
eq. 1-4.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .dispatch import written


def topk_indices_reference(scores: Tensor, k: int) -> Tensor:
    """:func:`topk_indices` in plain PyTorch: a stable sort, then one that moves NaN to the end."""
    nan = scores.isnan()
    numbers = scores.masked_fill(nan, -torch.inf) + 0.0  # -0 becomes 0
    order = numbers.sort(dim=1, descending=True, stable=True).indices
    last = nan.gather(1, order).byte().sort(dim=1, stable=True).indices
    return order.gather(1, last)[:, :k]


def topk_confusion_reference(counts: Tensor, top: Tensor, indices: Tensor, offsets: Tensor) -> None:
    """:func:`topk_confusion_` in plain PyTorch: ``counts += M^T g`` with indicator matrices."""
    rows = torch.arange(len(top), device=top.device).repeat_interleave(offsets.diff())
    detected = _indicators(top, counts)
    annotated = torch.zeros_like(detected).index_put_((rows, indices), detected.new_ones(()))
    counts += (detected.T @ annotated).to(counts.dtype)


def topk_co_detection_reference(counts: Tensor, top: Tensor) -> None:
    """:func:`topk_co_detection_` in plain PyTorch: ``counts += triu(M^T M)``."""
    detected = _indicators(top, counts)
    counts += (detected.T @ detected).triu().to(counts.dtype)


def _indicators(top: Tensor, counts: Tensor) -> Tensor:
    # Sums of indicators are exact in float64 up to 2^53.
    zeros = torch.zeros(len(top), len(counts), dtype=torch.float64, device=top.device)
    return zeros.scatter_(1, top, 1.0)


def topk_indices(scores: Tensor, k: int) -> Tensor:
    """Finds the ``k`` best labels of each row, best first (eq. 2: where ``M[n, i] = 1``).

    Equal scores rank by lowest label, and NaN ranks below everything else, so that the answer is
    the same on every device and for every number of threads (``torch.topk`` promises neither).

    Args:
        scores: ``[N, L]``, float32, float64, float16 or bfloat16, CPU or CUDA; rows with unit
            stride are read in place.
        k: between 1 and L.

    Returns:
        ``[N, k]``, int64, contiguous.

    Raises:
        RuntimeError: if ``scores`` is no floating matrix or ``k`` is not between 1 and L.

    Not differentiable. Deterministic.
    """
    return torch.ops.fastheads.topk_indices.default(scores, k)


def topk_confusion_(counts: Tensor, top: Tensor, indices: Tensor, offsets: Tensor) -> None:
    """Counts in place which label is detected where which label is annotated (eq. 3).

    ``counts[i, j] += 1`` for every row, ``i`` in its ``top`` and ``j`` in its annotation; divided
    by the number of rows this is ``a[i, j] = E[M[i] g[j]]``.

    Args:
        counts: ``[L, L]``, int32 or int64, contiguous. A cell gains at most 1 a row: int32 is safe
            below 2^31 rows in all.
        top: ``[N, K]``, int64, distinct labels in each row.
        indices: ``[nonzeros]``, int64, annotated labels, distinct in each row.
        offsets: ``[N + 1]``, int64: ``indices[offsets[n]:offsets[n + 1]]`` annotate row ``n``.

    Raises:
        RuntimeError: if shapes, dtypes or devices disagree or a label is outside 0 to L - 1;
            nothing is counted then.

    Exact and deterministic. On CUDA the check of the labels waits for the device.
    """
    torch.ops.fastheads.topk_confusion_.default(counts, top, indices, offsets)
    written(counts)


def topk_co_detection_(counts: Tensor, top: Tensor) -> None:
    """Counts in place which labels are detected together (eq. 4), in the upper triangle.

    ``counts[i, j] += 1`` for every row and ``i <= j`` both in its ``top``: the matrix is symmetric
    and half of it is half the memory traffic. The diagonal counts the detections of each label.

    Args:
        counts: ``[L, L]``, int32 or int64, contiguous. A cell gains at most 1 a row: int32 is safe
            below 2^31 rows in all.
        top: ``[N, K]``, int64, distinct labels in each row.

    Raises:
        RuntimeError: if shapes, dtypes or devices disagree or a label is outside 0 to L - 1;
            nothing is counted then.

    Exact and deterministic. On CUDA the check of the labels waits for the device.
    """
    torch.ops.fastheads.topk_co_detection_.default(counts, top)
    written(counts)


@torch.library.register_fake("fastheads::topk_indices")
def _(scores: Tensor, k: int) -> Tensor:
    return scores.new_empty((scores.shape[0], k), dtype=torch.int64)


@torch.library.register_fake("fastheads::topk_confusion_")
def _(counts: Tensor, top: Tensor, indices: Tensor, offsets: Tensor) -> None:
    return None


@torch.library.register_fake("fastheads::topk_co_detection_")
def _(counts: Tensor, top: Tensor) -> None:
    return None


@register_flop_formula(
    [
        torch.ops.fastheads.topk_indices,
        torch.ops.fastheads.topk_confusion_,
        torch.ops.fastheads.topk_co_detection_,
    ]
)
def _(*args: object, **kwargs: object) -> int:
    return 0  # comparisons and increments: no multiply-adds
