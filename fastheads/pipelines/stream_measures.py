"""What a network knows of pictures with one label and with several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastheads.data.images import Pictures
from fastheads.metrics.hits import annotated
from fastheads.ops import topk_indices
from fastheads.pipelines.frozen import picture_batches

BEST = 5


@torch.no_grad()
def measure(
    network: nn.Module, pictures: Pictures, normalize: Callable[[Tensor], Tensor], num_labels: int
) -> dict[str, Any]:
    """Accuracy on ``pictures``, and which labels were found.

    Args:
        network: in evaluation mode.
        pictures: with one label or more each.
        normalize: of the pictures.
        num_labels: L.

    Returns:
        Shares of the pictures: ``top1`` and ``top5``, one of the labels is the best, or among the
        best five; ``all``, every label is among the best five (or as many as there are labels,
        where these are more); ``exact``, the best n are the n labels. And by label, ``[L]``:
        ``pictures`` that carry it, and ``found``, those that have it among their best five.
    """
    counts = pictures.targets.counts
    most = int(counts.max()) if len(counts) else 1
    k = min(max(BEST, most), num_labels)
    hits = {name: 0 for name in ("top1", "top5", "all", "exact")}
    carried, found = torch.zeros(2, num_labels, dtype=torch.int64)
    for images, targets in picture_batches(pictures, normalize):
        best = topk_indices(network(images), k)
        hit = annotated(best, targets, num_labels)
        upto, count = hit.cumsum(1), targets.counts
        rows = torch.arange(len(count))
        depth = count.clamp(min=min(BEST, k))
        hits["top1"] += int(upto[:, 0].sum())
        hits["top5"] += int((upto[:, min(BEST, k) - 1] > 0).sum())
        hits["all"] += int((upto[rows, depth - 1] == count).sum())
        hits["exact"] += int((upto[rows, count - 1] == count).sum())
        carried += torch.bincount(targets.indices, minlength=num_labels)
        found += torch.bincount(best[:, :BEST][hit[:, :BEST]], minlength=num_labels)
    shares = {name: value / max(len(pictures), 1) for name, value in hits.items()}
    return {**shares, "pictures": carried.tolist(), "found": found.tolist()}
