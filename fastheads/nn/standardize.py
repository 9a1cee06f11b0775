"""Features brought to mean 0 and standard deviation 1, channel by channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """``(x - mean) / std`` a channel, with statistics that are measured once and then fixed.

    Features after a ReLU are all positive: a step of the optimiser moves all the weights of a new
    unit one way, its input by hundreds of times as much, and the unit is dead for good. The map
    is affine: it can be folded into the layer behind it.

    Args:
        channels: size of dimension 1 of the features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def measure(self, features: Tensor) -> None:
        """Sets the statistics to those of ``features``, ``[N, channels, ...]``.

        Raises:
            ValueError: if a channel has fewer than two values.
        """
        samples = features.transpose(0, 1).flatten(1)
        if samples.shape[1] < 2:
            raise ValueError(
                f"features must hold at least 2 values a channel, got {samples.shape[1]}"
            )
        self.mean.copy_(samples.mean(1))
        # A channel that never varies must not be blown up where it varies later.
        self.std.copy_(samples.std(1).clamp(min=1e-3 * float(samples.std()) + 1e-12))

    def forward(self, features: Tensor) -> Tensor:
        shape = (-1, *[1] * (features.dim() - 2))
        return (features - self.mean.view(shape)) / self.std.view(shape)
