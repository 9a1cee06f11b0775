"""Settings of a comparison of networks with and without gates, and what its parts share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fastheads.data import Augmentation, Data, DataConfig
from fastheads.nn import gated_blocks
from fastheads.pipelines.gate_analysis import GateAnalysisConfig, attacked_rows
from fastheads.pipelines.gated_training import GatesConfig, NetworkConfig
from fastheads.pipelines.run_folder import check_distinct
from fastheads.ranges import check_range, check_seeds
from fastheads.training import Stages, TrainConfig
from fastheads.training.config import check_training

Other = Literal["plain_continued", "preactivation", "stochastic_depth", "soft", "worded"]


@dataclass(frozen=True)
class AdaptiveConfig:
    """A comparison of networks that skip layers with networks that do not.

    Attributes:
        output_dir: the run folder; a run that was stopped goes on there.
        data: which pictures and labels.
        augmentation: of the pictures.
        network: the plain network.
        gates: put into it.
        start: gates are put into the trained plain network, or trained with it from the beginning
            as in the paper.
        targets: rates to train gated networks for, one a row.
        kept: the rate whose network is analysed and kept.
        others: further rows: the plain network trained on as long as the gated ones, its form with
            pre-activation, with stochastic depth, gates trained without straight-through, and
            gates each held at the target as worded.
        budgets: exact numbers of open gates to run the kept network with; by default three about
            its mean.
        training: of the plain network, and of gated ones from the beginning.
        tuning: of gates in the trained plain network.
        analysis: what is shown of the kept network's gates.
        compiled: time the plain network under torch.compile too.
        processes: trainings side by side; by default one for each GPU, or else for each thread.
        seeds: every row is trained once for each.
    """

    output_dir: Path = Path("runs/adaptive")
    data: DataConfig = field(
        default_factory=lambda: DataConfig(scripts=("Greek", "Cyrillic"), limit_labels=400)
    )
    augmentation: Augmentation = field(default_factory=Augmentation)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    start: Literal["plain", "new"] = "plain"
    targets: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    kept: float = 0.6
    others: tuple[Other, ...] = (
        "plain_continued",
        "preactivation",
        "stochastic_depth",
        "soft",
        "worded",
    )
    budgets: tuple[int, ...] | None = None
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=24, batch_size=64, lr=3e-3, weight_decay=1e-4, precision="bf16-mixed"
        )
    )
    tuning: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=12, batch_size=64, lr=2e-3, weight_decay=1e-4, precision="bf16-mixed"
        )
    )
    analysis: GateAnalysisConfig = field(default_factory=GateAnalysisConfig)
    compiled: bool = True
    processes: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        for name in ("targets", "seeds"):
            check_distinct(name, getattr(self, name))
        check_seeds(self, "seeds")
        check_range(self, "targets", above=0, most=1)
        if len({row_of(target) for target in self.targets}) < len(self.targets):
            raise ValueError(f"targets must be distinct in percent, got {self.targets}")
        if self.budgets:
            check_distinct("budgets", self.budgets)
        check_range(self, "processes", least=1)
        check_training(training=self.training, tuning=self.tuning)
        if self.kept not in self.targets:
            raise ValueError(f"kept must be one of the targets {self.targets}, got {self.kept}")

    def check(self, data: Data, network: nn.Module) -> None:
        """Sees that what is used after the training fits, before anything is trained.

        Args:
            data: pictures.
            network: without gates; gets them.

        Raises:
            ValueError: if gates, budgets or the analysis do not fit.
        """
        self.gates.put_into(network)
        gates = len(gated_blocks(network))
        self.gates.targets(self.kept, gates)
        for k in self.budgets or ():
            if not 0 <= k <= gates:
                raise ValueError(f"budgets must be from 0 to the {gates} gates, got {k}")
        attacked_rows(data, self.analysis)


@dataclass
class Run:
    """What the parts of a run share.

    Attributes:
        config: settings.
        data: pictures.
        stages: what is finished.
        settings: all that the results depend on.
        networks: the first seed's network of each row, on the CPU, in eval mode.
        others: networks of the other seeds, by row and seed.
        measured: for each row, the metrics of each seed.
        curves: of every training.
        trajectories: rates of the gates along every training that has gates.
        latency: of the first seed's networks, with quartiles.
    """

    config: AdaptiveConfig
    data: Data
    stages: Stages
    settings: dict[str, Any]
    networks: dict[str, nn.Module] = field(default_factory=dict)
    others: dict[tuple[str, int], nn.Module] = field(default_factory=dict)
    measured: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)
    trajectories: list[dict[str, Any]] = field(default_factory=list)
    latency: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> str:
        return row_of(self.config.kept)

    def of_seed(self, row: str, seed: int) -> nn.Module:
        return self.networks[row] if seed == self.config.seeds[0] else self.others[row, seed]


def row_of(target: float) -> str:
    """The row of a gated network: ``adaptive_60`` for a rate of 0.6."""
    return f"adaptive_{round(100 * target)}"
