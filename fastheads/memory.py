"""Large results on a CPU, whose memory later results use again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def empty_cache() -> None:
    """Gives memory of large results, which nothing uses at the time, back to the system.

    Results of more than 32 MiB on a CPU (the gradient of a weight over 100,000 labels, the logits
    of a large batch) take the memory that earlier ones have left, instead of waiting for pages that
    the system clears. It lies idle only until a result comes that none of it fits. As
    ``torch.cuda.empty_cache``, this is never needed for a program to be right. Such a result cannot
    be resized (``resize_``, or as ``out=`` of something larger): PyTorch says so.
    """
    torch.ops.fastheads._empty_cache.default()


def new_empty(like: Tensor, size: Sequence[int]) -> Tensor:
    """``like.new_empty(size)``; on a CPU, large ones in memory that earlier results have left."""
    if like.device.type == "cpu":
        return torch.ops.fastheads._new_empty.default(like, size)
    return like.new_empty(size)
