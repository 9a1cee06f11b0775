"""Tables of open gates: by label, by group, and the pictures at the extremes (paper 004, 5.3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from fastheads.data import ImageDataset
from fastheads.labels import Grouping, LabelSpace
from fastheads.pipelines.open_gates import Decisions
from fastheads.targets import SparseTargets


def execution_by_label(
    decisions: Decisions, targets: SparseTargets, label_space: LabelSpace, grouping: Grouping
) -> tuple[dict[str, Any], np.ndarray]:
    """How often each block is executed for each label (figure 5.4).

    A picture counts for each of its labels; labels without pictures have no row.

    Args:
        decisions: on the pictures.
        targets: their labels.
        label_space: names and levels.
        grouping: of the labels.

    Returns:
        ``labels`` by group, within it by level from coarse to fine; ``groups`` with their name and
        their ``first`` and ``last`` row, both included; ``gates``; and the rates,
        ``[labels, gates]``, float32.
    """
    labels, rows = targets.indices.numpy(), targets.row_indices().numpy()
    pictures = np.bincount(labels, minlength=len(label_space))
    order = label_order(label_space, grouping)
    order = order[pictures[order] > 0]
    rates = np.empty((len(order), len(decisions.names)), np.float32)
    for gate, is_open in enumerate(decisions.open.T):
        executed = np.bincount(labels[is_open[rows]], minlength=len(label_space))
        rates[:, gate] = executed[order] / pictures[order]
    group_of = grouping.group_of[order]
    shown, first, sizes = np.unique(group_of, return_index=True, return_counts=True)
    content = {
        "labels": [label_space.names[label] for label in order],
        "groups": [
            {"name": grouping.names[group], "first": int(start), "last": int(start + size - 1)}
            for group, start, size in zip(shown, first, sizes, strict=True)
            if group >= 0
        ],
        "gates": list(decisions.names),
    }
    return content, rates


def label_order(label_space: LabelSpace, grouping: Grouping) -> np.ndarray:
    """``[labels]``: by group, then by level from coarse to fine; those in no group last."""
    group = np.where(grouping.group_of < 0, grouping.num_groups, grouping.group_of)
    levels = [
        np.unique(np.array(above, object), return_inverse=True)[1]
        for above in label_space.levels.values()
    ]
    return np.lexsort([np.arange(len(label_space)), *levels, group])


def group_rows(targets: SparseTargets, grouping: Grouping) -> list[np.ndarray]:
    """For each group the pictures with a label in it, each once, ascending."""
    group = grouping.group_of[targets.indices.numpy()]
    # One number for each pair of group and picture.
    pairs = group * targets.num_rows + targets.row_indices().numpy()
    pairs = np.unique(pairs[group >= 0])
    starts = np.arange(grouping.num_groups + 1) * targets.num_rows
    bounds = np.searchsorted(pairs, starts)
    return [
        pairs[begin:end] - start
        for start, (begin, end) in zip(starts[:-1], pairwise(bounds), strict=True)
    ]


def layer_histogram(
    decisions: Decisions, names: Sequence[str], members: Sequence[np.ndarray]
) -> dict[str, Any]:
    """How many blocks with gates pictures execute: all, and by group (figure 5.6).

    Args:
        decisions: on the pictures.
        names: of the groups.
        members: their pictures; a group without pictures is left out.

    Returns:
        ``all`` and ``groups``, each with ``mean``, ``std`` over the pictures and ``counts``: how
        many pictures execute 0 to all of the blocks.
    """
    layers, gates = decisions.layers, len(decisions.names)

    def summary(some: np.ndarray) -> dict[str, Any]:
        counts = np.bincount(some, minlength=gates + 1).tolist()
        return {"mean": float(some.mean()), "std": float(some.std()), "counts": counts}

    groups = [
        {"name": name, **summary(layers[rows]), "images": len(rows)}
        for name, rows in zip(names, members, strict=True)
        if len(rows)
    ]
    return {"all": summary(layers), "groups": groups}


def extreme_images(
    layers: np.ndarray,
    data: ImageDataset,
    grouping: Grouping,
    members: Sequence[np.ndarray],
    shown: int,
    examples: int,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The pictures of some groups that execute the fewest blocks, and the most (figure 5.7).

    Args:
        layers: ``[pictures]``, executed by each.
        data: the pictures.
        grouping: of the labels.
        members: the pictures of each group.
        shown: groups, those with the most pictures, of two at least; ``other`` last.
        examples: pictures of each extreme, no picture in both; ties are broken at random.

    Returns:
        For each group ``fewest`` and ``most``: ``pictures``, the name of an array, ``labels``, the
        first one of the picture within the group, and ``layers``; and the arrays, uint8
        ``[n, H, W]``, or ``[n, H, W, 3]`` in colour.
    """
    sizes = [len(rows) for rows in members]
    names = grouping.names
    largest = sorted(range(len(sizes)), key=lambda g: (names[g] == "other", -sizes[g]))
    tie = np.random.default_rng(0).permutation(len(layers))
    content: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for group in [g for g in largest if sizes[g] > 1][:shown]:
        rows = members[group]
        order = rows[np.lexsort([tie[rows], layers[rows]])]
        count = min(examples, len(rows) // 2)
        entry: dict[str, Any] = {"group": names[group]}
        for end, some in (("fewest", order[:count]), ("most", order[: -count - 1 : -1])):
            images, targets = data.__getitems__(some.tolist())
            key = f"{end}_{len(content)}"
            arrays[key] = _pixels(images)
            inside = [
                next(each for each in labels if grouping.group_of[each] == group)
                for labels in targets.tolist()
            ]
            entry[end] = {
                "pictures": key,
                "labels": [data.label_space.names[label] for label in inside],
                "layers": layers[some].tolist(),
            }
        content.append(entry)
    return content, arrays


def _pixels(images: torch.Tensor) -> np.ndarray:
    shown = images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1)
    return shown.contiguous().numpy()
