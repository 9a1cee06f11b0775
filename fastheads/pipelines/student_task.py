"""What a process needs to train one student on frozen features (paper 002)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastheads.labels import Grouping
from fastheads.models import HeadedNetwork
from fastheads.nn import Standardize
from fastheads.pipelines.students import Student, StudentsConfig, build_head
from fastheads.targets import SparseTargets
from fastheads.training import FitResult, TrainConfig, fit
from fastheads.training.checkpoint import load


class Targets(Protocol):
    """Targets of training rows: soft ones of teachers, or the labels as annotated."""

    def select(self, rows: Tensor) -> SparseTargets: ...


@dataclass(frozen=True)
class Repeated:
    """The annotated labels of rows ``pass * N + picture``."""

    targets: SparseTargets

    def select(self, rows: Tensor) -> SparseTargets:
        return self.targets.select(rows % self.targets.num_rows)


def mean_targets(targets: Targets, num_rows: int, num_labels: int) -> Tensor:
    """``[labels]``, float64: the mean of each label's targets over all rows."""
    total = torch.zeros(num_labels, dtype=torch.float64)
    for rows in torch.arange(num_rows).split(1 << 14):
        part = targets.select(rows)
        values = torch.ones(len(part.indices)) if part.values is None else part.values
        total += torch.bincount(part.indices, values.double(), minlength=num_labels)
    return total / num_rows


class FeatureRows(Dataset[tuple[Tensor, SparseTargets]]):
    """Map-style rows of features over all passes, with their targets."""

    def __init__(self, features: Tensor, targets: Targets) -> None:
        """Takes features ``[passes, N, ...]`` and targets of rows ``pass * N + picture``."""
        self.features, self.targets = features.flatten(0, 1), targets

    def __len__(self) -> int:
        return len(self.features)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, SparseTargets]:
        picked = torch.as_tensor(rows)
        return self.features[picked], self.targets.select(picked)


class WithLoss(nn.Module):
    """A network or head that gives the loss of a batch, never its logits."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor, targets: SparseTargets) -> Tensor:
        return self.inner.loss(inputs, targets)


@dataclass(frozen=True)
class StudentTask:
    """All that a process needs to train one student on frozen features.

    Attributes:
        row: of the comparison.
        seed: of weights and order.
        student: what the row is.
        grouping: the verticals.
        features: file of a finished stage that holds them, ``[passes, N, ...]``.
        statistics: mean and standard deviation of the features' channels.
        targets: of the rows.
        prior: ``[labels]``, the mean of the targets.
        config: settings.
        folder: of the run.
    """

    row: str
    seed: int
    student: Student
    grouping: Grouping
    features: Path
    statistics: tuple[Tensor, Tensor]
    targets: Targets
    prior: Tensor
    config: StudentsConfig
    folder: Path
    num_rows: int

    @property
    def name(self) -> str:
        return f"{self.row}, seed {self.seed}"

    @property
    def steps(self) -> int:
        training = self.config.training
        return training.epochs * (self.num_rows // min(training.batch_size, self.num_rows))

    def run(
        self, watch: Callable[[int, float], None] | None = None
    ) -> tuple[HeadedNetwork, FitResult]:
        """The trained network of features; read where it has been trained before."""
        features = load(self.features, mmap=True)["result"]
        torch.manual_seed(self.seed)
        standardize = Standardize(features.shape[2])
        for buffer, values in zip(standardize.buffers(), self.statistics, strict=True):
            buffer.copy_(values)
        config = self.config
        head = build_head(self.student, features[0, 0].numel(), config, self.grouping, self.prior)
        model = WithLoss(HeadedNetwork(nn.Identity(), standardize, head))
        result = fit(
            model,
            FeatureRows(features, self.targets),
            None,
            replace(config.training, seed=self.seed),
            folder=self.folder / "training" / f"{self.row} seed {self.seed}",
            parameters=parameter_groups(model, config.training),
            watch=watch,
            name=self.name,
            quiet=True,
        )
        return model.inner.cpu(), result


def parameter_groups(model: nn.Module, training: TrainConfig) -> list[dict[str, Any]]:
    """Weights, which decay, and the rest; the matrices of an SCLinear are one flat weight."""
    decayed: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        decayed[name.endswith("weight")].append(parameter)
    return [
        {"params": decayed[True], "weight_decay": training.weight_decay},
        {"params": decayed[False], "weight_decay": 0.0},
    ]
