"""Inception-V2 up to its features: the base networks of the paper on knowledge concentration.

Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN",
2017, arXiv:1711.07607, sections 4.1 and 4.2 "Base network". The layers are those of TensorFlow's
slim/nets/inception_v2.py, which has the names that the paper uses (Ioffe, Szegedy, "Batch
normalization", 2015, arXiv:1502.03167, figure 5, with a separable first convolution).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


class Mixed(NamedTuple):
    """Channels of an Inception block.

    Attributes:
        single: of the 1x1 branch; 0 in a block of stride 2, which has none.
        triple: of the 1x1 and the 3x3 convolution.
        double: of the 1x1 and of each of two 3x3 convolutions.
        pooled: of the 1x1 convolution behind the pool; 0 in a block of stride 2, which has none.
        pool: what the last branch begins with.
    """

    single: int
    triple: tuple[int, int]
    double: tuple[int, int]
    pooled: int
    pool: Literal["mean", "max"] = "mean"


BLOCKS = {
    "mixed_3b": Mixed(64, (64, 64), (64, 96), 32),
    "mixed_3c": Mixed(64, (64, 96), (64, 96), 64),
    "mixed_4a": Mixed(0, (128, 160), (64, 96), 0, "max"),
    "mixed_4b": Mixed(224, (64, 96), (96, 128), 128),
    "mixed_4c": Mixed(192, (96, 128), (96, 128), 128),
    "mixed_4d": Mixed(160, (128, 160), (128, 160), 96),
    "mixed_4e": Mixed(96, (128, 192), (160, 192), 96),
    "mixed_5a": Mixed(0, (128, 192), (192, 256), 0, "max"),
    "mixed_5b": Mixed(352, (192, 320), (160, 224), 128),
    "mixed_5c": Mixed(352, (192, 320), (192, 224), 128, "max"),
}
# Of each cut the last block, the least pixels for as many cells as are pooled to, and these.
CUTS = {"mixed_3": ("mixed_3b", 8, 1), "mixed_5c": ("mixed_5c", 65, 3)}


class Branches(nn.ModuleList):
    """Runs all branches on the same input and concatenates their channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


class InceptionV2(nn.Sequential):
    """Pictures to a small map of features; made by :func:`inception_v2`."""

    def __init__(self, cut: str, in_channels: int) -> None:
        if cut not in CUTS:
            raise ValueError(f"cut must be one of {', '.join(sorted(CUTS))}, got {cut!r}")
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        last, least, cells = CUTS[cut]
        super().__init__()
        self.cut, self.least = cut, least
        channels = in_channels * 8
        first = nn.Conv2d(
            in_channels, channels, 7, stride=2, padding=3, groups=in_channels, bias=False
        )
        self.add_module("conv_1a", nn.Sequential(first, convolution(channels, 64, 1)))
        self.add_module("pool_2a", nn.MaxPool2d(3, stride=2, padding=1))
        self.add_module("conv_2b", convolution(64, 64, 1))
        self.add_module("conv_2c", convolution(64, 192, 3))
        self.add_module("pool_3a", nn.MaxPool2d(3, stride=2, padding=1))
        channels = 192
        for name, block in BLOCKS.items():
            self.add_module(name, mixed(channels, block))
            kept = block.pooled or channels
            channels = block.single + block.triple[1] + block.double[1] + kept
            if name == last:
                break
        # Of the 7x7 map of 224 pixels, 3 cells are windows of 3x3 with stride 2.
        self.add_module("pool", nn.AdaptiveAvgPool2d(cells))
        self.feature_shape = (channels, cells, cells)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[2:]) < self.least:
            raise ValueError(
                f"images must be at least {self.least} pixels high and wide for cut {self.cut}, "
                f"got {tuple(images.shape[2:])}"
            )
        return super().forward(images.contiguous(memory_format=torch.channels_last))


def convolution(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Sequential:
    """Without bias; batch norm and ReLU behind it."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(out_channels, eps=1e-3),
        nn.ReLU(),
    )


def mixed(channels: int, block: Mixed) -> Branches:
    """An Inception block that reads ``channels``; of stride 2 if it has no 1x1 branch."""
    stride = 1 if block.single else 2
    (reduced, triple), (narrow, double) = block.triple, block.double
    pool: nn.Module = nn.MaxPool2d(3, stride, padding=1)
    if block.pool == "mean":
        pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    branches: list[nn.Module] = [
        nn.Sequential(convolution(channels, reduced, 1), convolution(reduced, triple, 3, stride)),
        nn.Sequential(
            convolution(channels, narrow, 1),
            convolution(narrow, double, 3),
            convolution(double, double, 3, stride),
        ),
        nn.Sequential(pool, convolution(channels, block.pooled, 1)) if block.pooled else pool,
    ]
    return Branches(
        [convolution(channels, block.single, 1), *branches] if block.single else branches
    )


def inception_v2(
    cut: Literal["mixed_5c", "mixed_3"] = "mixed_5c", in_channels: int = 3
) -> InceptionV2:
    """The base network for 100,000 labels, or the smaller one for Open Images.

    ``"mixed_5c"`` mean-pools the last map to 3x3: ``[N, 1024, 3, 3]``, 9,216 features once
    flattened (section 4.1). ``"mixed_3"`` stops in the first stage of Inception blocks and pools
    its 28x28 map of 256 channels to ``[N, 256, 1, 1]`` (section 4.2): the paper calls that map
    "Mixed_3c", but in slim the block of this name has 320 channels, and ``Mixed_3b`` has 256.

    Args:
        cut: where the network ends.
        in_channels: of the images, 3 for RGB and 1 for gray.

    Shapes: ``[N, in_channels, H, W]`` to the map ``[N, *feature_shape]``, like any trunk: flatten
    it for a head. Made for 224x224; any size from 65 (``mixed_3``: 8) gives as many features.
    Where the stride is 2 both sides are padded alike, slim pads a pixel less in front: its weights
    fit, but see pictures shifted.

    Raises:
        ValueError: if there is no such cut, or (when called) the images are too small.
    """
    return InceptionV2(cut, in_channels)
