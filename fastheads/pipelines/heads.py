"""Grows specialist heads beside a frozen network, and their controls (paper 000)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.clustering import ConfusionClustering, ConfusionCounts
from fastheads.labels import Grouping
from fastheads.losses import sigmoid_cross_entropy, softmax_cross_entropy
from fastheads.metrics import evaluate
from fastheads.models import logistic_units
from fastheads.nn import AugmentedClassifier, GroupHeads, head_widths
from fastheads.pipelines.frozen import Frozen, FrozenRows, OnFrozen
from fastheads.pipelines.run_folder import training_curve
from fastheads.ranges import check_range
from fastheads.targets import SparseTargets
from fastheads.training import TrainConfig, fit

Kind = Literal["confusion", "co_detection"]
LossName = Literal["sigmoid", "softmax"]
LOSSES = {"sigmoid": sigmoid_cross_entropy, "softmax": softmax_cross_entropy}
Scorer = Callable[[Tensor, Tensor], Tensor]  # features, hidden -> logits


@dataclass(frozen=True)
class HeadsConfig:
    """The heads and the groups that they are wired to.

    Attributes:
        num_groups: heads; None lets the eigengap choose.
        widths: hidden widths of a head of average size.
        top_k: best labels of an image that count as detected (K of paper 000, eq. 2).
        capacity: whether heads are equal, or their widths follow the labels of their group (size),
            its training annotations (data) or the base's errors on it (difficulty).
        conv_channels: channels of a 3x3 convolution on the feature map with which each head
            begins; 0 for none.
        classifier: train the classifier from fresh weights, as the paper does, or from those of
            the base, which needs far fewer steps and makes the retrained control a strong one.
        loss: sigmoid cross-entropy for one logistic unit a label, as the paper does, or softmax
            cross-entropy for a network that was trained so.
        regularization: added similarity of all labels with each other, as a share of the mean
            degree; joins what the confusions leave in separate pieces.
    """

    num_groups: int | None = 12
    widths: tuple[int, ...] = (32, 32)
    top_k: int = 20
    capacity: Literal["equal", "size", "data", "difficulty"] = "equal"
    conv_channels: int = 0
    classifier: Literal["fresh", "base"] = "base"
    loss: LossName = "sigmoid"
    regularization: float = 0.0

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must hold at least one width above 0, got {self.widths}")
        check_range(self, "num_groups", least=2)
        check_range(self, "top_k", least=1)
        check_range(self, "conv_channels", "regularization", least=0)


def check_groups(num_groups: int | None, num_labels: int) -> None:
    """ValueError unless there are labels enough for the groups."""
    if num_groups is not None and num_groups > num_labels:
        raise ValueError(f"num_groups must be at most the {num_labels} labels, got {num_groups}")


@dataclass(frozen=True)
class Clusters:
    """Groups that were found, and how.

    Attributes:
        grouping: the groups; labels without any confusion are in none.
        eigenvalues: leading ones, descending.
        suggested: number of groups that the eigengap suggests.
    """

    grouping: Grouping
    eigenvalues: list[float]
    suggested: int


def count_confusions(scorer: Scorer, holdout: Frozen, config: HeadsConfig, kind: Kind):
    """A of eq. 3 (confusion) or eq. 4 (co-detection), as counts over the hold-out rows.

    They are counted where the scores lie. Of several processes each counts all rows: their counts
    are the same, and there is nothing to sum.
    """
    num_labels = 0
    counts: ConfusionCounts | None = None
    for scores, targets in score_batches(scorer, holdout):
        if counts is None:
            num_labels = scores.shape[1]
            top_k = min(config.top_k, num_labels)
            counts = ConfusionCounts(num_labels, top_k, kind, device=scores.device)
        counts.update(scores, targets)
    if counts is None:
        raise ValueError("holdout must have at least one image, got none")
    return counts.matrix()


def cluster(matrix, config: HeadsConfig, seed: int) -> Clusters:
    """Groups of labels that a network confuses."""
    clustering = ConfusionClustering(
        config.num_groups, regularization=config.regularization, random_state=seed
    ).fit(matrix)
    return Clusters(
        Grouping(clustering.labels_),
        clustering.eigenvalues_.tolist(),
        int(clustering.suggested_n_clusters_),
    )


def grow_heads(
    frozen: Frozen,
    base: AugmentedClassifier,
    grouping: Grouping | None,
    shares: Sequence[float] | None,
    config: HeadsConfig,
    training: TrainConfig,
    folder: Path,
    seed: int,
    name: str,
) -> tuple[AugmentedClassifier, dict]:
    """Trains the classifier, and new heads for ``grouping``, on frozen outputs.

    Everything that exists stays fixed except the classifier (paper 000, section 2).

    Args:
        frozen: outputs of the frozen layers on the training data.
        base: the classifier that is augmented, with the heads of earlier rounds, if any.
        grouping: the groups that get heads; None trains the classifier alone.
        shares: what the capacity of the heads follows; None for equal heads.
        config: the heads.
        training: settings of the training.
        folder: of the run.
        seed: of weights and order.
        name: of the row.

    Returns:
        The augmented classifier, and the curve of its training: row, seed, step, loss, seconds.
    """
    torch.manual_seed(seed)
    earlier = [copy.deepcopy(heads).requires_grad_(False) for heads in base.heads]
    if config.classifier == "base":
        classifier = copy.deepcopy(base.classifier).requires_grad_(True)
    else:
        classifier = logistic_units(base.classifier.in_features, base.classifier.out_features)
    heads = []
    if grouping is not None:
        widths = head_widths(config.widths, grouping.num_groups, shares)
        heads = [GroupHeads(frozen.feature_shape, grouping, widths, config.conv_channels)]
        heads[0].standardize.measure(frozen.features[0])
    top = AugmentedClassifier(classifier, [*earlier, *heads])
    module = OnFrozen(top, frozen.feature_shape)
    result = fit(
        module,
        FrozenRows(frozen),
        module.loss(LOSSES[config.loss]),
        replace(training, seed=seed),
        folder=folder / "training" / f"{name} seed {seed}",
        name=f"{name}, seed {seed}",
    )
    curve = training_curve(name, seed, result)
    return top.cpu().eval(), curve


def capacity_shares(
    grouping: Grouping, config: HeadsConfig, train: Frozen, errors: np.ndarray
) -> Sequence[float] | None:
    """What each head's capacity follows (paper 000, section 6), or None for equal heads.

    Args:
        grouping: the groups.
        config: whose ``capacity`` decides.
        train: counts the training annotations of each label.
        errors: ``[labels]``, hold-out images of each label that the base got wrong.
    """
    if config.capacity == "equal":
        return None
    annotations = np.bincount(train.targets.indices.numpy(), minlength=grouping.num_labels)
    of_label = {"size": np.ones(grouping.num_labels), "data": annotations, "difficulty": errors}
    weights = of_label[config.capacity]
    return [float(weights[grouping.members(g)].sum()) for g in range(grouping.num_groups)]


@torch.no_grad()
def score_batches(
    scorer: Scorer, frozen: Frozen, first_pass_only: bool = False
) -> Iterator[tuple[Tensor, SparseTargets]]:
    """Logits and targets, batch after batch."""
    for features, hidden, rows in frozen.batches(first_pass_only):
        with torch.no_grad():  # a generator's caller may have gradients on
            scores = scorer(features, hidden)
        yield scores, frozen.targets.select(rows)


def measure(scorer: nn.Module, frozen: Frozen, num_labels: int) -> dict[str, float]:
    """mAP@50 in both readings, top-1 and top-5 on frozen outputs."""
    return evaluate(score_batches(scorer, frozen), num_labels)


def label_errors(scorer: Scorer, frozen: Frozen, num_labels: int) -> np.ndarray:
    """``[labels]``: images of each label whose best-scored label is not annotated."""
    errors = np.zeros(num_labels, np.int64)
    for scores, targets in score_batches(scorer, frozen):
        best = scores.argmax(1)
        rows = targets.row_indices()
        right = torch.zeros(targets.num_rows, dtype=torch.bool)
        right[rows[best[rows] == targets.indices]] = True
        wrong = targets.indices[~right[rows]]
        errors += np.bincount(wrong.numpy(), minlength=num_labels)
    return errors
