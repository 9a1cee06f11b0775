"""Divides drawings among train, hold-out and test so that every label is found in each."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence

import numpy as np

from fastheads.targets import SparseTargets

SPLITS = ("train", "holdout", "test")
MINIMUM = (2, 1, 1)


def assign_splits(
    targets: SparseTargets,
    num_labels: int,
    seed: int,
    parts: tuple[float, float] = (0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Gives each drawing to one split, at least ``MINIMUM`` drawings of every label to each.

    Drawings are first dealt at random in the proportions of ``parts``; then, label by label, the
    drawing whose move leaves the fewest unmet demands is moved (min-conflicts search), which also
    settles labels that share drawings. A label that stays unmet is given up.

    Args:
        targets: the labels of each drawing.
        num_labels: how many labels there are.
        seed: of the dealing and of every tie.
        parts: the parts of hold-out and test beyond the minimum.

    Returns:
        ``[drawings]``, int8, index into ``SPLITS``; and ``[labels]``, bool, which labels are met.
    """
    rng = np.random.default_rng(seed)
    search = _Search(targets, num_labels, rng, parts)
    queue = deque(rng.permutation(num_labels).tolist())
    visits = np.zeros(num_labels, dtype=np.int64)
    while queue:
        label = queue.popleft()
        if not search.kept[label] or search.unmet(label) == 0:
            continue
        visits[label] += 1
        hopeless = len(search.drawings[label]) < sum(MINIMUM)
        if hopeless or visits[label] > 200:
            search.kept[label] = False
            continue
        queue.extend(search.improve(label))
        queue.append(label)
    return search.split, search.kept


def hold_out(
    labels: Sequence[Sequence[Hashable]], splits: Sequence[str], seed: int, part: float
) -> list[str]:
    """Moves ``part`` of the training pictures to hold-out at random, but of no label the last."""
    train = [i for i, split in enumerate(splits) if split == "train"]
    left = Counter(label for i in train for label in labels[i])
    wanted = round(part * len(train))
    moved = list(splits)
    for i in np.random.default_rng(seed).permutation(train).tolist():
        if wanted and all(left[label] > 1 for label in labels[i]):
            left.subtract(labels[i])
            moved[i] = "holdout"
            wanted -= 1
    return moved


class _Search:
    """Which split each drawing is in, and how many drawings of each label each split has."""

    def __init__(
        self,
        targets: SparseTargets,
        num_labels: int,
        rng: np.random.Generator,
        parts: tuple[float, float],
    ) -> None:
        self.labels = targets.tolist()
        self.drawings: list[list[int]] = [[] for _ in range(num_labels)]
        for drawing, labels in enumerate(self.labels):
            for label in labels:
                self.drawings[label].append(drawing)
        self.rng = rng
        self.kept = np.ones(num_labels, dtype=bool)
        chances = [1 - sum(parts), *parts]
        self.split = rng.choice(3, size=len(self.labels), p=chances).astype(np.int8)
        self.counts = [[0, 0, 0] for _ in range(num_labels)]
        for drawing, labels in enumerate(self.labels):
            for label in labels:
                self.counts[label][self.split[drawing]] += 1

    def unmet(self, label: int) -> int:
        return sum(max(0, m - c) for m, c in zip(MINIMUM, self.counts[label], strict=True))

    def cost(self, drawing: int, split: int) -> int:
        """How many more demands are unmet once ``drawing`` moves to ``split``."""
        source = self.split[drawing]
        cost = 0
        for label in self.labels[drawing]:
            if self.kept[label]:
                counts = self.counts[label]
                cost += counts[source] <= MINIMUM[source]
                cost -= counts[split] < MINIMUM[split]
        return cost

    def improve(self, label: int) -> list[int]:
        """Moves one drawing of ``label`` to a split that lacks it; returns who now lacks one."""
        counts = self.counts[label]
        split = self.rng.choice([s for s in range(3) if counts[s] < MINIMUM[s]])
        others = [d for d in self.drawings[label] if self.split[d] != split]
        costs = np.array([self.cost(d, split) for d in others]) + self.rng.random(len(others))
        # Rarely a move at random: out of a circle in which the same labels rob one another.
        best = costs.argmin() if self.rng.random() > 0.05 else self.rng.integers(len(others))
        drawing = others[best]
        source = self.split[drawing]
        for each in self.labels[drawing]:
            self.counts[each][source] -= 1
            self.counts[each][split] += 1
        self.split[drawing] = split
        return [each for each in self.labels[drawing] if self.kept[each] and self.unmet(each)]
