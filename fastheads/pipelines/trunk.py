"""The trunk below all heads: trained by softmax under a scaffold that is thrown away."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torch import nn

from fastheads.data import Augmentation, Data
from fastheads.losses import softmax_cross_entropy
from fastheads.models import feature_shape, inception_v2, small_trunk
from fastheads.nn import relu_stack
from fastheads.pipelines.frozen import channels_last
from fastheads.training import TrainConfig, fit
from fastheads.training.config import check_training


@dataclass(frozen=True)
class TrunkConfig:
    """The base network of a student and how it is trained.

    Attributes:
        kind: a small one for small pictures, Inception-V2 up to its last maps (paper 002, section
            4.1), or cut after its third stage (section 4.2).
        channels: of the blocks of the small trunk; each halves height and width.
        width: of the layer between trunk and labels while the trunk is trained.
        training: by softmax cross-entropy.
    """

    kind: Literal["small", "inception_v2", "inception_v2_mixed_3"] = "small"
    channels: tuple[int, ...] = (32, 64, 128, 128)
    width: int = 128
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=6, batch_size=128, lr=4e-3, weight_decay=1e-4)
    )

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1 or self.width < 1:
            raise ValueError(
                f"channels and width must be above 0, got {self.channels} and {self.width}"
            )
        check_training(training=self.training)


def build_trunk(config: TrunkConfig, in_channels: int) -> nn.Module:
    """A new trunk, which takes pictures of ``in_channels`` channels."""
    if config.kind == "small":
        return small_trunk(in_channels, config.channels)
    cut: Literal["mixed_3", "mixed_5c"] = (
        "mixed_3" if config.kind == "inception_v2_mixed_3" else "mixed_5c"
    )
    return inception_v2(cut, in_channels)


def fit_trunk(
    trunk: nn.Module,
    data: Data,
    width: int,
    training: TrainConfig,
    augmentation: Augmentation,
    folder: Path,
    seed: int,
) -> float:
    """Trains ``trunk`` in place below a scaffold of two layers; returns the seconds it took."""
    features = math.prod(feature_shape(trunk, data.image_shape))
    classifier = nn.Linear(width, data.num_labels)
    scaffold = nn.Sequential(trunk, nn.Flatten(), *relu_stack(features, [width]), classifier)
    result = fit(
        scaffold,
        data.train,
        softmax_cross_entropy,
        replace(training, seed=seed),
        folder=folder / "training" / f"trunk seed {seed}",
        augment=lambda images, generator: channels_last(augmentation(images, generator)),
        name="trunk",
    )
    scaffold.cpu()
    return result.seconds
