"""Residual networks: for small pictures as in the first paper on them, and torchvision's.

``x = act(shortcut(x) + branch(x))``. He, Zhang, Ren, Sun, "Deep residual learning for image
recognition", 2015, arXiv:1512.03385, sections 3.3 and 4.2; the same, "Identity mappings in deep
residual networks", 2016, arXiv:1603.05027 (pre-activation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    import torchvision


class Residual(nn.Module):
    """``act(shortcut(x) + branch(x))``.

    Args:
        branch: ``[N, C, H, W]`` to the shape of the shortcut.
        shortcut: the other path; ``None`` for the identity.
        relu: the activation; without it there is none.
    """

    def __init__(
        self, branch: nn.Module, shortcut: nn.Module | None = None, *, relu: bool = True
    ) -> None:
        super().__init__()
        self.branch, self.shortcut, self.relu = branch, shortcut, relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y += x if self.shortcut is None else self.shortcut(x)  # in place, as torchvision does
        return y.relu_() if self.relu else y


class PadShortcut(nn.Module):
    """Every ``stride``-th pixel and ``extra`` channels of zeros: option A, without parameters."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, extra={self.extra}"


class Projection(nn.Conv2d):
    """The 1x1 convolution without bias of a shortcut, with a stride.

    Of few channels it reads every ``stride``-th pixel first: where there are fewer than a vector
    holds, oneDNN's gradient of a strided 1x1 convolution in channels-last writes past its memory
    (uxlfoundation/oneDNN#6035; with two threads and odd batches it ends the process).
    """

    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.in_channels >= 16 or self.stride == (1, 1):
            return super().forward(x)
        down, across = self.stride
        return F.conv2d(x[:, :, ::down, ::across], self.weight)


class ResNet(nn.Module):
    """``classifier(pool(norm(stages(stem(images)))))``; made by :func:`resnet`.

    Shapes: images ``[N, in_channels, H, W]`` to logits ``[N, num_labels]``.
    """

    def __init__(
        self, stem: nn.Module, stages: nn.Sequential, norm: nn.Module, width: int, num_labels: int
    ) -> None:
        super().__init__()
        self.stem, self.stages, self.norm = stem, stages, norm
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(width, num_labels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        return self.classifier(self.pool(self.norm(self.stages(self.stem(images)))))


def resnet(
    blocks: Sequence[int] = (2, 3, 3),
    widths: Sequence[int] = (32, 64, 128),
    *,
    num_labels: int,
    in_channels: int = 3,
    stem_stride: int = 1,
    preactivation: bool = False,
    shortcut: Literal["pad", "projection"] = "pad",
) -> ResNet:
    """A residual network for small pictures, of basic blocks of two 3x3 convolutions.

    The stem is a 3x3 convolution; the first block of each later stage halves height and width. A
    projection sees the input of its block, also before a pre-activation, so that shortcut and
    branch have no layer in common. Weights and activations are channels-last.

    Args:
        blocks: how many in each stage.
        widths: channels of each stage.
        num_labels: logits.
        in_channels: of the images.
        stem_stride: of the first convolution.
        preactivation: norm and ReLU before each convolution, none behind the sum.
        shortcut: of blocks that change the shape: "pad" (option A) or "projection" (option B), a
            1x1 convolution and, except before a pre-activation, a norm.

    Raises:
        ValueError: if a number is below 1, or there are not as many widths as stages.
    """
    if not blocks or len(blocks) != len(widths):
        raise ValueError(
            f"blocks and widths must hold one number a stage, got {tuple(blocks)} and "
            f"{tuple(widths)}"
        )
    if min(*blocks, *widths, num_labels, in_channels, stem_stride) < 1:
        raise ValueError("blocks, widths, num_labels, in_channels and stem_stride must be positive")
    if shortcut not in ("pad", "projection"):
        raise ValueError(f"shortcut must be 'pad' or 'projection', got {shortcut!r}")
    if shortcut == "pad" and list(widths) != sorted(widths):
        raise ValueError(f"widths must not fall where shortcut is 'pad', got {tuple(widths)}")
    width = widths[0]
    stem: list[nn.Module] = [_convolution(in_channels, width, stem_stride)]
    stages = nn.Sequential()
    for stage, (count, out_width) in enumerate(zip(blocks, widths, strict=True)):
        layers = nn.Sequential()
        for index in range(count):
            stride = 2 if stage and not index else 1
            layers.append(_basic_block(width, out_width, stride, preactivation, shortcut))
            width = out_width
        stages.append(layers)
    activation = [nn.BatchNorm2d(width if preactivation else widths[0]), nn.ReLU(inplace=True)]
    if preactivation:
        return ResNet(stem[0], stages, nn.Sequential(*activation), width, num_labels)
    return ResNet(nn.Sequential(*stem, *activation), stages, nn.Identity(), width, num_labels)


def resnet110(num_labels: int = 10, in_channels: int = 3, preactivation: bool = False) -> ResNet:
    """ResNet-110 for pictures of 32x32: 54 blocks, 1,727,962 parameters, 0.2529 G multiply-adds."""
    return resnet(
        (18, 18, 18),
        (16, 32, 64),
        num_labels=num_labels,
        in_channels=in_channels,
        preactivation=preactivation,
    )


def imagenet_resnet(
    depth: Literal[50, 101], num_labels: int = 1000, stride_in: Literal["1x1", "3x3"] = "1x1"
) -> torchvision.models.ResNet:
    """Torchvision's ResNet-50 or 101, without weights.

    Args:
        depth: 50 or 101.
        num_labels: logits.
        stride_in: the convolution of a block that halves the size. "1x1", the first one, as in
            the paper: 3.858 and 7.570 G multiply-adds at 224x224. "3x3", as torchvision has it,
            and its weights need it: 4.089 and 7.801 G.
    """
    import torchvision

    if depth not in (50, 101):
        raise ValueError(f"depth must be 50 or 101, got {depth}")
    if stride_in not in ("1x1", "3x3"):
        raise ValueError(f"stride_in must be '1x1' or '3x3', got {stride_in!r}")
    network = getattr(torchvision.models, f"resnet{depth}")(num_classes=num_labels)
    if stride_in == "1x1":
        for block in network.modules():
            if isinstance(block, torchvision.models.resnet.Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    return network


def _basic_block(
    width: int, out_width: int, stride: int, preactivation: bool, shortcut: str
) -> Residual:
    first, second = _convolution(width, out_width, stride), _convolution(out_width, out_width)
    if preactivation:
        branch = nn.Sequential(
            *(nn.BatchNorm2d(width), nn.ReLU(inplace=True), first),
            *(nn.BatchNorm2d(out_width), nn.ReLU(inplace=True), second),
        )
    else:
        branch = nn.Sequential(
            *(first, nn.BatchNorm2d(out_width), nn.ReLU(inplace=True)),
            *(second, nn.BatchNorm2d(out_width)),
        )
    other: nn.Module | None = None
    if stride != 1 or width != out_width:
        if shortcut == "pad":
            other = PadShortcut(stride, out_width - width)
        else:
            other = Projection(width, out_width, stride)
            if not preactivation:
                other = nn.Sequential(other, nn.BatchNorm2d(out_width))
    return Residual(branch, other, relu=not preactivation)


def _convolution(channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False)
