"""Residual networks with squeeze-excitation in their blocks, and without, from 18 to 152 layers.

Hu, Shen, Albanie, Sun, Wu, "Squeeze-and-Excitation Networks", 2017, arXiv:1709.01507; Huang,
"Scalable large scale visual recognition using multi-label image classification", 2019, sections
4.1 and 4.2, with the wider squeezes and other reductions of sections 5.1 and 6.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from fastheads.models.resnet import Projection, Residual
from fastheads.models.staged import Staged, convolution
from fastheads.nn import SqueezeExcite
from fastheads.nn.squeeze_excite import up_to_norm

Reduction = int | Literal["sqrt", "log"]
# Layers of a block, and blocks of each stage (sections 4.2.1 and 4.2.2; He et al., 2015, table 1).
DEPTHS = {
    18: (2, (2, 2, 2, 2)),
    34: (2, (3, 4, 6, 3)),
    50: (3, (3, 4, 6, 3)),
    101: (3, (3, 4, 23, 3)),
    152: (3, (3, 8, 36, 3)),
}


class SEResidual(Residual):
    """``relu(shortcut(x) + se(branch(x)))``; all behind the branch is one operator.

    In inference (eval mode, no gradient) the operator also computes the batch norm that the branch
    ends in, and writes over what that would have read.

    Args:
        branch: ``[N, C, H, W]`` to the shape of the shortcut.
        se: squeeze-excitation of what the branch gives.
        shortcut: the other path; ``None`` for the identity.
    """

    def __init__(
        self, branch: nn.Module, se: SqueezeExcite, shortcut: nn.Module | None = None
    ) -> None:
        super().__init__(branch, shortcut)
        self.se = se

    def forward(self, x: Tensor) -> Tensor:
        y, norm = up_to_norm(self.branch, self.se, x)
        residual = x if self.shortcut is None else self.shortcut(x)
        return self.se(y, residual, relu=self.relu, **norm)


class SENet(Staged):
    """A residual network; made by :func:`senet`."""

    def load_resnet(self, state_dict: Mapping[str, Tensor]) -> None:
        """Loads the weights of a network of torchvision or timm that has the same layers.

        ``resnet18`` and its deeper sisters of both; with squeeze-excitation timm's ``seresnet18``
        and so on, which round the width of the excitation to multiples of 8: where theirs is
        another, the module is replaced by one of their width.

        Args:
            state_dict: of such a network with as many labels.

        Raises:
            RuntimeError: by PyTorch, naming layers, if these are not the same.
        """
        state = {_our_name(name): tensor for name, tensor in state_dict.items()}
        for name, block in self.named_modules():
            first = state.get(f"{name}.se.fc1.weight")
            if isinstance(block, SEResidual) and first is not None:
                if len(first) != block.se.fc1.out_channels:
                    se = SqueezeExcite(block.se.channels, rd_channels=len(first))
                    block.se = se.to(block.se.fc1.weight).train(self.training)
        self.load_state_dict(state)


def senet(
    depth: Literal[18, 34, 50, 101, 152] = 18,
    num_labels: int = 1000,
    in_channels: int = 3,
    *,
    reduction: Reduction = 16,
    expansion: int = 1,
    squeeze: Literal["all", "averaged"] = "all",
    se: bool = True,
    blocks: Sequence[int] | None = None,
    width: int = 64,
    small: bool = False,
    stem_stride: int = 1,
    dropout: float = 0.0,
) -> SENet:
    """A residual network whose blocks end in squeeze-excitation, or the plain one.

    Layers, strides and names of sizes are those of torchvision's ResNets: a 7x7 convolution of
    stride 2 and a max-pool, four stages, each from the second on of half the size and twice the
    channels, the mean over pixels and one linear layer. Blocks have two 3x3 convolutions (18 and
    34 layers) or 1x1, 3x3 and 1x1 with four times the channels (50 and more); Figure 7.
    Squeeze-excitation scales the branch before it is added to the shortcut (Figure 8). With 120
    labels and 18 layers: 11,238,072 parameters without it, 11,327,152 with it.

    Args:
        depth: layers, which says how many blocks of how many layers.
        num_labels: logits.
        in_channels: of the images.
        reduction: of :class:`fastheads.nn.SqueezeExcite`, and so are ``expansion`` and ``squeeze``.
        expansion: channels of the squeeze for each channel of the branch.
        squeeze: whether the excitation reads ``"all"`` of them, or means over groups.
        se: without it the network is the plain one.
        blocks: of each stage, in place of those that ``depth`` says; any number of stages.
        width: channels of the stem and the first stage (in blocks of three layers a quarter of
            what these put out).
        small: a stem for pictures of 32x32 or so: a 3x3 convolution without max-pool.
        stem_stride: of that convolution, where small; 2 costs a quarter.
        dropout: share of the inputs of the last layer that training sets to 0 (section 5.2.2).

    Raises:
        ValueError: if an argument is not as above, or (when called) images are smaller than 32
            pixels, 8 if ``small``: less than one pixel for the last stage.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}, got {depth}")
    layers, usual = DEPTHS[depth]
    blocks = usual if blocks is None else tuple(blocks)
    if not blocks or min(*blocks, num_labels, in_channels, width) < 1:
        raise ValueError(
            "blocks, num_labels, in_channels and width must be positive, got "
            f"{blocks}, {num_labels}, {in_channels} and {width}"
        )
    excite = partial(SqueezeExcite, reduction=reduction, expansion=expansion, squeeze=squeeze)
    channels, stages = width, nn.Sequential()
    for stage, count in enumerate(blocks):
        out_channels = width * 2**stage * (4 if layers == 3 else 1)
        members = nn.Sequential()
        for index in range(count):
            stride = 2 if stage and not index else 1
            members.append(
                residual_block(channels, out_channels, stride, layers, excite if se else None)
            )
            channels = out_channels
        stages.append(members)
    least = (stem_stride if small else 4) * 2 ** (len(blocks) - 1)
    first = stem(in_channels, width, small, stem_stride)
    return SENet(first, stages, channels, num_labels, least=least, dropout=dropout)


def stem(in_channels: int, width: int, small: bool, stride: int = 1) -> nn.Sequential:
    """The first layer with norm and ReLU, and a max-pool unless pictures are small."""
    first = convolution(in_channels, width, 3 if small else 7, stride if small else 2)
    layers = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    return layers if small else layers.append(nn.MaxPool2d(3, stride=2, padding=1))


def residual_block(
    channels: int,
    out_channels: int,
    stride: int = 1,
    layers: int = 2,
    excite: Callable[[int], SqueezeExcite] | None = None,
) -> Residual:
    """A block of two or three convolutions, with a projection where the shape changes.

    Args:
        channels: of its input.
        out_channels: of its output.
        stride: of its first 3x3 convolution.
        layers: two of 3x3, or three: 1x1, 3x3 and 1x1, a quarter of the channels between them.
        excite: makes the squeeze-excitation for a number of channels; ``None`` for a plain block.
    """
    if layers == 2:
        convolutions = [
            convolution(channels, out_channels, 3, stride),
            convolution(out_channels, out_channels, 3),
        ]
    else:
        inner = out_channels // 4
        convolutions = [
            convolution(channels, inner, 1),
            convolution(inner, inner, 3, stride),
            convolution(inner, out_channels, 1),
        ]
    branch = nn.Sequential()
    for layer in convolutions:
        if len(branch):
            branch.append(nn.ReLU(inplace=True))
        branch.extend([layer, nn.BatchNorm2d(layer.out_channels)])
    shortcut: nn.Module | None = None
    if stride != 1 or channels != out_channels:
        projection = Projection(channels, out_channels, stride)
        nn.init.kaiming_normal_(projection.weight, mode="fan_out", nonlinearity="relu")
        shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
    if excite is None:
        return Residual(branch, shortcut)
    return SEResidual(branch, excite(out_channels), shortcut)


def _our_name(name: str) -> str:
    """Of a tensor in a ResNet of torchvision or timm."""
    for theirs, ours in (
        (r"^conv1\.", "stem.0."),
        (r"^bn1\.", "stem.1."),
        (r"^fc\.", "classifier."),
        (r"\.downsample\.", ".shortcut."),
    ):
        name = re.sub(theirs, ours, name)
    name = re.sub(r"^layer(\d)", lambda found: f"stages.{int(found[1]) - 1}", name)
    # Convolution, norm and ReLU follow one another in the branch.
    name = re.sub(r"\.conv(\d)\.", lambda found: f".branch.{3 * int(found[1]) - 3}.", name)
    return re.sub(r"\.bn(\d)\.", lambda found: f".branch.{3 * int(found[1]) - 2}.", name)
