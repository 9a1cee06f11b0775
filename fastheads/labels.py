"""The label space: names, a hierarchy above them, and partitions into groups."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Grouping:
    """A partition of the labels into groups: verticals, or clusters of look-alikes.

    Attributes:
        group_of: ``[labels]``, int64, the group of each label; -1 for a label in no group.
        names: one name a group; numbered if not given.
    """

    group_of: np.ndarray
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        group_of = np.asarray(self.group_of, dtype=np.int64)
        if group_of.ndim != 1 or (group_of.size and group_of.min() < -1):
            raise ValueError("group_of must be [labels] with entries of at least -1")
        count = int(group_of.max(initial=-1)) + 1
        names = tuple(self.names) or tuple(f"group {g}" for g in range(count))
        if len(names) < count:
            raise ValueError(f"names must name all {count} groups, got {len(names)} names")
        object.__setattr__(self, "group_of", group_of)
        object.__setattr__(self, "names", names)

    @property
    def num_labels(self) -> int:
        return self.group_of.size

    @property
    def num_groups(self) -> int:
        return len(self.names)

    @cached_property
    def sizes(self) -> np.ndarray:
        """``[groups]``: labels in each group."""
        return np.bincount(self.group_of[self.group_of >= 0], minlength=self.num_groups)

    @cached_property
    def offsets(self) -> np.ndarray:
        """``[groups + 1]``: group ``g`` is ``permutation[offsets[g]:offsets[g + 1]]``."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @cached_property
    def permutation(self) -> np.ndarray:
        """``[labels]``: labels ordered by group, then by label; those in no group last."""
        order = np.where(self.group_of < 0, self.num_groups, self.group_of)
        return np.argsort(order, kind="stable")

    def members(self, group: int) -> np.ndarray:
        """The labels of ``group`` in ascending order."""
        return self.permutation[self.offsets[group] : self.offsets[group + 1]]

    def randomized(self, seed: int) -> Grouping:
        """Groups of the same sizes over randomly permuted labels (paper 000, section 5.2)."""
        return Grouping(np.random.default_rng(seed).permutation(self.group_of), self.names)


@dataclass(frozen=True)
class LabelSpace:
    """The names of the labels, and for each level of a hierarchy the name above each label.

    Attributes:
        names: one distinct name a label.
        levels: level name to one coarser name a label, finest level first,
            such as ``{"category": ("Latin Lu", ...), "script": ("Latin", ...)}``.
        parents: label to the labels above it, at least the nearest, where labels stand above one
            another: ``{"Tortoise": ("Turtle",)}``.
    """

    names: tuple[str, ...]
    levels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "levels", {k: tuple(v) for k, v in self.levels.items()})
        object.__setattr__(self, "parents", {k: tuple(v) for k, v in self.parents.items()})
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise ValueError(f"names must be distinct, got {repeated[0]!r} more than once")
        for level, above in self.levels.items():
            if len(above) != len(self):
                raise ValueError(
                    f"level {level!r} must name all {len(self)} labels, got {len(above)}"
                )
        for label, above in self.parents.items():
            if unknown := [name for name in (label, *above) if name not in self._index]:
                raise ValueError(f"parents must lead from labels to labels, got {unknown[0]!r}")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """The label called ``name``; ValueError if there is none."""
        try:
            return self._index[name]
        except KeyError:
            raise ValueError(f"label {name!r} is not among the {len(self)} known labels") from None

    def grouping(self, level: str, min_size: int = 1) -> Grouping:
        """Groups the labels by a level; groups under ``min_size`` labels become ``other``."""
        if level not in self.levels:
            raise ValueError(f"level must be one of {sorted(self.levels)}, got {level!r}")
        above = self.levels[level]
        sizes = Counter(above)
        large = sorted(name for name, size in sizes.items() if size >= min_size)
        names = [*large, "other"] if len(large) < len(sizes) else large
        number = {name: g for g, name in enumerate(large)}
        return Grouping(np.array([number.get(a, len(large)) for a in above]), tuple(names))

    def save(self, path: str | Path) -> None:
        path = Path(path)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        stored = {"names": self.names, "levels": self.levels, "parents": self.parents}
        temporary.write_text(json.dumps(stored))
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> LabelSpace:
        stored = json.loads(Path(path).read_text())
        return cls(tuple(stored["names"]), stored["levels"], stored.get("parents", {}))


def join_names(names: Sequence[str], limit: int = 5) -> str:
    """The first names and how many more there are, for messages."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
