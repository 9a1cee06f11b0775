"""The loss that holds each gate open for a given share of the images (paper 004, eq. 5.8)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor


def target_rate_loss(
    z: Sequence[Tensor],
    target: float | Tensor | Sequence[float],
    reduction: Literal["sum", "mean", "total"] = "sum",
) -> Tensor:
    """``sum_l (mean_n z_l[n] - t_l)^2`` over the gates ``l`` of a network.

    Veit, "Conditional networks", 2018, section 5.2.3, eq. 5.8 (``reduction="sum"``, one target for
    all); the authors' code takes the mean over the gates, and a target for each. "total" is the
    square of the mean of the differences: it holds the rate of all gates together, and leaves to
    the network which gates open for all images, which for none, and which for some.

    Args:
        z: for each gate its decisions ``[N]``, with the gradient that training gives them.
        target: rate, any real number or a tensor without dimensions, or one for each gate; above 0
            and at most 1.
        reduction: sum or mean of the gates' squares, or the square of their mean, "total".

    Returns:
        A scalar; 0 without gates.

    Raises:
        ValueError: if a target lies outside (0, 1], their number is not that of the gates, or
            ``reduction`` is unknown.
    """
    each: list[Any] = [target] * len(z)
    if isinstance(target, Iterable) and getattr(target, "ndim", 1) > 0:
        each = list(target)
    targets = [float(value) for value in each]
    for value in targets:
        if not 0 < value <= 1:
            raise ValueError(f"target must be above 0 and at most 1, got {value}")
    if len(targets) != len(z):
        raise ValueError(
            f"target must be one rate, or one for each of the {len(z)} gates, got {len(targets)}"
        )
    if reduction not in ("sum", "mean", "total"):
        raise ValueError(f"reduction must be 'sum', 'mean' or 'total', got {reduction!r}")
    if not z:
        return torch.zeros(())
    rates = torch.stack([decisions.mean() for decisions in z])
    differences = rates - rates.new_tensor(targets)
    if reduction == "total":
        return differences.mean().square()
    squares = differences.square()
    return squares.sum() if reduction == "sum" else squares.mean()
