"""A student in a run folder: how its trunk and head are built, its verticals, its weights."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from fastheads.labels import Grouping
from fastheads.models import HeadedNetwork, feature_shape
from fastheads.nn import Standardize
from fastheads.pipelines.students import Pacing, Student, StudentsConfig, build_head
from fastheads.pipelines.trunk import TrunkConfig, build_trunk


def describe_student(
    student: Student, trunk: TrunkConfig, config: StudentsConfig, grouping: Grouping
) -> dict[str, Any]:
    """What :func:`described_student` builds the same network from, as JSON values."""
    return {
        "row": asdict(student),
        "trunk": {"kind": trunk.kind, "channels": list(trunk.channels)},
        "top1": config.top1,
        "top2": config.top2,
        "group_of": grouping.group_of.tolist(),
        "names": list(grouping.names),
    }


def described_student(stored: dict[str, Any], image_shape: tuple[int, ...]) -> HeadedNetwork:
    """A network with new weights that ``describe_student`` has described."""
    row = dict(stored["row"])
    pacing = None if row["pacing"] is None else Pacing(**row["pacing"])
    grouping = Grouping(stored["group_of"], tuple(stored["names"]))
    trunk = build_trunk(
        TrunkConfig(stored["trunk"]["kind"], tuple(stored["trunk"]["channels"])), image_shape[0]
    )
    shape = feature_shape(trunk, image_shape)
    config = StudentsConfig(top1=stored["top1"], top2=stored["top2"])
    head = build_head(Student(**{**row, "pacing": pacing}), math.prod(shape), config, grouping)
    return HeadedNetwork(trunk, Standardize(shape[0]), head)
