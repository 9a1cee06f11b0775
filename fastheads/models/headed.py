"""A trunk with structurally connected top layers over many labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastheads.nn import Standardize, TopLayers
from fastheads.targets import SparseTargets


class HeadedNetwork(nn.Module):
    """``head(standardize(trunk(images)))``: the student, and each specialist, of paper 002.

    Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single
    CNN", 2017, section 3.2: a base network below two top layers and the logits.

    Args:
        trunk: pictures to features ``[N, channels, ...]``; ``nn.Identity()`` for a network that
            is given features.
        standardize: of the features' channels.
        head: reads the features, flattened.

    Shapes: pictures ``[N, C, H, W]`` to logits ``[N, labels]``.
    """

    def __init__(self, trunk: nn.Module, standardize: Standardize, head: TopLayers) -> None:
        super().__init__()
        self.trunk, self.standardize, self.head = trunk, standardize, head

    def features(self, images: Tensor) -> Tensor:
        """What the head reads, ``[N, features]``."""
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.standardize(self.trunk(images)).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def loss(self, images: Tensor, targets: SparseTargets) -> Tensor:
        """Sigmoid cross-entropy (eq. 1 and 2), a scalar; see :meth:`TopLayers.loss`."""
        return self.head.loss(self.features(images), targets)


@torch.no_grad()
def feature_shape(trunk: nn.Module, image_shape: Sequence[int]) -> tuple[int, ...]:
    """``(channels, ...)`` of the features of one picture ``(channels, height, width)``."""
    training = trunk.training
    found = trunk.eval()(torch.zeros(1, *image_shape))
    trunk.train(training)
    return tuple(found.shape[1:])
