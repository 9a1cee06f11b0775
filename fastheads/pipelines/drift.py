"""How far a network has moved: its weights, the statistics of its norms, its outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastheads.ops import topk_indices


@dataclass(frozen=True)
class Drift:
    """Distances of a network from one before.

    Attributes:
        weights: mean over tensors of two or more dimensions of ``|after - before| / |before|``.
        norms: mean over the channels of all norms with running statistics of the distance between
            the normal distributions that these describe (2-Wasserstein), in units of the standard
            deviation before; None without such norms.
        divergence: mean over the reference pictures of the sum over labels of the Kullback-Leibler
            divergence of the scores after from those before, in nats; None without such pictures.
        top5: share of the best 5 labels before that are among the best 5 after, mean over the
            reference pictures; None without such pictures.
    """

    weights: float
    norms: float | None
    divergence: float | None
    top5: float | None


@torch.no_grad()
def measure_drift(
    before: nn.Module, after: nn.Module, logits_before: Tensor, logits_after: Tensor
) -> Drift:
    """Measures the drift of ``after``, a network of the same structure as ``before``.

    Args:
        before: a network.
        after: the network that it has become.
        logits_before: ``[N, L]``, of ``before`` on the reference pictures; ``N`` may be 0.
        logits_after: ``[N, L]``, of ``after``.
    """
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    moves = [
        ((new - old).norm() / old.norm()).double()
        for old, new in pairs
        if old.ndim > 1 and old.any()
    ]
    norms = [
        _norm_distance(old, new)
        for old, new in zip(before.modules(), after.modules(), strict=True)
        if getattr(old, "running_mean", None) is not None
    ]
    return Drift(
        float(torch.stack(moves).mean()) if moves else 0.0,
        float(torch.cat(norms).mean()) if norms else None,
        _divergence(logits_before, logits_after) if len(logits_before) else None,
        _agreement(logits_before, logits_after) if len(logits_before) else None,
    )


def _norm_distance(before: nn.Module, after: nn.Module) -> Tensor:
    (mean, var), (new_mean, new_var) = (
        (module.get_buffer("running_mean").double(), module.get_buffer("running_var").double())
        for module in (before, after)
    )
    spread = (var + 1e-5).sqrt()  # as norms guard against channels that are constant
    moved = torch.hypot(new_mean - mean, (new_var + 1e-5).sqrt() - spread)
    return moved / spread


def _divergence(before: Tensor, after: Tensor) -> float:
    old, new = before.double(), after.double()
    kept = old.sigmoid() * (F.logsigmoid(old) - F.logsigmoid(new))
    lost = (-old).sigmoid() * (F.logsigmoid(-old) - F.logsigmoid(-new))
    return float((kept + lost).sum(1).mean())


def _agreement(before: Tensor, after: Tensor) -> float:
    k = min(5, before.shape[1])
    old, new = topk_indices(before, k), topk_indices(after, k)
    return float((old[:, :, None] == new[:, None, :]).any(2).double().mean())
