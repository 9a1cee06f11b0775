"""What the losses over sparse targets share: entries of the targets, checks and reductions."""

from __future__ import annotations

import torch
from torch import Tensor

from fastheads.targets import SparseTargets

REDUCTIONS = ("mean_rows", "mean", "sum", "none")


def check(logits: Tensor, targets: SparseTargets, reduction: str, *, ordered: bool = True) -> None:
    """Raises ValueError for logits, targets and a reduction that do not fit together."""
    targets.check(logits, "logits", ordered=ordered)
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")


def wide(x: Tensor) -> Tensor:
    """``x`` in the type that sums are accumulated in: float32, or float64 if it is that."""
    return x if x.dtype == torch.float64 else x.float()


def values_of(targets: SparseTargets, like: Tensor) -> Tensor:
    """``[nonzeros]``: the weight of each entry, in the dtype and on the device of ``like``."""
    if targets.values is None:
        return like.new_ones(targets.indices.numel())
    return targets.values.to(like)


def reduce_rows(rows: Tensor, reduction: str, num_labels: int) -> Tensor:
    """One loss a row ``[N]`` to what ``reduction`` asks for."""
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    return rows.mean() if reduction == "mean_rows" else rows.mean() / num_labels
