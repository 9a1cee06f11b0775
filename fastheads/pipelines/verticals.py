"""Verticals: the groups of labels that get a teacher each (paper 002), given or found.

Given ones come from a level of the label space or from the user's file; found ones are the groups
of labels that a network confuses (paper 000, section 4).
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastheads.labels import Grouping, LabelSpace, join_names
from fastheads.pipelines.heads import HeadsConfig, cluster
from fastheads.ranges import check_range
from fastheads.targets import SparseTargets

SAMPLES = 12  # labels named of a found group


@dataclass(frozen=True)
class VerticalsConfig:
    """Where the verticals come from.

    Attributes:
        source: a level of the labels, a file, or found: what a network confuses.
        level: of the label space, such as script for glyphs or vertical for Open Images.
        min_size: verticals of a level with fewer labels become one, other.
        path: the file: JSON, {vertical: [labels]}, or CSV with a header, label and vertical, and,
            as further columns, names of levels above the label, the nearest first.
        num_groups: how many verticals are found; None lets the eigengap choose.
        top_k: best labels of an image that count as detected, where verticals are found.
        regularization: added similarity of all labels with each other, where verticals are found,
            as a share of the mean degree; joins what the confusions leave in separate pieces.
    """

    source: Literal["level", "file", "found"] = "level"
    level: str = "script"
    min_size: int = 60
    path: Path | None = None
    num_groups: int | None = None
    top_k: int = 20
    regularization: float = 0.0

    def __post_init__(self) -> None:
        if (self.source == "file") != (self.path is not None):
            must = "given" if self.path is None else "absent"
            raise ValueError(f"path must be {must} for verticals of source {self.source!r}")
        check_range(self, "min_size", "top_k", least=1)
        check_range(self, "num_groups", least=2)
        check_range(self, "regularization", least=0)


def given_verticals(label_space: LabelSpace, config: VerticalsConfig) -> Grouping:
    """The verticals of a level, or of a file in the order in which it names them.

    A file may name labels that are not in the label space; they are left out, and with them a
    vertical that has no others.

    Raises:
        ValueError: if the level or the file is missing, or the file is not as described, leaves a
            label out or puts one into two verticals.
    """
    if config.source == "level":
        return label_space.grouping(config.level, config.min_size)
    if config.path is None:
        raise ValueError(f"source must be 'level' or 'file', got {config.source!r}")
    vertical_of: dict[str, str] = {}
    for label, vertical, *_ in _read(config.path)[1]:
        if vertical_of.setdefault(label, vertical) != vertical:
            raise ValueError(
                f"verticals must have each label once, got {label!r} in "
                f"{vertical_of[label]!r} and {vertical!r} of {config.path.name}"
            )
    if lacking := [name for name in label_space.names if name not in vertical_of]:
        raise ValueError(
            f"verticals must have every label, but {config.path.name} does not name "
            + join_names(lacking)
        )
    used = {vertical_of[name] for name in label_space.names}
    names = [name for name in dict.fromkeys(vertical_of.values()) if name in used]
    number = {name: g for g, name in enumerate(names)}
    return Grouping(np.array([number[vertical_of[n]] for n in label_space.names]), tuple(names))


def given_levels(label_space: LabelSpace, config: VerticalsConfig) -> LabelSpace:
    """The labels below the levels of the file's further columns; as they are if it has none.

    Raises:
        ValueError: if the file is missing or not as described, or leaves a label out.
    """
    if config.source != "file" or config.path is None:
        return label_space
    levels, rows = _read(config.path)
    if not levels:
        return label_space
    above = {label: names for label, _, *names in rows}
    if lacking := [name for name in label_space.names if name not in above]:
        raise ValueError(
            f"levels must name every label, but {config.path.name} does not name "
            + join_names(lacking)
        )
    columns = zip(*(above[name] for name in label_space.names), strict=True)
    return replace(label_space, levels=dict(zip(levels, columns, strict=True)), parents={})


def found_verticals(
    matrix: Any, num_groups: int | None, seed: int, *, regularization: float = 0.0
) -> Grouping:
    """The groups of labels that a network confuses (paper 000, section 4), as verticals.

    A label that is confused with no other, or is alone in its group, goes to a last vertical,
    ``other``: no network would learn from telling it apart from labels that it is not confused
    with. A single one goes to the smallest vertical instead.

    Args:
        matrix: ``[labels, labels]``, counts of :func:`fastheads.pipelines.heads.count_confusions`.
        num_groups: how many; ``None`` lets the eigengap choose.
        seed: of the clustering.
        regularization: see :class:`VerticalsConfig`.

    Raises:
        ValueError: if no two labels are confused, or the confusions are in more pieces than groups.
    """
    config = HeadsConfig(num_groups=num_groups, regularization=regularization)
    found = cluster(matrix, config, seed).grouping
    kept = np.flatnonzero(found.sizes > 1)
    if not len(kept):
        raise ValueError(f"matrix must lead to groups of 2 labels, got {found.num_groups} of 1")
    renumbered = np.full(found.num_groups + 1, -1)  # the last is that of labels in no group
    renumbered[kept] = np.arange(len(kept))
    group_of = renumbered[found.group_of]
    names = tuple(f"group {g}" for g in range(len(kept)))
    loose = group_of < 0
    if loose.sum() == 1:
        group_of[loose] = int(found.sizes[kept].argmin())
    elif loose.any():
        group_of[loose] = len(kept)
        names += ("other",)
    return Grouping(group_of, names)


def check_verticals(
    grouping: Grouping,
    train_targets: SparseTargets,
    test_targets: SparseTargets,
    names: Sequence[str] = (),
) -> None:
    """Refuses verticals that no teacher can learn or nobody can measure.

    Args:
        grouping: of the labels that are annotated.
        train_targets: annotations to learn from.
        test_targets: annotations to measure on.
        names: of the labels, for messages.

    Raises:
        ValueError: if a label is in no vertical, or a vertical has a single label, no label, no
            training image or no test image.
    """
    if len(loose := np.flatnonzero(grouping.group_of < 0)):
        called = [names[label] if len(names) else str(label) for label in loose.tolist()]
        raise ValueError(
            f"labels must be in a vertical each, these are in none: {join_names(called)}"
        )
    _refuse(grouping, grouping.sizes, 2, "labels")
    for targets, images in ((train_targets, "training images"), (test_targets, "test images")):
        groups = grouping.group_of[targets.indices.cpu().numpy()]
        _refuse(grouping, np.bincount(groups, minlength=grouping.num_groups), 1, images)


def compare_verticals(given: Grouping, found: Grouping, names: Sequence[str] = ()) -> dict:
    """How far found verticals are the given ones.

    Args:
        given: verticals.
        found: verticals of the same labels.
        names: of the labels; then some labels of each found vertical are named.

    Returns:
        Ready for JSON: ``num_groups``; ``ari``, the adjusted Rand index: 0 is chance, 1 is the
        same; ``purity``, the share of labels that are in the most frequent given vertical of their
        found one; and ``groups``: for each found vertical its name, size, ``verticals``: the given
        ones in it and how many of its labels each has, and ``labels``: some of their names.
    """
    from sklearn.metrics import adjusted_rand_score

    if given.num_labels != found.num_labels:
        raise ValueError(
            f"found must be of the {given.num_labels} labels of given, got {found.num_labels}"
        )
    groups: list[dict[str, Any]] = []
    for group, name in enumerate(found.names):
        members = found.members(group)
        counts = Counter(given.names[g] for g in given.group_of[members] if g >= 0)
        some = members[np.linspace(0, len(members) - 1, min(len(members), SAMPLES)).astype(int)]
        groups.append(
            {
                "name": name,
                "size": len(members),
                "verticals": [list(pair) for pair in counts.most_common()],
                "labels": [names[label] for label in some.tolist()] if len(names) else [],
            }
        )
    pure = sum(group["verticals"][0][1] for group in groups if group["verticals"])
    return {
        "num_groups": found.num_groups,
        "ari": float(adjusted_rand_score(given.group_of, found.group_of)),
        "purity": pure / max(found.num_labels, 1),
        "groups": groups,
    }


def _refuse(grouping: Grouping, counts: np.ndarray, least: int, what: str) -> None:
    """Raises if a vertical has fewer than ``least`` of something."""
    for group in np.flatnonzero(counts < least):
        raise ValueError(
            f"vertical {grouping.names[group]!r} must have at least {least} {what}, "
            f"got {counts[group]}"
        )


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Names of further columns; and rows of label, vertical and one name for each such column."""
    path = path.expanduser()
    if not path.is_file():
        raise ValueError(f"path must be a file of verticals, got no file {str(path)!r}")
    if path.suffix == ".json":
        return [], _read_json(path)
    if path.suffix != ".csv":
        raise ValueError(f"path must end in .csv or .json, got {path.name!r}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"path must be a readable table, got {path.name}: {error}") from error
    if header[:2] != ["label", "vertical"]:
        raise ValueError(
            f"{path.name} must begin with the columns label and vertical, got {','.join(header)!r}"
        )
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header) or not (row[0] and row[1]):
            raise ValueError(
                f"row {number} of {path.name} must have a label, a vertical and "
                f"{len(header)} columns in all, got {','.join(row)!r}"
            )
    return header[2:], rows


def _read_json(path: Path) -> list[list[str]]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"path must be a readable file, got {path.name}: {error}") from error
    if not isinstance(stored, dict) or not all(isinstance(each, list) for each in stored.values()):
        raise ValueError(f"{path.name} must hold an object {{vertical: [labels]}}, got another")
    return [[str(label), vertical] for vertical, labels in stored.items() for label in labels]
