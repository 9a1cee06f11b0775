"""The labels of a batch in compressed sparse row form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class SparseTargets(NamedTuple):
    """Which labels each row of a batch carries; never a dense ``[rows, labels]`` matrix.

    Row ``r`` carries ``indices[offsets[r]:offsets[r + 1]]``, distinct labels in ascending order.

    Attributes:
        indices: ``[nonzeros]``, int64, labels.
        offsets: ``[rows + 1]``, int64, ascending from 0.
        values: ``[nonzeros]``, floating, the weight of each label; ``None`` means 1.
    """

    indices: Tensor
    offsets: Tensor
    values: Tensor | None = None

    @classmethod
    def from_lists(cls, rows: Sequence[Iterable[int]]) -> SparseTargets:
        """Builds targets from one collection of labels a row; repeated labels count once."""
        distinct = [sorted(set(row)) for row in rows]
        offsets = torch.tensor([0] + [len(row) for row in distinct], dtype=torch.int64).cumsum(0)
        indices = torch.tensor([label for row in distinct for label in row], dtype=torch.int64)
        return cls(indices, offsets)

    @property
    def num_rows(self) -> int:
        return self.offsets.numel() - 1

    @property
    def counts(self) -> Tensor:
        """``[rows]``: how many labels each row carries."""
        return self.offsets.diff()

    def row_indices(self) -> Tensor:
        """``[nonzeros]``: the row of each entry of ``indices``."""
        rows = torch.arange(self.num_rows, device=self.offsets.device)
        return rows.repeat_interleave(self.counts, output_size=self.indices.numel())

    def select(self, rows: Tensor) -> SparseTargets:
        """The targets of ``rows`` (``[n]``, int64, any order, repeats allowed)."""
        counts = self.counts[rows]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        shift = (self.offsets[rows] - offsets[:-1]).repeat_interleave(counts)
        entries = torch.arange(shift.numel(), device=shift.device) + shift
        values = None if self.values is None else self.values[entries]
        return SparseTargets(self.indices[entries], offsets, values)

    def to(self, device: torch.device | str) -> SparseTargets:
        values = None if self.values is None else self.values.to(device)
        return SparseTargets(self.indices.to(device), self.offsets.to(device), values)

    def tolist(self) -> list[list[int]]:
        flat, offsets = self.indices.tolist(), self.offsets.tolist()
        return [flat[a:b] for a, b in pairwise(offsets)]
