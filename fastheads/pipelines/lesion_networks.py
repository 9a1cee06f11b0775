"""The networks of the lesion study, and how one of them is trained (paper 004, section 4.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fastheads.data import Augmentation
from fastheads.data.images import Pictures
from fastheads.losses import softmax_cross_entropy
from fastheads.models.resnet import resnet
from fastheads.models.vgg import vgg15
from fastheads.nn.switched_block import StochasticDepth, scale_branches
from fastheads.pipelines.frozen import channels_last
from fastheads.pipelines.run_folder import check_distinct
from fastheads.pipelines.teacher_task import steps_per_epoch
from fastheads.ranges import check_range
from fastheads.training import FitResult, TrainConfig, fit
from fastheads.training.config import check_training

ROWS = ("resnet", "vgg", "stochastic_depth", "effective_paths")


@dataclass(frozen=True)
class NetworksConfig:
    """The networks that are trained to be lesioned.

    Attributes:
        rows: which ones: resnet (trained as usual), vgg (layers without shortcuts),
            stochastic_depth and effective_paths (the residual network, trained with some of its
            blocks in each batch).
        blocks: of the residual network, in each stage; 18, 18, 18 make 110 layers. They are of the
            pre-activation type.
        widths: channels of each stage.
        stem_stride: of its first convolution.
        vgg_width: channels of all 14 convolutions of the VGG network.
        modules: blocks that a batch is trained with on the effective paths; by default the
            paper's part, 23 of 54.
        survival: probability of the last block to be open with stochastic depth, from 1 at the
            stem.
        training: of each network, by softmax cross-entropy. Where a batch executes some of the
            blocks, there are as many more epochs: all rows execute as many blocks.
        processes: that train and lesion networks side by side; by default one for each GPU, or
            else for each thread that PyTorch would use.
    """

    rows: tuple[str, ...] = ROWS
    blocks: tuple[int, ...] = (18, 18, 18)
    widths: tuple[int, ...] = (8, 16, 32)
    stem_stride: int = 2
    vgg_width: int = 32
    modules: int | None = None
    survival: float = 0.5
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=10, batch_size=128, lr=1e-2, weight_decay=5e-4)
    )
    processes: int | None = None

    def __post_init__(self) -> None:
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise ValueError(f"rows must be among {', '.join(ROWS)}, got {unknown[0]!r}")
        check_distinct("rows", self.rows)
        if not 0 < self.survival <= 1:
            raise ValueError(f"survival must be in (0, 1], got {self.survival}")
        if self.modules is not None and not 1 <= self.modules <= self.num_blocks:
            raise ValueError(
                f"modules must be 1 to the {self.num_blocks} blocks, got {self.modules}"
            )
        check_range(self, "processes", least=1)
        check_training(training=self.training)
        self.build("resnet", 1, 1)  # checks the rest
        self.build("vgg", 1, 1)

    @property
    def num_blocks(self) -> int:
        return sum(self.blocks)

    @property
    def num_modules(self) -> int:
        """Blocks in a batch on the effective paths (section 4.4.3)."""
        return self.modules or max(1, round(self.num_blocks * 23 / 54))

    def build(self, row: str, num_labels: int, channels: int) -> nn.Module:
        """A new network."""
        if row == "vgg":
            return vgg15(num_labels, channels, self.vgg_width)
        return resnet(
            self.blocks,
            self.widths,
            num_labels=num_labels,
            in_channels=channels,
            stem_stride=self.stem_stride,
            preactivation=True,
        )

    def survivals(self, row: str) -> list[float]:
        """The share of batches that each block is open in."""
        n = self.num_blocks
        if row == "stochastic_depth":
            return [1 - (1 - self.survival) * (i + 1) / n for i in range(n)]
        return [self.num_modules / n if row == "effective_paths" else 1.0] * n

    def training_of(self, row: str, seed: int) -> TrainConfig:
        """The training of a row."""
        executed = sum(self.survivals(row)) / self.num_blocks
        return replace(self.training, seed=seed, epochs=round(self.training.epochs / executed))

    def title(self, row: str) -> str:
        """What the network is called, and how long it was trained."""
        name = f"VGG-15x{self.vgg_width}" if row == "vgg" else f"ResNet-{2 * self.num_blocks + 2}"
        how = {
            "stochastic_depth": ", stochastic depth",
            "effective_paths": f", {self.num_modules} blocks a batch",
        }
        return f"{name}{how.get(row, '')}, {self.training_of(row, 0).epochs} epochs"


@dataclass(frozen=True)
class NetworkTask:
    """All that a process needs to train one network."""

    row: str
    seed: int
    config: NetworksConfig
    pictures: Pictures
    num_labels: int
    augmentation: Augmentation
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.row}, seed {self.seed}"

    @property
    def steps(self) -> int:
        training = self.training
        return training.epochs * steps_per_epoch(len(self.pictures), training.batch_size)

    @property
    def training(self) -> TrainConfig:
        return self.config.training_of(self.row, self.seed)

    def run(self, watch: Callable[[int, float], None] | None = None) -> tuple[nn.Module, FitResult]:
        """The trained network on the CPU, in eval mode; read where it has been trained before."""
        config, row = self.config, self.row
        torch.manual_seed(self.seed)
        network = config.build(row, self.num_labels, self.pictures.images.shape[1])
        model = network
        if row == "stochastic_depth":
            model = StochasticDepth(network, config.survivals(row))
        elif row == "effective_paths":
            model = StochasticDepth(network, exactly=config.num_modules)
        result = fit(
            model,
            self.pictures,
            softmax_cross_entropy,
            self.training,
            folder=self.folder / "training" / f"{row} seed {self.seed}",
            augment=self._augment,
            watch=watch,
            name=self.name,
            quiet=True,
        )
        if isinstance(model, StochasticDepth):
            network = model.release()
            scale_branches(network, config.survivals(row))
        return network.cpu().eval(), result

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return channels_last(self.augmentation(images, generator))
