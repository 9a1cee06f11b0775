"""The metrics that every table shows, over batches of scores."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torchmetrics import Metric

from fastheads.metrics.mean_average_precision import (
    MeanAveragePrecisionPerImage,
    MeanAveragePrecisionPerLabel,
)
from fastheads.metrics.top_k_accuracy import TopKAccuracy
from fastheads.targets import SparseTargets


def evaluate(
    score_batches: Iterable[tuple[Tensor, SparseTargets]], num_labels: int
) -> dict[str, float]:
    """Mean average precision at 50 in both readings, and top-1 and top-5 accuracy.

    Args:
        score_batches: scores ``[N, L]``, floating, and the labels of their rows, batch by batch;
            all on one device.
        num_labels: ``L``.

    Returns:
        ``map50_per_label``, ``map50_per_image``, ``top1`` and ``top5``, each in 0..1.

    Raises:
        ValueError: if there is no batch, or scores and targets do not fit together.
    """
    metrics: dict[str, Metric] = {
        "map50_per_label": MeanAveragePrecisionPerLabel(num_labels, k=50),
        "map50_per_image": MeanAveragePrecisionPerImage(k=50),
        "top1": TopKAccuracy(1),
        "top5": TopKAccuracy(5),
    }
    empty = True
    for scores, targets in score_batches:
        empty = False
        for metric in metrics.values():
            metric.to(scores.device).update(scores, targets)
    if empty:
        raise ValueError("score_batches must hold at least one batch, got none")
    return {name: metric.compute().item() for name, metric in metrics.items()}
