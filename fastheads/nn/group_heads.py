"""Auxiliary heads, each wired to the labels of one group only (paper 000, section 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastheads.labels import Grouping
from fastheads.nn.group_ordered import GroupOrdered
from fastheads.nn.standardize import Standardize


class GroupHeads(GroupOrdered):
    """One specialist head a group: a stack of ReLU layers, then weights to the group's labels.

    ``out[:, labels of g] = output_g(stack_g(features))``; labels in no group get 0. All heads read
    the same features, standardised, so their first layers are one matrix product. All weights start
    at random (output weights of zero ended 3 to 4 points of mAP@50 lower on glyphs), and outputs
    have no bias: the classifier that they add to has one.

    Warde-Farley, Rabinovich, Anguelov, "Self-informed neural network structure learning", 2015,
    section 2; on a convolutional map (section 6) each head begins with a 3x3 convolution.

    Args:
        feature_shape: ``(features,)``, or ``(channels, height, width)`` of a feature map.
        grouping: the groups of the labels.
        widths: hidden widths of each head, one sequence a group.
        conv_channels: channels of the convolution that each head begins with; 0 for none.

    Shapes: features ``[N, *feature_shape]`` to logits ``[N, labels]``.
    """

    first: nn.Linear | nn.Conv2d
    stacks: Sequence[nn.Sequential]
    outputs: Sequence[nn.Linear]

    def __init__(
        self,
        feature_shape: Sequence[int],
        grouping: Grouping,
        widths: Sequence[Sequence[int]],
        conv_channels: int = 0,
    ) -> None:
        super().__init__(grouping)
        if not grouping.num_groups:
            raise ValueError("grouping must have at least one group, got 0")
        if len(widths) != grouping.num_groups or not all(widths):
            raise ValueError(
                f"widths must hold at least one width for each of {grouping.num_groups} groups, "
                f"got {[list(w) for w in widths]}"
            )
        if conv_channels and len(feature_shape) != 3:
            raise ValueError(
                "conv_channels needs features of shape (channels, height, width), "
                f"got {tuple(feature_shape)}"
            )
        # A plain number, because torch.compile does not read the arrays of a grouping.
        self.num_ungrouped = grouping.num_labels - int(grouping.offsets[-1])
        self.feature_shape = tuple(feature_shape)
        self.widths = [list(w) for w in widths]
        self.conv_channels = conv_channels
        self.standardize = Standardize(self.feature_shape[0])
        # What the shared first layer gives each head: channels of its convolution, or units.
        self.shares = [conv_channels or w[0] for w in widths]
        if conv_channels:
            channels, height, width = self.feature_shape
            self.first = nn.Conv2d(channels, sum(self.shares), 3, padding=1)
            inner = [(conv_channels * height * width, w) for w in self.widths]
        else:
            self.first = nn.Linear(math.prod(self.feature_shape), sum(self.shares))
            inner = [(w[0], w[1:]) for w in self.widths]
        self.stacks = nn.ModuleList(  # type: ignore[assignment]
            relu_stack(start, rest) for start, rest in inner
        )
        self.outputs = nn.ModuleList(  # type: ignore[assignment]
            nn.Linear(w[-1], int(size), bias=False)
            for w, size in zip(self.widths, grouping.sizes, strict=True)
        )
        self._order_on(self.first.weight.device)

    def head(self, group: int, features: Tensor) -> Tensor:
        """Logits ``[N, labels of the group]`` of one head alone, labels in ascending order."""
        start = sum(self.shares[:group])
        part = slice(start, start + self.shares[group])
        assert self.first.bias is not None
        weight, bias = self.first.weight[part], self.first.bias[part]
        features = self.standardize(features)
        if self.conv_channels:
            first = F.conv2d(features, weight, bias, padding=1)
        else:
            first = F.linear(features.flatten(1), weight, bias)
        return self._rest(group, F.relu(first))

    def grouped(self, features: Tensor) -> Tensor:
        """Logits ``[N, labels]`` of all heads with the labels in group order."""
        x = self.standardize(features)
        x = x if self.conv_channels else x.flatten(1)
        shares = F.relu(self.first(x)).split(self.shares, 1)
        parts = [self._rest(g, share) for g, share in enumerate(shares)]
        if self.num_ungrouped:
            parts.append(parts[0].new_zeros(len(x), self.num_ungrouped))
        return torch.cat(parts, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.grouped(features).index_select(1, self.position)

    def _rest(self, group: int, first: Tensor) -> Tensor:
        return self.outputs[group](self.stacks[group](first.flatten(1)))

    def extra_repr(self) -> str:
        return f"labels={self.grouping.num_labels}, groups={self.grouping.num_groups}"


def relu_stack(in_features: int, widths: Sequence[int]) -> nn.Sequential:
    """Fully connected layers of ``widths`` units, each followed by a ReLU."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(in_features, width), nn.ReLU()]
        in_features = width
    return nn.Sequential(*layers)


def head_widths(
    widths: Sequence[int], num_groups: int, shares: Sequence[float] | None = None, smallest: int = 4
) -> list[list[int]]:
    """Hidden widths of each head: equal, or in proportion to ``shares`` at about the same total.

    Warde-Farley, Rabinovich, Anguelov, 2015, section 6: capacity by the size of a group, its
    training data or its difficulty.

    Args:
        widths: hidden widths of a head of average size.
        num_groups: number of heads.
        shares: ``[groups]``, at least 0, what the capacity follows; ``None`` for equal heads.
        smallest: no layer becomes narrower.
    """
    if shares is None or sum(shares) == 0:
        return [list(widths) for _ in range(num_groups)]
    mean = sum(shares) / num_groups
    return [[max(smallest, round(w * share / mean)) for w in widths] for share in shares]


def head_macs(classifier: nn.Linear, rounds: Iterable[GroupHeads]) -> int:
    """Multiply-adds of one image in a classifier and all heads beside it."""
    return classifier.weight.numel() + sum(
        group_macs(heads, group) for heads in rounds for group in range(heads.grouping.num_groups)
    )


def group_macs(heads: GroupHeads, group: int) -> int:
    """Multiply-adds of one image in one head: each weight once, of a convolution once a pixel."""
    macs = heads.first.weight.numel() * heads.shares[group] // sum(heads.shares)
    if heads.conv_channels:
        macs *= heads.feature_shape[1] * heads.feature_shape[2]
    inner = sum(p.numel() for p in heads.stacks[group].parameters() if p.dim() > 1)
    return macs + inner + heads.outputs[group].weight.numel()
