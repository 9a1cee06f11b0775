"""VGG-15: the network without shortcuts that residual networks are held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STAGES = (2, 2, 3, 3, 4)


class Layer(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class VGG(nn.Module):
    """``classifier(pool(features(images)))``; made by :func:`vgg15`."""

    def __init__(self, features: nn.Sequential, width: int, num_labels: int) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(width, num_labels)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        return self.classifier(self.pool(self.features(images)))


def vgg15(num_labels: int, in_channels: int = 3, width: int = 128) -> VGG:
    """A VGG network of 15 layers, each convolution ``width`` wide, for pictures of 16x16 and more.

    "A VGG network with 15 layers, setting the number of channels to 128 for all layers to allow the
    removal of any layer" (Veit, "Conditional networks", 2018, section 4.3.1). Read as fourteen 3x3
    convolutions with batch norm and ReLU in stages of 2, 2, 3, 3 and 4, a max-pool between stages,
    the mean over pixels and one linear layer. Any convolution but the first, which takes the
    channels of the image, can be left out.

    Args:
        num_labels: logits.
        in_channels: of the images.
        width: of all convolutions.

    Raises:
        ValueError: if a number is below 1.
    """
    if min(num_labels, in_channels, width) < 1:
        raise ValueError(
            f"num_labels, in_channels and width must be positive, got {num_labels}, {in_channels} "
            f"and {width}"
        )
    features = nn.Sequential()
    for stage, count in enumerate(STAGES):
        if stage:
            features.append(nn.MaxPool2d(2))
        for _ in range(count):
            features.append(Layer(in_channels, width))
            in_channels = width
    return VGG(features, width, num_labels)
