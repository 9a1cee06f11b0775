"""Top-k accuracy where an image may carry several labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from fastheads.metrics.hits import top_hits
from fastheads.targets import SparseTargets


class TopKAccuracy(Metric):
    """The fraction of images with any annotated label among their ``k`` best.

    Images without a label do not count. Equal scores rank by lowest label.
    """

    higher_is_better = True
    full_state_update = False
    correct: Tensor
    images: Tensor

    def __init__(self, k: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, targets: SparseTargets) -> None:
        """Adds a batch of scores ``[N, L]``, floating, and the labels of its rows.

        Raises:
            ValueError: if targets do not fit the scores; :meth:`SparseTargets.check` reads labels
                on the CPU only.
        """
        self.correct += top_hits(scores, targets, self.k).any(1).sum()
        self.images += (targets.counts > 0).sum()

    def compute(self) -> Tensor:
        """The fraction, a float64 scalar; NaN before the first labelled image."""
        return self.correct.double() / self.images
