"""The rows of the comparison: base, retrained classifier, heads by confusion, and controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from fastheads.clustering import similarity_image
from fastheads.labels import Grouping
from fastheads.metrics import count_parameters
from fastheads.nn import AugmentedClassifier
from fastheads.nn.group_heads import head_macs
from fastheads.pipelines.conditional import conditional_rows
from fastheads.pipelines.frozen import Frozen
from fastheads.pipelines.heads import (
    HeadsConfig,
    Kind,
    capacity_shares,
    cluster,
    count_confusions,
    grow_heads,
    label_errors,
    measure,
)
from fastheads.training import Stages, TrainConfig

KINDS: dict[str, Kind] = {"confusions": "confusion", "co_detections": "co_detection"}


@dataclass
class SeedRows:
    """One seed's comparison.

    Attributes:
        rows: for each row its metrics, ``macs``, ``parameters`` and number of ``heads``.
        tops: for each row its classifier with heads.
        base: the classifier before augmentation.
        clusters: for each kind of matrix: group_of, eigenvalues, suggested, similarity, bounds.
        conditional: accuracy and cost of evaluating some groups only.
        curves: training curves.
        frozen: outputs of the frozen layers.
    """

    base: AugmentedClassifier
    frozen: dict[str, Frozen]
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    tops: dict[str, AugmentedClassifier] = field(default_factory=dict)
    clusters: dict[str, dict[str, Any]] = field(default_factory=dict)
    conditional: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)


def grow_rows(
    frozen: dict[str, Frozen],
    base: AugmentedClassifier,
    config: HeadsConfig,
    training: TrainConfig,
    stages: Stages,
    seed: int,
    below: tuple[int, int],
    prefix: str = "",
    brief: bool = False,
    second_round: bool = False,
) -> SeedRows:
    """Trains and measures every row for one seed.

    Args:
        frozen: outputs of the frozen layers for ``train``, ``holdout`` and ``test``.
        base: the trained classifier.
        config: the heads.
        training: their training.
        stages: of the run.
        seed: of groups, weights and order.
        below: multiply-adds and parameters of everything below classifier and heads.
        prefix: of the names of stages, where a run compares several bases.
        brief: leaves out co-detections and random groups.
        second_round: adds the row ``second_round``.
    """
    out = SeedRows(base, frozen)
    num_labels = base.classifier.out_features

    def add(row: str, top: AugmentedClassifier) -> None:
        out.tops[row] = top
        out.rows[row] = {
            **measure(top, frozen["test"], num_labels),
            "macs": below[0] + head_macs(top.classifier, top.heads),
            "parameters": below[1] + count_parameters(top),
            "heads": sum(heads.grouping.num_groups for heads in top.heads),
        }

    def grow(row: str, start: AugmentedClassifier, grouping: Grouping | None) -> None:
        shares = None
        if grouping is not None:
            shares = capacity_shares(grouping, config, frozen["train"], errors)
        name = prefix + row
        top, curve = grow_heads(
            frozen["train"], start, grouping, shares, config, training, stages.folder, seed, name
        )
        stages.durations.append({"stage": name, "seconds": curve.pop("seconds")})
        out.curves.append(curve)
        add(row, top)

    errors = label_errors(base, frozen["holdout"], num_labels)
    add("base", base)
    grow("retrained", base, None)
    for row, kind in KINDS.items():
        if brief and row == "co_detections":
            continue
        out.clusters[row] = stages.run(
            f"{prefix}clusters by {row}, seed {seed}",
            partial(find_clusters, base, frozen["holdout"], config, kind, seed),
        )
        grouping = Grouping(out.clusters[row]["group_of"])
        grow(row, base, grouping)
        if not brief:
            grow(f"randomized_{row}", base, grouping.randomized(seed))
    if second_round:
        first = out.tops["confusions"]
        found = stages.run(
            f"{prefix}clusters of the second round, seed {seed}",
            partial(find_clusters, first, frozen["holdout"], config, "confusion", seed),
        )
        grow("second_round", first, Grouping(found["group_of"]))
    if not brief:
        out.conditional = conditional_rows(
            base.classifier, out.tops, frozen["test"], below[0], config.loss == "softmax"
        )
    return out


def find_clusters(
    scorer: nn.Module, holdout: Frozen, config: HeadsConfig, kind: Kind, seed: int
) -> dict[str, Any]:
    """Groups by what ``scorer`` confuses, and the picture of their similarity."""
    matrix = count_confusions(scorer, holdout, config, kind)
    found = cluster(matrix, config, seed)
    similarity, bounds = similarity_image(matrix, found.grouping)
    return {
        "group_of": found.grouping.group_of,
        "eigenvalues": found.eigenvalues,
        "suggested": found.suggested,
        "similarity": similarity,
        "bounds": np.asarray(bounds),
    }
