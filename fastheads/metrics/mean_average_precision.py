"""Mean average precision at the top k, in both readings: over images, and over labels.

Warde-Farley, Rabinovich, Anguelov, "Self-informed neural network structure learning", 2015, table 2
reports "mAP @ top 50" without saying which.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from fastheads.metrics.hits import average_precision, top_hits
from fastheads.ops import topk_indices
from fastheads.targets import SparseTargets


class MeanAveragePrecisionPerImage(Metric):
    """Average precision of each image over its ``k`` best labels, averaged over images.

    Precisions at the hits are summed and divided by ``min(k, annotated labels)``; images without
    a label do not count. Equal scores rank by lowest label. State is two numbers.
    """

    higher_is_better = True
    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self, k: int = 50, **kwargs: Any):
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, targets: SparseTargets) -> None:
        """Adds a batch of scores ``[N, L]``, floating, and the labels of its rows.

        Raises:
            ValueError: if targets do not fit the scores; :meth:`SparseTargets.check` reads labels
                on the CPU only.
        """
        hits = top_hits(scores, targets, self.k)
        self.total += average_precision(hits, targets.counts).sum()
        self.images += (targets.counts > 0).sum()

    def compute(self) -> Tensor:
        """The mean, a float64 scalar; NaN before the first labelled image."""
        return self.total / self.images


class MeanAveragePrecisionPerLabel(Metric):
    """Average precision of each label over its ``k`` best images, averaged over labels.

    Precisions at the hits are summed and divided by ``min(k, images annotated with the label)``;
    labels without such an image do not count. Equal scores rank by earliest image, NaN last and
    never as a hit. State is ``O(labels * k)`` however many images there are: scores are kept in
    float32.
    """

    higher_is_better = True
    full_state_update = False
    best: Tensor
    positives: Tensor

    def __init__(self, num_labels: int, k: int = 50, **kwargs: Any):
        super().__init__(**kwargs)
        if num_labels < 1 or k < 1:
            raise ValueError(
                f"num_labels and k must be at least 1, got {num_labels} labels and k = {k}"
            )
        self.num_labels, self.k = num_labels, k
        # Scores and hits of the best images, best first; NaN where there is none yet. One tensor,
        # because the states of two processes have to be merged together.
        empty = torch.stack([torch.full((num_labels, k), torch.nan), torch.zeros(num_labels, k)])
        self.add_state("best", empty, dist_reduce_fx=merge_best_images)
        zeros = torch.zeros(num_labels, dtype=torch.int64)
        self.add_state("positives", zeros, dist_reduce_fx="sum")

    def update(self, scores: Tensor, targets: SparseTargets) -> None:
        """Adds a batch of scores ``[N, L]``, floating, and the labels of its rows.

        Raises:
            ValueError: if scores do not have one column a label, or targets do not fit the scores;
                :meth:`SparseTargets.check` reads labels on the CPU only.
        """
        targets.check(scores, "scores")
        if scores.shape[1] != self.num_labels:
            raise ValueError(
                f"scores must have {self.num_labels} columns, one a label, got {scores.shape[1]}"
            )
        self.best = with_more_images(self.best, scores.detach(), targets)
        self.positives += torch.bincount(targets.indices, minlength=self.num_labels)

    def per_label(self) -> Tensor:
        """``[L]``, float64: the average precision of each label; NaN where it has no image."""
        precision = average_precision(self.best[1], self.positives)
        return precision.masked_fill(self.positives == 0, torch.nan)

    def compute(self) -> Tensor:
        """The mean over labels that have an image, a float64 scalar; NaN if there is none."""
        return self.per_label().nanmean()


def with_more_images(best: Tensor, scores: Tensor, targets: SparseTargets) -> Tensor:
    """``[2, L, k]``, scores and hits of the best images of each label, with a batch added.

    NaN where there is none yet; scores are ``[N, L]``.
    """
    (kept, hit), k = best, best.shape[2]
    both = torch.cat([kept, scores.T.to(kept.dtype)], dim=1)
    top = topk_indices(both, k)
    old = top < k
    hit = hit.gather(1, top.clamp(max=k - 1)) * old
    # Few pairs are annotated: look these up among the best, not the best among these.
    entry, place = (top[targets.indices] == k + targets.row_indices()[:, None]).nonzero(
        as_tuple=True
    )
    hit[targets.indices[entry], place] = 1
    scored = both.gather(1, top)
    return torch.stack([scored, hit * ~scored.isnan()])


def merge_best_images(states: Tensor) -> Tensor:
    """``[processes, 2, L, k]`` to ``[2, L, k]``; equal scores rank by lowest process."""
    scores, hits = states.permute(1, 2, 0, 3).flatten(2)
    top = topk_indices(scores, states.shape[-1])
    return torch.stack([scores.gather(1, top), hits.gather(1, top)])
