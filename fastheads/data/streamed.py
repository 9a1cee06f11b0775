"""Base pictures of one label each, and streamed pictures that carry several of these labels.

Scalable large scale visual recognition using multi-label image classification (Huang, MIT, 2019),
sections 1 and 7: a puggle is a pug and a beagle, both known before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fastheads.data.images import Data, ImageDataset
from fastheads.labels import join_names
from fastheads.targets import SparseTargets

BASE_PARTS = (0.1, 0.2)  # of base pictures for hold-out and test; section 8.1: 0.2 to test
PARTS = (0.1, 0.2)  # of the pictures of a kind for hold-out and test
MINIMUM = 3  # pictures of a kind: one to train, one to hold out, one to test


@dataclass(frozen=True)
class StreamData:
    """A base data set, and new pictures that carry several of its labels.

    A kind is one composed thing, such as a puggle or é; its pictures all carry the same labels.

    Attributes:
        base: one label a picture; its label space is that of the streamed pictures.
        train: streamed pictures to learn from.
        holdout: streamed pictures to choose by, of every kind.
        test: streamed pictures to be measured on, of every kind.
        kind_of_train: ``[pictures]``, int64, the kind of each picture of ``train``.
        kind_of_test: ``[pictures]``, int64, the kind of each picture of ``test``.
        kinds: what the kinds are called.
        skipped: streamed files that could not be used: path and reason.
        dropped: kinds without enough pictures, or with a label that ``base`` dropped: name and how
            many pictures there were.
    """

    base: Data
    train: ImageDataset
    holdout: ImageDataset
    test: ImageDataset
    kind_of_train: np.ndarray
    kind_of_test: np.ndarray
    kinds: tuple[str, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    def arrivals(self, count: int, seed: int = 0) -> list[tuple[ImageDataset, ImageDataset]]:
        """Deals the kinds at random into ``count`` arrivals of as many kinds, give or take one.

        Returns:
            The pictures to train and to test of each arrival; every kind is in exactly one.
        """
        if not 1 <= count <= len(self.kinds):
            raise ValueError(f"count must lie in 1 to {len(self.kinds)} kinds, got {count}")
        dealt = np.array_split(np.random.default_rng(seed).permutation(len(self.kinds)), count)
        return [
            (
                self.train.subset(np.flatnonzero(np.isin(self.kind_of_train, kinds))),
                self.test.subset(np.flatnonzero(np.isin(self.kind_of_test, kinds))),
            )
            for kinds in dealt
        ]

    def summary(self) -> str:
        """What there is, and what was left out, by count and name."""
        parts = (self.train, self.holdout, self.test)
        targets = [row for part in parts for row in part.targets.tolist()]
        each = sum(map(len, targets)) / len(targets)
        lines = [
            self.base.summary(),
            f"{len(self.kinds)} kinds streamed in; {len(self.train)} images to train, "
            f"{len(self.holdout)} held out, {len(self.test)} to test, "
            f"{each:.1f} labels each, {len(set().union(*targets))} labels in all",
        ]
        if self.skipped:
            names = join_names([*self.skipped])
            lines.append(f"{len(self.skipped)} streamed files skipped: {names}")
        if self.dropped:
            names = join_names([f"{name} ({count})" for name, count in self.dropped.items()])
            lines.append(
                f"{len(self.dropped)} kinds dropped for want of pictures, or of a label: {names}"
            )
        return "\n".join(lines)


def stream_data(
    base: Data,
    images: np.ndarray,
    rows: np.ndarray,
    kind: np.ndarray,
    kinds: Mapping[str, Sequence[int]],
    seed: int,
    limit_kinds: int | None = None,
    skipped: Mapping[str, str] | None = None,
    dropped: Mapping[str, int] | None = None,
) -> StreamData:
    """Divides the pictures of each kind: 0.7 to train, 0.1 held out, 0.2 to test.

    Args:
        base: what the network knows before.
        images: ``[images, channels, size, size]``, uint8.
        rows: ``[pictures]``, rows of ``images``.
        kind: ``[pictures]``, the kind of each, an index into ``kinds``.
        kinds: names, and the labels that every picture of the kind carries.
        seed: of the division.
        limit_kinds: keeps so many kinds, evenly from the first to the last.
        skipped: as ``StreamData.skipped``.
        dropped: as ``StreamData.dropped``, what is known to it already.

    Raises:
        ValueError: if no kind has enough pictures.
    """
    if limit_kinds is not None and limit_kinds < 1:
        raise ValueError(f"limit_kinds must be at least 1, got {limit_kinds}")
    names = [*kinds]
    counts = np.bincount(kind, minlength=len(names))
    few = {names[k]: int(counts[k]) for k in np.flatnonzero(counts < MINIMUM)}
    able = np.flatnonzero(counts >= MINIMUM)
    if not able.size:
        raise ValueError(f"a kind must have at least {MINIMUM} usable pictures, got none that does")
    if limit_kinds is not None and limit_kinds < able.size:
        able = able[np.arange(limit_kinds) * able.size // limit_kinds]
    rng = np.random.default_rng(seed)
    train: list[tuple[int, int]] = []  # pairs of row and kind
    holdout: list[tuple[int, int]] = []
    test: list[tuple[int, int]] = []
    for number, k in enumerate(able):
        own = [(int(row), number) for row in rng.permutation(rows[kind == k])]
        for_holdout, for_test = (max(1, round(part * len(own))) for part in PARTS)
        test += own[:for_test]
        holdout += own[for_test : for_test + for_holdout]
        train += own[for_test + for_holdout :]

    def part(pairs: list[tuple[int, int]]) -> tuple[ImageDataset, np.ndarray]:
        picked, numbers = np.array(sorted(pairs), dtype=np.int64).T
        targets = SparseTargets.from_lists([kinds[names[able[n]]] for n in numbers])
        return ImageDataset(images, picked, targets, base.label_space), numbers.copy()

    (learned, kind_of_train), (measured, kind_of_test) = part(train), part(test)
    return StreamData(
        base,
        learned,
        part(holdout)[0],
        measured,
        kind_of_train,
        kind_of_test,
        tuple(names[k] for k in able),
        dict(skipped or {}),
        {**(dropped or {}), **few},
    )
