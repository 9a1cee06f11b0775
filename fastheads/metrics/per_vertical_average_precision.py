"""Average precision within each vertical, and its mean over verticals.

Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN",
2017, arXiv:1711.07607, section 4.1 "Evaluation metric".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from fastheads.labels import Grouping
from fastheads.metrics.hits import average_precision
from fastheads.metrics.mean_average_precision import merge_best_images, with_more_images
from fastheads.metrics.top_k_accuracy import TopKAccuracy
from fastheads.targets import SparseTargets

# Scores that are compared at a time when places are counted.
COMPARED = 1 << 20


class PerVerticalAveragePrecision(Metric):
    """Each vertical's labels are ranked among themselves; ``mpvap`` is the mean over verticals.

    The paper prunes the labels to those of a vertical and takes "the mean average precision on this
    vertical", without saying whether it is a mean over images or over labels. Reading ``"image"``,
    the main one here: for each image with a label in the vertical the exact average precision of
    the ranking of all its labels, averaged over images; equal scores rank by lowest label, NaN
    last; state is two numbers a vertical. Reading ``"label"``: for each label the average precision
    of the ``k`` best of the images with a label in the vertical, divided by ``min(k, images with
    this label)``, averaged over the labels that have an image; equal scores rank by earliest image,
    NaN last and never as a hit; state is ``O(labels * k)``, with scores in float32.

    Args:
        grouping: the vertical of each label; labels in none are not ranked.
        labels: ``[n]``, the labels that are ranked, any order; all by default. Others neither rank
            nor count as labels of an image, such as ancestors that nobody has annotated.
        reading: ``"image"`` or ``"label"``.
        k: images that are ranked for each label, in reading ``"label"``.
    """

    higher_is_better = True
    full_state_update = False
    total: Tensor
    images: Tensor
    best: Tensor
    positives: Tensor
    vertical_of: Tensor  # [L], -1 for a label that is not ranked
    ranked: Tensor  # the ranked labels, by vertical and then ascending
    position: Tensor  # [L], where each label is in `ranked`

    def __init__(
        self,
        grouping: Grouping,
        labels: Sequence[int] | np.ndarray | Tensor | None = None,
        reading: Literal["image", "label"] = "image",
        k: int = 50,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if reading not in ("image", "label"):
            raise ValueError(f"reading must be image or label, got {reading!r}")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if not grouping.num_groups:
            raise ValueError("grouping must have at least one vertical, got 0")
        self.reading, self.k, self.num_labels = reading, k, grouping.num_labels
        vertical_of = np.full(grouping.num_labels, -1)
        chosen = _chosen(labels, grouping.num_labels)
        vertical_of[chosen] = grouping.group_of[chosen]
        ranked = Grouping(vertical_of, grouping.names)
        self.offsets = ranked.offsets.tolist()
        order = torch.from_numpy(ranked.permutation)
        self.register_buffer("vertical_of", torch.from_numpy(vertical_of), persistent=False)
        self.register_buffer("ranked", order[: self.offsets[-1]], persistent=False)
        self.register_buffer("position", order.argsort(), persistent=False)
        if reading == "image":
            sums = torch.zeros(ranked.num_groups, dtype=torch.float64)
            self.add_state("total", sums, dist_reduce_fx="sum")
            self.add_state("images", sums.long(), dist_reduce_fx="sum")
        else:
            scores = torch.full((self.offsets[-1], k), torch.nan)
            best = torch.stack([scores, torch.zeros_like(scores)])
            self.add_state("best", best, dist_reduce_fx=merge_best_images)
            zeros = torch.zeros(self.offsets[-1], dtype=torch.int64)
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
        add = self._add_images if self.reading == "image" else self._add_to_labels
        verticals, rows = self.vertical_of[targets.indices], targets.row_indices()
        columns = self.position[targets.indices]
        for v in verticals.unique().tolist():
            if v >= 0:
                inside = verticals == v
                add(v, scores.detach(), rows[inside], columns[inside] - self.offsets[v])

    def _add_images(self, v: int, scores: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Of images ``rows`` that carry label ``columns`` of the vertical, in pairs."""
        labels = self._labels(v)
        places = _places(scores, rows, columns, labels)
        pairs = (rows * (len(labels) + 1) + places).sort().values  # each row best first
        rows, places = pairs // (len(labels) + 1), pairs % (len(labels) + 1)
        first = torch.searchsorted(rows, rows)
        nth = torch.arange(1, len(rows) + 1, device=rows.device) - first
        counts = torch.searchsorted(rows, rows, right=True) - first
        self.total[v] += (nth.double() / places / counts).sum()
        self.images[v] += (nth == 1).sum()

    def _add_to_labels(self, v: int, scores: Tensor, rows: Tensor, columns: Tensor) -> None:
        rows, counts = rows.unique_consecutive(return_counts=True)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        inside = slice(self.offsets[v], self.offsets[v + 1])
        best, block = self.best[:, inside], scores[rows[:, None], self._labels(v)]
        self.best[:, inside] = with_more_images(best, block, SparseTargets(columns, offsets))
        self.positives[inside] += torch.bincount(columns, minlength=best.shape[1])

    def _labels(self, v: int) -> Tensor:
        return self.ranked[self.offsets[v] : self.offsets[v + 1]]

    def per_vertical(self) -> Tensor:
        """``[M]``, float64, over all processes; NaN for a vertical without an image."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, process_group=self.process_group):
            return self._per_vertical()

    def compute(self) -> Tensor:
        """The mean over verticals that have an image, a float64 scalar; NaN if there is none."""
        return self._per_vertical().nanmean()

    def _per_vertical(self) -> Tensor:
        if self.reading == "image":
            return self.total / self.images
        precision = average_precision(self.best[1], self.positives)
        precision = precision.masked_fill(self.positives == 0, torch.nan)
        return torch.stack(
            [part.nanmean() for part in precision.split(np.diff(self.offsets).tolist())]
        )


def _chosen(labels: Sequence[int] | np.ndarray | Tensor | None, num_labels: int) -> np.ndarray:
    if labels is None:
        return np.arange(num_labels)
    chosen = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels, dtype=np.int64)
    within = chosen.ndim == 1 and ((chosen >= 0) & (chosen < num_labels)).all()
    if not within or len(np.unique(chosen)) < chosen.size:
        raise ValueError(
            f"labels must be distinct labels of the {num_labels} of the grouping, got {labels}"
        )
    return chosen


def _places(scores: Tensor, rows: Tensor, columns: Tensor, labels: Tensor) -> Tensor:
    """From 1: of ``labels[columns]`` in the ranking of ``labels`` by row ``rows`` of scores."""
    places, step = torch.empty_like(rows), max(1, COMPARED // len(labels))
    numbers = torch.arange(len(labels), device=labels.device)
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        column = columns[part, None]
        others = scores[rows[part, None], labels]
        own = others.gather(1, column)
        before = (others > own) | (own.isnan() & ~others.isnan())
        tied = (others == own) | (own.isnan() & others.isnan())
        places[part] = 1 + (before | (tied & (numbers < column))).sum(1)
    return places


def evaluate_verticals(
    score_batches: Iterable[tuple[Tensor, SparseTargets]],
    grouping: Grouping,
    labels: Sequence[int] | np.ndarray | Tensor | None = None,
) -> dict[str, Any]:
    """Per-vertical average precision in both readings, and top-1 and top-5 accuracy.

    Args:
        score_batches: scores ``[N, L]``, floating, and the labels of their rows, batch by batch;
            all on one device.
        grouping: the vertical of each of the ``L`` labels.
        labels: the labels that are ranked, as in :class:`PerVerticalAveragePrecision`; if they are
            not the first ones, accuracy is that of a copy of their scores.

    Returns:
        ``mpvap`` (reading ``"image"``), ``mpvap_per_label``, ``top1`` and ``top5``, each in 0..1;
        ``pvap`` and ``pvap_per_label``, a list of one number a vertical, NaN without an image.

    Raises:
        ValueError: if there is no batch, or scores, targets and grouping do not fit together.
    """
    verticals = {
        "": PerVerticalAveragePrecision(grouping, labels),
        "_per_label": PerVerticalAveragePrecision(grouping, labels, reading="label"),
    }
    accuracies = {"top1": TopKAccuracy(1), "top5": TopKAccuracy(5)}
    chosen = torch.from_numpy(np.sort(_chosen(labels, grouping.num_labels)))
    empty = True
    for scores, targets in score_batches:
        empty = False
        for metric in verticals.values():
            metric.to(scores.device).update(scores, targets)
        few = _only(scores, targets, chosen)
        for accuracy in accuracies.values():
            accuracy.to(scores.device).update(*few)
    if empty:
        raise ValueError("score_batches must hold at least one batch, got none")
    result: dict[str, Any] = {}
    for reading, metric in verticals.items():
        result[f"mpvap{reading}"] = metric.compute().item()
        result[f"pvap{reading}"] = metric.per_vertical().tolist()
    return result | {name: metric.compute().item() for name, metric in accuracies.items()}


def _only(scores: Tensor, targets: SparseTargets, labels: Tensor) -> tuple[Tensor, SparseTargets]:
    """Scores and targets of ascending ``labels`` alone, numbered anew."""
    labels = labels.to(scores.device)
    if len(labels) == scores.shape[1]:
        return scores, targets
    number = torch.full((scores.shape[1],), -1, device=scores.device)
    number[labels] = torch.arange(len(labels), device=scores.device)
    renumbered = number[targets.indices]
    known = renumbered >= 0
    counts = torch.bincount(targets.row_indices()[known], minlength=targets.num_rows)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    first = not len(labels) or int(labels[-1]) == len(labels) - 1
    part = scores[:, : len(labels)] if first else scores[:, labels]
    return part, SparseTargets(renumbered[known], offsets)
