"""What gates decide on a split: by label, by group, at the extremes and under attack (004, 5.3).

Pictures stream through the network once; all else follows from which gates were open. The one table
over all labels is ``[labels, gates]``.

Veit, "Conditional networks", 2018, section 5.3, figures 5.4 to 5.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from fastheads.data import Data
from fastheads.labels import Grouping, LabelSpace
from fastheads.pipelines.attack import Normalize, fgsm, robustness, uint8_batches
from fastheads.pipelines.gate_tables import (
    execution_by_label,
    extreme_images,
    group_rows,
    layer_histogram,
)
from fastheads.pipelines.open_gates import decide, decide_on, seeded


@dataclass(frozen=True)
class GateAnalysisConfig:
    """What is shown of the gates.

    Attributes:
        level: of the label space, whose names are the groups; None for its coarsest.
        min_size: groups with fewer labels become one, other.
        shown: groups, the largest, of which pictures are shown.
        examples: pictures with the fewest layers, and with the most, of each of them.
        attacked: pictures that are attacked at most.
        epsilons: strengths of the attack, as shares of the range of a pixel.
        gate_epsilon: strength of the attack whose effect on the gates is shown.
        attacked_group: group on whose pictures it is shown; None for all.
        quality: of JPEG as a defence.
        through_gates: the attack's gradient passes through the decisions of the gates.
    """

    level: str | None = None
    min_size: int = 20
    shown: int = 3
    examples: int = 8
    attacked: int = 1024
    epsilons: tuple[float, ...] = (0.0, 0.004, 0.008, 0.016, 0.031, 0.047, 0.063)
    gate_epsilon: float = 0.047
    attacked_group: str | None = None
    quality: int = 75
    through_gates: bool = False


def analyse_gates(
    network: nn.Module,
    data: Data,
    normalize: Normalize,
    config: GateAnalysisConfig | None = None,
    *,
    row: str = "adaptive",
    others: Mapping[str, nn.Module] | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Figures 5.4 and 5.6 to 5.9, of the test pictures.

    Args:
        network: with gates, in evaluation mode.
        data: its test split is shown.
        normalize: from values of 0 to 255 to what the network takes; differentiable.
        config: what is shown.
        row: what the network is called.
        others: networks, such as the plain one, that are attacked as well.

    Returns:
        ``execution``, ``histogram``, ``extremes`` and ``attack``, for JSON; and the arrays that
        they name.

    Raises:
        ValueError: if a network is in training mode, ``network`` has no gates, or the label space
            has no such level or group.
    """
    config, test = config or GateAnalysisConfig(), data.test
    grouping = groups_of(data.label_space, config.level, config.min_size)
    members, attacked = group_rows(test.targets, grouping), attacked_rows(data, config)
    decisions = decide_on(network, test, normalize)
    execution, rates = execution_by_label(decisions, test.targets, data.label_space, grouping)
    extremes, pictures = extreme_images(
        decisions.layers, test, grouping, members, config.shown, config.examples
    )
    some = test.subset(_sample(np.arange(len(test)), config.attacked))
    with seeded():
        robust = {
            name: robustness(
                each,
                some,
                normalize,
                config.epsilons,
                quality=config.quality,
                through_gates=config.through_gates,
            )
            for name, each in {**(others or {}), row: network}.items()
        }
    content = {
        "execution": {"row": row, **execution},
        "histogram": {"row": row, **layer_histogram(decisions, grouping.names, members)},
        "extremes": extremes,
        "attack": {
            "epsilons": list(config.epsilons),
            "rows": robust,
            "gates": rates_under_attack(
                network, data, normalize, config, _sample(attacked, config.attacked)
            ),
            "quality": config.quality,
        },
    }
    return content, {"execution": rates, **pictures}


def rates_under_attack(
    network: nn.Module,
    data: Data,
    normalize: Normalize,
    config: GateAnalysisConfig,
    rows: np.ndarray,
) -> dict[str, Any]:
    """Rates of the gates on the test pictures ``rows`` before and after the attack (figure 5.9)."""
    pictures = data.test.subset(rows)
    attacked = (
        normalize(
            255
            * fgsm(
                network,
                images,
                targets,
                config.gate_epsilon,
                normalize,
                through_gates=config.through_gates,
            )
        )
        for images, targets in uint8_batches(pictures)
    )
    return {
        "epsilon": config.gate_epsilon,
        "before": decide_on(network, pictures, normalize).rates.tolist(),
        "after": decide(network, attacked).rates.tolist(),
        "group": config.attacked_group,
    }


def attacked_rows(data: Data, config: GateAnalysisConfig) -> np.ndarray:
    """The test pictures of the group that is attacked.

    Raises:
        ValueError: if there is no such level or group, or the group has no test picture.
    """
    grouping = groups_of(data.label_space, config.level, config.min_size)
    if config.attacked_group is None:
        return np.arange(len(data.test))
    if config.attacked_group not in grouping.names:
        raise ValueError(
            f"attacked_group must be one of {', '.join(grouping.names)}, "
            f"got {config.attacked_group!r}"
        )
    members = group_rows(data.test.targets, grouping)
    attacked = members[grouping.names.index(config.attacked_group)]
    if not len(attacked):
        raise ValueError(
            f"attacked_group must have test pictures, got {config.attacked_group!r} without any"
        )
    return attacked


def groups_of(label_space: LabelSpace, level: str | None, min_size: int) -> Grouping:
    """The labels by a level, the coarsest one if it is None; in no group if there is no level."""
    if level is None:
        level = next(reversed(label_space.levels), None)
    if level is None:
        return Grouping(np.full(len(label_space), -1))
    return label_space.grouping(level, min_size)


def _sample(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, in ascending order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
