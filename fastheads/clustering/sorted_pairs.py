"""Exact counts of label pairs where a dense matrix does not fit, in tensors on one device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Pairs at a time: 256 MB of them, three times that while they are sorted.
_MAX_PAIRS = 1 << 25


class SortedPairs:
    """Counts of label pairs as runs of ascending cells ``row * num_labels + column``.

    Every part of a batch is sorted and becomes a run (:func:`torch.unique`: on CUDA a radix sort);
    a run is merged with the one before it unless that is more than twice as long. Deterministic,
    and nothing has a capacity that could be passed. In 16 bytes a pair and run.

    Args:
        num_labels: size of the label space, at most ``2^30``.
        device: where the pairs lie.

    Raises:
        ValueError: if ``num_labels`` or, when counted, a label is out of range, or offsets do not
            ascend from 0 to the number of labels they cut into rows. Nothing is counted then.
    """

    def __init__(self, num_labels: int, device: torch.device | str) -> None:
        if not 1 <= num_labels <= 2**30:
            raise ValueError(f"num_labels must be between 1 and 2^30, got {num_labels}")
        self.num_labels, self.device = num_labels, torch.device(device)
        self._runs: list[tuple[Tensor, Tensor]] = []

    def add_co_detection(self, top: Tensor) -> None:
        """Counts every pair ``i <= j`` of each row of ``top`` (``[N, K]``, int64)."""
        self._check(top=top)
        ascending = top.sort(dim=1).values
        first, second = torch.triu_indices(top.shape[1], top.shape[1], device=self.device)
        for rows in ascending.split(max(1, _MAX_PAIRS // max(1, len(first)))):
            self._add(rows[:, first] * self.num_labels + rows[:, second])

    def add_confusion(self, top: Tensor, indices: Tensor, offsets: Tensor) -> None:
        """Counts ``i`` of ``top[n]`` with ``j`` of ``indices[offsets[n]:offsets[n + 1]]``."""
        self._check(offsets, len(top), top=top, indices=indices)
        rows = torch.arange(len(top), device=self.device)
        rows = rows.repeat_interleave(offsets.diff(), output_size=len(indices))
        step = max(1, _MAX_PAIRS // max(1, top.shape[1]))
        for row, annotated in zip(rows.split(step), indices.split(step), strict=True):
            self._add(top[row] * self.num_labels + annotated[:, None])

    def add_run(self, offsets: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> None:
        """Adds a sparse matrix of counts by rows."""
        starts, labels, times = (
            torch.from_numpy(part).to(self.device, torch.int64)
            for part in (offsets, columns, counts)
        )
        self._check(starts, self.num_labels, columns=labels)
        rows = torch.arange(self.num_labels, device=self.device).repeat_interleave(starts.diff())
        self._push(_sum(rows * self.num_labels + labels, times))

    def merged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Everything by rows: offsets ``[labels + 1]``, columns int32, counts int64."""
        while len(self._runs) > 1:
            self._runs.append(_merge(self._runs.pop(), self._runs.pop()))
        if not self._runs:
            self._add(torch.empty(0, dtype=torch.int64, device=self.device))
        cells, counts = self._runs[0]
        starts = torch.arange(self.num_labels + 1, device=self.device) * self.num_labels
        offsets = torch.searchsorted(cells, starts)
        columns = (cells % self.num_labels).to(torch.int32)
        return offsets.cpu().numpy(), columns.cpu().numpy(), counts.cpu().numpy()

    def _add(self, cells: Tensor) -> None:
        self._push(cells.flatten().unique(return_counts=True))

    def _push(self, run: tuple[Tensor, Tensor]) -> None:
        while self._runs and len(self._runs[-1][0]) <= 2 * len(run[0]):
            run = _merge(self._runs.pop(), run)
        self._runs.append(run)

    def _check(self, offsets: Tensor | None = None, num_rows: int = 0, **labels: Tensor) -> None:
        """Of labels, and of offsets that cut the last of them into rows; waits for them once."""
        outside = {name: (t < 0) | (t >= self.num_labels) for name, t in labels.items()}
        wrong = [mask.any() for mask in outside.values()]
        entries = len(list(labels.values())[-1])
        if offsets is not None:
            if offsets.shape != (num_rows + 1,):
                raise ValueError(
                    f"offsets must have {num_rows + 1} entries, one more than there are rows, "
                    f"got {list(offsets.shape)}"
                )
            wrong += [offsets[0] != 0, offsets[-1] != entries, (offsets.diff() < 0).any()]
        if not torch.stack(wrong).any():
            return
        for name, mask in outside.items():
            for bad in labels[name][mask][:1].tolist():
                raise ValueError(
                    f"{name} must hold labels from 0 to {self.num_labels - 1}, got {bad}"
                )
        first = [] if offsets is None else offsets.tolist()[:9]
        raise ValueError(f"offsets must ascend from 0 to the {entries} entries, got {first}")


def _merge(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return _sum(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]))


def _sum(cells: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct cells ascending, each with the sum of its counts."""
    distinct, places = cells.unique(return_inverse=True)
    return distinct, torch.zeros_like(distinct).index_add_(0, places, counts)
