"""VGG-15 and VGG-16: the networks without shortcuts that residual networks are held against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastheads.models.staged import check_size

STAGES = (2, 2, 3, 3, 4)
STAGES_16 = (2, 2, 3, 3, 3)


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
    """``classifier(pool(features(images)))``; made by :func:`vgg15` and :func:`vgg16`."""

    def __init__(
        self, features: nn.Module, pool: nn.Module, classifier: nn.Module, least: int
    ) -> None:
        super().__init__()
        self.features, self.pool, self.classifier = features, pool, classifier
        self.least = least
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        check_size(images, self.least)
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
        ValueError: if a number is below 1, or (when called) images are smaller than 16 pixels.
    """
    _check(num_labels, in_channels, width)
    widths = (width,) * len(STAGES)
    return _pooled(in_channels, STAGES, widths, nn.Linear(width, num_labels))


def vgg16(
    num_labels: int = 1000,
    in_channels: int = 3,
    *,
    norm: bool = True,
    small: bool = False,
    width: int = 64,
    dropout: float = 0.5,
) -> VGG:
    """Torchvision's VGG-16 without weights, or a form of it for pictures of 16x16 and more.

    Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition",
    2014, arXiv:1409.1556, configuration D: 138,357,544 parameters without norms. It stands beside
    the SE networks in Table 1 of Huang, "Scalable large scale visual recognition using multi-label
    image classification", 2019. The state dict has torchvision's names, and loads its weights where
    labels and channels are as there.

    The form for small pictures has the same thirteen convolutions with batch norm, max-pools only
    between stages, the mean over pixels and one linear layer: without the three linear layers that
    have nine in ten of the parameters.

    Args:
        num_labels: logits.
        in_channels: of the images.
        norm: batch norm behind each convolution (``vgg16_bn``); always there if ``small``.
        small: the form for small pictures.
        width: of the first stage of that form; the others have 2, 4, 8 and 8 times as many.
        dropout: share of the inputs that training sets to 0: of the last layer, or in torchvision's
            of the last two.

    Raises:
        ValueError: if a number is below 1, or (when called) images are smaller than 32 pixels, 16
            if ``small``.
    """
    _check(num_labels, in_channels, width)
    if small:
        widths = [width * times for times in (1, 2, 4, 8, 8)]
        last = nn.Sequential(nn.Dropout(dropout), nn.Linear(widths[-1], num_labels))
        return _pooled(in_channels, STAGES_16, widths, last)
    import torchvision

    make = torchvision.models.vgg16_bn if norm else torchvision.models.vgg16
    made = make(num_classes=num_labels, dropout=dropout)
    if in_channels != 3:
        first = nn.Conv2d(in_channels, 64, 3, padding=1)
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        made.features[0] = first
    return VGG(made.features, nn.Sequential(made.avgpool, nn.Flatten()), made.classifier, least=32)


def _pooled(
    in_channels: int, stages: Sequence[int], widths: Sequence[int], classifier: nn.Module
) -> VGG:
    """Stages with a max-pool between each two, and the mean over pixels behind the last."""
    features = nn.Sequential()
    for stage, (count, width) in enumerate(zip(stages, widths, strict=True)):
        if stage:
            features.append(nn.MaxPool2d(2))
        for _ in range(count):
            features.append(Layer(in_channels, width))
            in_channels = width
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return VGG(features, pool, classifier, least=2 ** (len(stages) - 1))


def _check(num_labels: int, in_channels: int, width: int) -> None:
    if min(num_labels, in_channels, width) < 1:
        raise ValueError(
            f"num_labels, in_channels and width must be positive, got {num_labels}, {in_channels} "
            f"and {width}"
        )
