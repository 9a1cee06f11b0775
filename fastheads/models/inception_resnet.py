"""Inception-ResNet of three kinds of modules, its scaled forms, and Inception-SENet.

Huang, "Scalable large scale visual recognition using multi-label image classification", 2019,
sections 4.3, 6.2 and 8.4, "based loosely on" Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4,
Inception-ResNet and the impact of residual connections on learning", 2016, arXiv:1602.07261.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, Literal

from torch import nn

from fastheads.models.inception_v2 import Branches
from fastheads.models.resnet import Residual
from fastheads.models.senet import Reduction, SEResidual, residual_block
from fastheads.models.senet import stem as resnet_stem
from fastheads.models.staged import Staged, convolution
from fastheads.nn import SqueezeExcite

FULL = (384, 1152, 2144)
FEATURES = 512  # that the last layer reads (section 4.3)
# Of Inception-ResNet-v2 at full width: channels and sizes of the convolutions of each branch.
Branch = tuple[tuple[int, int | tuple[int, int]], ...]
MODULES: tuple[tuple[Branch, ...], ...] = (
    (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3))),
    (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1)))),
    (((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1)))),
)
# Between the sections, beside a max-pool; the last convolution of each has stride 2.
REDUCTIONS: tuple[tuple[Branch, ...], ...] = (
    (((384, 3),), ((256, 1), (256, 3), (384, 3))),
    (((256, 1), (384, 3)), ((256, 1), (288, 3)), ((256, 1), (288, 3), (320, 3))),
)


class InceptionResNet(Staged):
    """Made by :func:`inception_resnet`."""


def inception_resnet(
    channels: tuple[int, int, int] = FULL,
    blocks: tuple[int, int, int] = (4, 7, 3),
    num_labels: int = 1000,
    in_channels: int = 3,
    *,
    stem: Literal["inception", "resnet"] = "inception",
    se: bool = False,
    reduction: Reduction = 16,
    expansion: int = 1,
    squeeze: Literal["all", "averaged"] = "all",
    small: bool = False,
    stem_stride: int = 1,
    dropout: float = 0.0,
) -> InceptionResNet:
    """Inception-ResNet of section 4.3; its scaled forms of 6.2; with ``se`` that of 8.4.

    A stem, modules of kind A, B and C (Figure 10), a reduction between these sections that halves
    the size, a 1x1 convolution to 512 channels, the mean over pixels and one linear layer. The
    scaled forms are ``channels=(96, 288, 576)`` and ``(48, 144, 288)`` with ``blocks=(2, 2, 2)``
    and ``stem="resnet"``.

    The paper gives the channels between sections; what it leaves open is read as follows.

    - Inside modules, reductions and the stem, widths are those of Inception-ResNet-v2, in
      proportion to the channels of their section, rounded. At full width its reductions give
      exactly 384 + 768 = 1152 and 1152 + 992 = 2144 channels; the scaled forms share what is to be
      added among the branches in the same proportion.
    - The stem at full width is that of Inception-v4, whose 7x7 filter is factorized; 384 channels.
    - Average pooling alone cannot make 512 channels of 2144: a 1x1 convolution before it does, as
      in Inception-ResNet-v2. All forms have it.
    - Batch norm follows each convolution, also the last of a module, which has no ReLU; residuals
      are not multiplied by a constant.

    Args:
        channels: of the sections A, B and C.
        blocks: modules of each.
        num_labels: logits.
        in_channels: of the images.
        stem: ``"inception"``, or ``"resnet"``: 7x7 convolution of stride 2 to 64 channels, ReLU,
            max-pool, and a block of two layers with squeeze-excitation to the first section's
            channels (section 6.2.2).
        se: squeeze-excitation on the residual of each module: Inception-SENet.
        reduction: of :class:`fastheads.nn.SqueezeExcite`, and so are ``expansion`` and ``squeeze``.
        expansion: channels of the squeeze for each channel.
        squeeze: whether the excitation reads ``"all"`` of them, or means over groups.
        small: a stem for pictures of 32x32 or so: everything in it has stride 1, there is no
            max-pool behind the first convolution of ``"resnet"``, which is of 3x3.
        stem_stride: of the first convolution of ``"resnet"``, where small.
        dropout: share of the 512 means that training sets to 0.

    Raises:
        ValueError: if an argument is not as above, or (when called) images are smaller than 75
            pixels, 25 with ``stem="resnet"``, 7 if ``small``.
    """
    if len(channels) != 3 or len(blocks) != 3:
        raise ValueError(f"channels and blocks must be three each, got {channels} and {blocks}")
    grows = [after - before for before, after in pairwise([0, *channels])]
    if min(grows) < 3 or min(*blocks, num_labels, in_channels) < 1:
        raise ValueError(
            "channels must grow by at least 3, from 0, and blocks, num_labels and in_channels be "
            f"positive, got {channels}, {blocks}, {num_labels} and {in_channels}"
        )
    if stem not in ("inception", "resnet"):
        raise ValueError(f"stem must be 'inception' or 'resnet', got {stem!r}")
    excite = partial(SqueezeExcite, reduction=reduction, expansion=expansion, squeeze=squeeze)
    if stem == "inception":
        first = inception_stem(in_channels, channels[0], small)
    else:
        first = resnet_stem(in_channels, 64, small, stem_stride)
        first.append(residual_block(64, channels[0], excite=excite))
    stages = nn.Sequential()
    for section, (width, count) in enumerate(zip(channels, blocks, strict=True)):
        if section:
            before = channels[section - 1]
            stages.append(_reduction(before, width, REDUCTIONS[section - 1], FULL[section - 1]))
        stages.append(
            nn.Sequential(*(_module(width, section, excite if se else None) for _ in range(count)))
        )
    stages.append(nn.Sequential(*_layer(channels[2], FEATURES, 1)))
    strides = stem_stride if stem == "resnet" else 1
    least = 7 * strides if small else {"inception": 75, "resnet": 25}[stem]
    return InceptionResNet(first, stages, FEATURES, num_labels, least=least, dropout=dropout)


def inception_stem(in_channels: int, width: int, small: bool) -> nn.Sequential:
    """That of Inception-v4 and Inception-ResNet-v2 (Szegedy et al., figure 3), in proportion.

    Where that is unpadded and has stride 2, a stem for small pictures is padded and has stride 1.
    """
    stride, padding = (1, 1) if small else (2, 0)
    narrow, middle, wide = (_scaled(k, width / FULL[0]) for k in (32, 64, 96))

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride, padding)

    return nn.Sequential(
        *_layer(in_channels, narrow, 3, stride, padding),
        *_layer(narrow, narrow, 3, 1, padding),
        *_layer(narrow, middle, 3),
        Branches([pool(), nn.Sequential(*_layer(middle, wide, 3, stride, padding))]),
        Branches(
            [
                nn.Sequential(
                    *_layer(middle + wide, middle, 1), *_layer(middle, wide, 3, 1, padding)
                ),
                nn.Sequential(
                    *_layer(middle + wide, middle, 1),
                    *_layer(middle, middle, (7, 1)),
                    *_layer(middle, middle, (1, 7)),
                    *_layer(middle, wide, 3, 1, padding),
                ),
            ]
        ),
        Branches(
            [
                nn.Sequential(*_layer(2 * wide, width - 2 * wide, 3, stride, padding)),
                pool(),
            ]
        ),
    )


def _module(width: int, section: int, excite: Callable[[int], SqueezeExcite] | None) -> Residual:
    """Inception-A, B or C: ``relu(x + norm(conv1x1(branches(x))))``, Figure 10."""
    share = width / FULL[section]
    widths = [[_scaled(k, share) for k, _ in branch] for branch in MODULES[section]]
    branches = Branches(map(partial(_branch, width), MODULES[section], widths))
    joined = convolution(sum(each[-1] for each in widths), width, 1)
    branch = nn.Sequential(branches, joined, nn.BatchNorm2d(width))
    return Residual(branch) if excite is None else SEResidual(branch, excite(width))


def _reduction(channels: int, out_channels: int, branches: Sequence[Branch], full: int) -> Branches:
    """Halves the size: a max-pool, and branches that make the channels to be added."""
    widths = [[_scaled(k, channels / full) for k, _ in branch] for branch in branches]
    last = _shared(out_channels - channels, [branch[-1][0] for branch in branches])
    widths = [[*inner[:-1], end] for inner, end in zip(widths, last, strict=True)]
    halving = partial(_branch, channels, stride=2)
    return Branches([nn.MaxPool2d(3, stride=2), *map(halving, branches, widths)])


def _branch(channels: int, branch: Branch, widths: Sequence[int], stride: int = 1) -> nn.Sequential:
    """Convolutions one behind the other; the last is unpadded where it has a stride."""
    layers = nn.Sequential()
    for place, ((_, size), width) in enumerate(zip(branch, widths, strict=True), 1):
        if stride > 1 and place == len(branch):
            layers.extend(_layer(channels, width, size, stride, 0))
        else:
            layers.extend(_layer(channels, width, size))
        channels = width
    return layers


def _layer(channels: int, out_channels: int, *options: Any) -> list[nn.Module]:
    norm = nn.BatchNorm2d(out_channels)
    return [convolution(channels, out_channels, *options), norm, nn.ReLU(inplace=True)]


def _scaled(channels: int, share: float) -> int:
    return max(1, round(channels * share))


def _shared(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in about the proportion of the weights that add up to the total."""
    ends = [round(total * end / sum(weights)) for end in accumulate(weights)]
    return [end - begin for begin, end in pairwise([0, *ends])]
