"""Which of the best labels of each row are annotated; what the metrics share."""

from __future__ import annotations

import torch
from torch import Tensor

from fastheads.ops import topk_indices
from fastheads.targets import SparseTargets


def annotated(labels: Tensor, targets: SparseTargets, num_labels: int) -> Tensor:
    """``[N, K]``, bool: whether each of ``labels`` (``[N, K]``, int64) is annotated in its row."""
    if not targets.indices.numel():
        return torch.zeros_like(labels, dtype=torch.bool)
    # Ascending in rows and within rows, so that one binary search finds each pair of row and label.
    keys = targets.row_indices() * num_labels + targets.indices
    rows = torch.arange(len(labels), device=labels.device)[:, None]
    wanted = rows * num_labels + labels
    found = torch.searchsorted(keys, wanted).clamp_(max=keys.numel() - 1)
    return keys[found] == wanted


def top_hits(scores: Tensor, targets: SparseTargets, k: int) -> Tensor:
    """``[N, min(k, L)]``, bool: which of the best labels of each row are annotated, best first."""
    targets.check(scores, "scores")
    num_labels = scores.shape[1]
    return annotated(topk_indices(scores.detach(), min(k, num_labels)), targets, num_labels)


def average_precision(hits: Tensor, positives: Tensor) -> Tensor:
    """Average precision of rankings that are cut after ``k`` places.

    ``sum_r hit_r * precision_r / min(positives, k)``: a perfect ranking scores 1.

    Args:
        hits: ``[N, k]``, bool or 0 and 1, best first.
        positives: ``[N]``, int64, how many hits an uncut ranking would have.

    Returns:
        ``[N]``, float64; 0 where there is no positive.
    """
    hits = hits.double()
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=torch.float64)
    possible = positives.clamp(min=1, max=max(1, hits.shape[1]))
    return (hits * hits.cumsum(1) / places).sum(1) / possible
