"""A convolutional trunk, fully connected ReLU layers, and one logistic unit a label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastheads.nn import Standardize, relu_stack


@dataclass(frozen=True)
class BaseConfig:
    """Shape of the base network.

    Attributes:
        channels: channels of the trunk's blocks; each halves height and width.
        hidden: widths of the fully connected layers; the last is the bottleneck before the labels.
    """

    channels: tuple[int, ...] = (32, 64, 128, 128)
    hidden: tuple[int, ...] = (256, 16)

    def __post_init__(self) -> None:
        for name in ("channels", "hidden"):
            widths = getattr(self, name)
            if not widths or min(widths) < 1:
                raise ValueError(f"{name} must hold at least one width, each above 0, got {widths}")


def small_trunk(in_channels: int, channels: Sequence[int]) -> nn.Sequential:
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max-pool, for small pictures."""
    layers: list[nn.Module] = []
    for out_channels in channels:
        layers += [
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        in_channels = out_channels
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


class BaseNetwork(nn.Module):
    """``classifier(stack(trunk(images)))``: a trunk, ReLU layers, one logistic unit a label.

    The network that is augmented: Warde-Farley, Rabinovich, Anguelov, "Self-informed neural
    network structure learning", 2015, section 4, with a trunk for small pictures.

    Args:
        image_shape: ``(channels, height, width)``.
        num_labels: logits.
        config: widths.

    Shapes: images ``[N, *image_shape]`` to logits ``[N, num_labels]``.
    """

    def __init__(self, image_shape: Sequence[int], num_labels: int, config: BaseConfig) -> None:
        super().__init__()
        channels, height, width = image_shape
        shrink = 2 ** len(config.channels)
        if min(height, width) < shrink:
            raise ValueError(
                f"image_shape must be at least {shrink} pixels high and wide for "
                f"{len(config.channels)} trunk blocks, got {tuple(image_shape)}"
            )
        self.trunk = small_trunk(channels, config.channels)
        self.feature_shape = (config.channels[-1], height // shrink, width // shrink)
        features = math.prod(self.feature_shape)
        self.stack = nn.Sequential(
            Standardize(config.channels[-1]), nn.Flatten(), *relu_stack(features, config.hidden)
        )
        self.classifier = logistic_units(config.hidden[-1], num_labels)

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        return self.classifier(self.stack(self.trunk(images)))


def logistic_units(in_features: int, num_labels: int) -> nn.Linear:
    """One logit a label, with a bias that says what one label among many is: unlikely.

    From a bias of 0 the first epochs would only learn to say no.
    """
    classifier = nn.Linear(in_features, num_labels)
    nn.init.constant_(classifier.bias, -math.log(max(num_labels - 1, 1)))
    return classifier
