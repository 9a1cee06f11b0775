"""The labels of a batch in compressed sparse row form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _len_torch_dispatch_stack,
)
from torch.compiler import is_compiling


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

    def check(self, x: Tensor, name: str, *, ordered: bool = True) -> None:
        """Checks that these are distinct labels of the rows of ``x``.

        Nothing waits for a device: labels and offsets are read on the CPU only, and not where a
        compiler, tracer or transform runs. Elsewhere shapes and dtypes alone are checked.

        Args:
            x: ``[N, L]``, floating: scores or logits of ``N`` rows and ``L`` labels.
            name: of ``x``, for messages.
            ordered: whether labels have to ascend in each row, or may have any order.

        Raises:
            ValueError: if ``x`` is no floating matrix, or these are not targets of its rows.
        """
        indices, offsets, values = self
        if x.ndim != 2 or not x.is_floating_point():
            raise ValueError(
                f"{name} must be a floating [N, L] matrix, got {x.dtype} {list(x.shape)}"
            )
        for part, tensor in ("indices", indices), ("offsets", offsets):
            if tensor.ndim != 1 or tensor.dtype != torch.int64:
                raise ValueError(
                    f"{part} of targets must be an int64 vector, "
                    f"got {tensor.dtype} {list(tensor.shape)}"
                )
        if values is not None and (values.shape != indices.shape or not values.is_floating_point()):
            raise ValueError(
                f"values of targets must be floating [{len(indices)}], as indices, "
                f"got {values.dtype} {list(values.shape)}"
            )
        rows, labels = x.shape
        if self.num_rows != rows:
            raise ValueError(
                f"targets must have one row for each of the {rows} rows of {name}, "
                f"got {self.num_rows}"
            )
        if may_be_read(indices) and may_be_read(offsets):
            self._check_values(labels, ordered)

    def _check_values(self, num_labels: int, ordered: bool) -> None:
        # In NumPy, whose calls on a small batch take a fraction of what those of PyTorch do.
        indices, offsets = self.indices.numpy(), self.offsets.numpy()
        wrong = np.concatenate([offsets[:1] != 0, np.diff(offsets) < 0])
        wrong[-1] |= offsets[-1] != len(indices)
        if wrong.any():
            at = int(wrong.argmax())
            raise ValueError(
                f"offsets of targets must ascend from 0 to the {len(indices)} entries of indices, "
                f"got {offsets[at]} at {at}"
            )
        wrong = (indices < 0) | (indices >= num_labels)
        if wrong.any():
            at = int(wrong.argmax())
            raise ValueError(
                f"targets must hold labels from 0 to {num_labels - 1}, "
                f"got {indices[at]} at {at} in row {_row(offsets, at)}"
            )
        wrong = _not_ascending(indices, offsets)
        if not ordered and wrong.any():
            rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            indices = indices[np.lexsort((indices, rows))]
            wrong = _not_ascending(indices, offsets)
        if wrong.any():
            at = int(wrong.argmax())
            raise ValueError(
                f"targets must be distinct{' and ascend' if ordered else ''} within a row, "
                f"got {indices[at]} after {indices[at - 1]} in row {_row(offsets, at)}"
            )

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


def may_be_read(x: Tensor) -> bool:
    """Whether to look at numbers is possible, and does not wait for a device."""
    return (
        not is_compiling()
        and type(x) is Tensor  # not fake
        and x.device.type == "cpu"
        and not _get_tracing_state()
        and not _len_torch_dispatch_stack()
        and not _are_functorch_transforms_active()
    )


def _not_ascending(indices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """``[nonzeros + 1]``: which entries are not above the one before them in their row."""
    wrong = np.zeros(len(indices) + 1, dtype=bool)
    wrong[1:-1] = indices[1:] <= indices[:-1]
    wrong[offsets] = False  # where a row begins, or the last one ends
    return wrong


def _row(offsets: np.ndarray, entry: int) -> int:
    return int(np.searchsorted(offsets, entry, side="right")) - 1
