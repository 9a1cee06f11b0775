"""What stands above the labels, and label smearing (paper 002, section 3.1).

Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN",
2017, arXiv:1711.07607.
"""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import numpy as np
import torch

from fastheads.labels import Grouping, LabelSpace
from fastheads.targets import SparseTargets


class Hierarchy(NamedTuple):
    """The ancestors of each label, labels themselves.

    Attributes:
        ancestors: a row for each label: every label above it, in ascending order; without values.

    Example:
        >>> kinds = Hierarchy.from_parents([[2], [2], [3], []])  # 0 and 1 below 2, 2 below 3
        >>> kinds.smear(SparseTargets.from_lists([[0], [1, 3], []])).tolist()
        [[0, 2, 3], [1, 2, 3], []]
    """

    ancestors: SparseTargets

    @classmethod
    def from_parents(cls, parents: Sequence[Sequence[int]], names: Sequence[str] = ()) -> Hierarchy:
        """Gathers the ancestors of labels that may have several parents each.

        Args:
            parents: for each label the labels directly above it.
            names: of the labels, for messages.

        Raises:
            ValueError: if a parent is no label, or a label is its own ancestor.
        """
        for label, above in enumerate(parents):
            for parent in above:
                if not 0 <= parent < len(parents):
                    raise ValueError(
                        f"parents of label {_called(label, names)} must be labels from 0 to "
                        f"{len(parents) - 1}, got {parent}"
                    )
        ancestors: list[set[int]] = [set() for _ in parents]
        try:
            for label in TopologicalSorter(dict(enumerate(parents))).static_order():
                ancestors[label].update(
                    *([parent, *ancestors[parent]] for parent in parents[label])
                )
        except CycleError as error:
            label = error.args[1][0]
            raise ValueError(
                f"parents must lead to no circle, got label {_called(label, names)} above itself"
            ) from None
        return cls(SparseTargets.from_lists(ancestors))

    @property
    def num_labels(self) -> int:
        return self.ancestors.num_rows

    def smear(self, targets: SparseTargets) -> SparseTargets:
        """Adds the ancestors of every label: "label smearing".

        Args:
            targets: of labels, without values: what is annotated, not what a teacher says.

        Raises:
            ValueError: if ``targets`` have values, or a label that is not in the hierarchy.
        """
        if targets.values is not None:
            raise ValueError("targets must have no values to be smeared, got soft targets")
        labels, count = targets.indices, self.num_labels
        if labels.numel() and not (0 <= int(labels.min()) and int(labels.max()) < count):
            raise ValueError(
                f"targets must hold labels from 0 to {count - 1}, "
                f"got labels from {int(labels.min())} to {int(labels.max())}"
            )
        above = self.ancestors.to(labels.device).select(labels)
        rows = targets.row_indices()
        rows = torch.cat([rows, rows.repeat_interleave(above.counts)])
        distinct = torch.unique(rows * max(count, 1) + torch.cat([labels, above.indices]))
        sizes = torch.bincount(distinct // max(count, 1), minlength=targets.num_rows)
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        return SparseTargets(distinct % max(count, 1), offsets)


def with_ancestors(
    label_space: LabelSpace, grouping: Grouping
) -> tuple[LabelSpace, Grouping, Hierarchy]:
    """The labels and, after them, the nodes above them, which become labels of their own.

    Where labels have parents, their ancestors are labels already and no node is added. Else each
    name of each level is a node if it stands above two labels or more, all in one group, and no
    coarser name stands above the same ones. An empty name is none.

    Args:
        label_space: the labels.
        grouping: of the labels; a label in no group has no ancestors.

    Returns:
        The label space with the nodes behind its labels and its parents set; the grouping with the
        nodes in the group of their labels; and the hierarchy, which never leaves a group: what lies
        above a label in another group is not its ancestor there.

    Raises:
        ValueError: if the grouping is not of the labels, a label is its own ancestor, or a node
            cannot be named apart from the labels.
    """
    if grouping.num_labels != len(label_space):
        raise ValueError(
            f"grouping must be of the {len(label_space)} labels, got {grouping.num_labels}"
        )
    if not label_space.parents:
        label_space, grouping = _with_nodes(label_space, grouping)
    parents = [
        [label_space.index(above) for above in label_space.parents.get(name, ())]
        for name in label_space.names
    ]
    whole = Hierarchy.from_parents(parents, label_space.names).ancestors
    group_of = torch.from_numpy(grouping.group_of)
    rows = whole.row_indices()
    inside = (group_of[rows] == group_of[whole.indices]) & (group_of[rows] >= 0)
    counts = torch.bincount(rows[inside], minlength=len(label_space))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return label_space, grouping, Hierarchy(SparseTargets(whole.indices[inside], offsets))


def _with_nodes(label_space: LabelSpace, grouping: Grouping) -> tuple[LabelSpace, Grouping]:
    """Appends the levels' names as labels, finest level first."""
    columns = {name: np.array(above, object) for name, above in label_space.levels.items()}
    nodes = _find_nodes(columns, grouping)
    used = set(label_space.names)
    called = {}
    for level, name in nodes:
        called[level, name] = f"{name} ({level})" if name in used else name
        used.add(called[level, name])

    parents = {}
    for number, label in enumerate(label_space.names):
        above = [(level, column[number]) for level, column in columns.items()]
        parents[label] = tuple(called[node] for node in above if node in nodes)
    added: dict[str, list[str]] = {level: [] for level in columns}
    order = list(columns)
    for (own, name), labels in nodes.items():
        found_above = {level: set(column[labels].tolist()) for level, column in columns.items()}
        shared = {level: names.pop() for level, names in found_above.items() if len(names) == 1}
        for level in columns:
            added[level].append(shared.get(level) or name)
        above = [(level, shared.get(level, "")) for level in order[order.index(own) + 1 :]]
        parents[called[own, name]] = tuple(called[node] for node in above if node in nodes)
    extended = LabelSpace(
        (*label_space.names, *called.values()),
        {level: (*label_space.levels[level], *added[level]) for level in columns},
        {label: above for label, above in parents.items() if above},
    )
    first = np.array([labels[0] for labels in nodes.values()], dtype=np.int64)
    group_of = np.concatenate([grouping.group_of, grouping.group_of[first]])
    return extended, Grouping(group_of, grouping.names)


def _find_nodes(
    columns: dict[str, np.ndarray], grouping: Grouping
) -> dict[tuple[str, str], np.ndarray]:
    """(level, name) of each node, finest level first, and the labels below it."""
    nodes: dict[tuple[str, str], np.ndarray] = {}
    taken: set[bytes] = set()
    for level in reversed(columns):
        found = {}
        for name, labels in _below(columns[level]).items():
            groups = set(grouping.group_of[labels].tolist())
            alone = len(labels) == 1 or labels.tobytes() in taken
            if name and not alone and len(groups) == 1 and -1 not in groups:
                taken.add(labels.tobytes())
                found[level, name] = labels
        nodes = found | nodes
    return nodes


def _below(column: np.ndarray) -> dict[str, np.ndarray]:
    """For each name, sorted, the labels that it stands above."""
    names, number = np.unique(column, return_inverse=True)
    order = np.argsort(number, kind="stable")
    ends = np.bincount(number, minlength=len(names)).cumsum()
    return dict(zip(names.tolist(), np.split(order, ends[:-1]), strict=True))


def _called(label: int, names: Sequence[str]) -> str:
    return repr(names[label]) if len(names) else str(label)
