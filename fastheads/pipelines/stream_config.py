"""Settings of a comparison of networks that learn a stream of new labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from fastheads.data import Augmentation
from fastheads.data.stream import StreamData, StreamDataConfig
from fastheads.pipelines.guards import GuardsConfig
from fastheads.pipelines.run_folder import check_distinct
from fastheads.pipelines.stream_networks import NetworksConfig
from fastheads.ranges import check_range, check_seeds
from fastheads.training import Stages, TrainConfig
from fastheads.training.config import check_training

EARLY = ("stem", "stages.0", "stages.1")
_TOGETHER = GuardsConfig(
    lr_factor=2.0, freeze=EARLY, passes=2, distillation=1.0, replay=2200, polyak=0.99
)
# One guard each, and those that add up; on the kept network. None is the paper.
GUARDS: dict[str, GuardsConfig] = {
    "low_lr": GuardsConfig(lr_factor=0.1),
    "freeze_layers": GuardsConfig(freeze=EARLY),
    "freeze_norms": GuardsConfig(freeze_norms=True),
    "distillation": GuardsConfig(distillation=1.0),
    "replay": GuardsConfig(replay=1600),
    "averaging": GuardsConfig(averaging=0.3),
    "together": _TOGETHER,
    "together_last": replace(_TOGETHER, freeze=(*EARLY, "stages.2")),
}


@dataclass(frozen=True)
class StreamConfig:
    """A comparison of networks that learn new labels without the old data.

    Attributes:
        output_dir: the run folder; a run that was stopped goes on there.
        data: the base pictures, one label each, and the streamed ones, several labels each.
        augmentation: of the pictures.
        networks: the networks.
        kept: the one whose guards, arrivals and forgotten labels are shown.
        guards: measures against forgetting to compare on it, besides none.
        training: on the base pictures.
        streaming: on the streamed pictures.
        soft_margin: networks to train with the multi-label soft margin loss too.
        l1: weight of the sum of absolute weights in the base training's loss.
        arrivals: parts that the streamed pictures come in, one after the other; 0 for none.
        arriving: guards to compare over them, besides none.
        retrain: train the kept network from scratch on everything, as the control.
        processes: trainings side by side; by default one for each GPU, or else for each thread.
        seeds: every row is trained once for each.
    """

    output_dir: Path = Path("runs/stream")
    data: StreamDataConfig = field(default_factory=StreamDataConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    kept: str = "senet_2x_r32"
    guards: dict[str, GuardsConfig] = field(default_factory=lambda: dict(GUARDS))
    # Section 8.1: 0.1 up to epoch 10, 0.01 up to 12, 0.001 up to 15.
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=15, batch_size=50, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=5e-4,
            schedule="step", gamma=0.1, milestones=(10, 12),
        )
    )  # fmt: skip
    streaming: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=4, batch_size=32, lr=0.03, optimizer="sgd", momentum=0.9, weight_decay=5e-4,
            schedule="constant",
        )
    )  # fmt: skip
    soft_margin: tuple[str, ...] = ("resnet", "senet")
    l1: float = 0.0
    arrivals: int = 5
    arriving: tuple[str, ...] = ("replay", "together")
    retrain: bool = True
    processes: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        check_distinct("seeds", self.seeds)
        check_seeds(self, "seeds")
        check_range(self, "arrivals", "l1", least=0)
        check_range(self, "processes", least=1)
        check_training(training=self.training, streaming=self.streaming)
        rows, guards = self.networks.rows, tuple(self.guards)
        for name, values, known in (
            ("kept", (self.kept,), rows),
            ("soft_margin", self.soft_margin, rows),
            ("arriving", self.arriving, guards),
        ):
            for value in values:
                if value not in known:
                    raise ValueError(f"{name} must be among {', '.join(known)}, got {value!r}")


@dataclass
class Run:
    """What the parts of a run share.

    Attributes:
        config: settings.
        data: pictures.
        stages: what is finished.
        settings: all that the results depend on.
        measured: for each row, the metrics of each seed.
        curves: of every training.
        epochs: accuracy along the base trainings that are watched.
        networks: first seed's networks of the rows, after their base training, on the CPU.
    """

    config: StreamConfig
    data: StreamData
    stages: Stages
    settings: dict[str, Any]
    measured: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    networks: dict[str, nn.Module] = field(default_factory=dict)
