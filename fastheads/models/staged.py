"""What networks of a stem, stages and one linear layer share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Staged(nn.Module):
    """``classifier(dropout(pool(stages(stem(images)))))``, channels-last throughout.

    Args:
        stem: reads the images.
        stages: what follows, to ``[N, features, H, W]``.
        features: the means over pixels that the classifier reads.
        num_labels: logits.
        least: height and width of the smallest images it takes.
        dropout: share of the means that training sets to 0.

    Shapes: images ``[N, in_channels, H, W]`` to logits ``[N, num_labels]``.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: nn.Sequential,
        features: int,
        num_labels: int,
        *,
        least: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem, self.stages, self.least = stem, stages, least
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, num_labels)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        check_size(images, self.least)
        images = images.contiguous(memory_format=torch.channels_last)
        return self.classifier(self.dropout(self.pool(self.stages(self.stem(images)))))

    @property
    def chain(self) -> dict[str, nn.Module]:
        """The layers by their names, of which each reads what the one before it gives."""
        stages = {f"stages.{number}": stage for number, stage in enumerate(self.stages)}
        last = {name: getattr(self, name) for name in ("pool", "dropout", "classifier")}
        return {"stem": self.stem, **stages, **last}


def check_size(images: Tensor, least: int) -> None:
    """Refuses images that a network would reduce to nothing.

    Raises:
        ValueError: if they are less than ``least`` pixels high or wide.
    """
    if min(images.shape[2:]) < least:
        raise ValueError(
            f"images must be at least {least} pixels high and wide for this network, got "
            f"{tuple(images.shape[2:])}"
        )


def convolution(
    channels: int,
    out_channels: int,
    size: int | tuple[int, int],
    stride: int = 1,
    padding: str | int | tuple[int, int] | None = None,
) -> nn.Conv2d:
    """Without bias, for a ReLU behind it; padded to keep the size unless ``padding`` says else."""
    if padding is None:
        padding = size // 2 if isinstance(size, int) else (size[0] // 2, size[1] // 2)
    layer = nn.Conv2d(channels, out_channels, size, stride, padding, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
