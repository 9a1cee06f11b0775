"""What a process needs to train a network on base pictures, and to teach it a stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.data import Augmentation, ImageDataset
from fastheads.data.images import Pictures
from fastheads.losses import multilabel_margin, multilabel_soft_margin, weight_penalty
from fastheads.pipelines.frozen import channels_last
from fastheads.pipelines.guards import GuardsConfig, Joined, replay_buffer
from fastheads.pipelines.run_folder import training_curve
from fastheads.pipelines.stream_measures import measure
from fastheads.pipelines.teacher_task import steps_per_epoch
from fastheads.pipelines.update import learn
from fastheads.targets import SparseTargets
from fastheads.training import Stages, TrainConfig, fit

LossName = Literal["margin", "soft_margin"]
LOSSES: dict[str, Callable[[Tensor, SparseTargets], Tensor]] = {
    "margin": multilabel_margin,
    "soft_margin": multilabel_soft_margin,
}
WATCHED = 512  # training pictures that the accuracy along a training is measured on


@dataclass(frozen=True)
class Common:
    """What all trainings of a run share.

    Attributes:
        num_labels: of the label space, which stays as it is.
        augmentation: of the pictures.
        folder: of the run.
    """

    num_labels: int
    augmentation: Augmentation
    folder: Path

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return channels_last(self.augmentation(images, generator))

    def measure(self, network: nn.Module, pictures: Pictures) -> dict[str, Any]:
        return measure(network, pictures, self.augmentation.normalize, self.num_labels)

    def stages(self, name: str, tests: Mapping[str, Pictures]) -> Stages:
        """Of one task, because processes share no folder of stages."""
        pictures = {name: len(test) for name, test in tests.items()}
        return Stages(self.folder / "measures" / name, pictures)


@dataclass(frozen=True)
class Trained:
    """A trained network, what was measured on it after each step, and how long it took."""

    network: nn.Module
    measured: list[dict[str, dict[str, Any]]]
    curves: list[dict[str, Any]]
    seconds: float
    epochs: dict[str, list[float]] | None = None


@dataclass(frozen=True)
class BaseTask:
    """The training of a new network.

    Attributes:
        row: of the comparison.
        seed: of weights, order and augmentation.
        make: a new network; picklable.
        loss: by name.
        l1: weight of the absolute weights in it.
        training: settings.
        pictures: to train on.
        tests: to be measured on, by name.
        watch_on: held-out pictures on which the accuracy of every epoch is measured, if any.
        common: shared by all trainings.
    """

    row: str
    seed: int
    make: Callable[[], nn.Module]
    loss: LossName
    l1: float
    training: TrainConfig
    pictures: ImageDataset | Joined
    tests: Mapping[str, Pictures]
    watch_on: Pictures | None
    common: Common

    @property
    def name(self) -> str:
        return f"base of {self.row}, seed {self.seed}"

    @property
    def steps(self) -> int:
        training = self.training
        return training.epochs * steps_per_epoch(len(self.pictures), training.batch_size)

    def run(self, watch: Callable[[int, float], None] | None = None) -> Trained:
        torch.manual_seed(self.seed)
        # As the pictures are, so that no convolution converts its weights in every step.
        network = self.make().to(memory_format=torch.channels_last)
        result = fit(
            network,
            self.pictures,
            self._loss(network),
            replace(self.training, seed=self.seed),
            folder=self.common.folder / "training" / self.name.replace(",", ""),
            augment=self.common.augment,
            validate=None if self.watch_on is None else self._validate,
            watch=watch,
            name=self.name,
            quiet=True,
        )
        network.cpu().eval()
        stages = self.common.stages(self.name, self.tests)
        measured = {
            name: stages.run(name, partial(self.common.measure, network, pictures))
            for name, pictures in self.tests.items()
        }
        spent = sum(row.get("validation_seconds", 0.0) for row in result.history)
        curve = {**training_curve(self.row, self.seed, result), "stage": "base"}
        seconds, epochs = result.seconds - spent, _epochs(result.history)
        return Trained(network, [measured], [curve], seconds, epochs)

    def _loss(self, network: nn.Module) -> Callable[[Tensor, SparseTargets], Tensor]:
        loss = LOSSES[self.loss]
        if not self.l1:
            return loss
        weights = list(network.parameters())
        return lambda logits, targets: loss(logits, targets) + self.l1 * weight_penalty(weights)

    def _validate(self, network: nn.Module) -> dict[str, float]:
        assert self.watch_on is not None and isinstance(self.pictures, ImageDataset)
        started = time.monotonic()
        train = self.pictures.subset(np.arange(min(WATCHED, len(self.pictures))))
        found: dict[str, float] = {}
        for name, pictures in (("train", train), ("valid", self.watch_on)):
            measured = self.common.measure(network, pictures)
            found |= {f"{name}_{metric}": measured[metric] for metric in ("top1", "top5")}
        return {**found, "validation_seconds": time.monotonic() - started}


def _epochs(history: list[dict[str, float]]) -> dict[str, list[float]] | None:
    if "train_top1" not in history[0]:
        return None
    names = ("epoch", "train_top1", "train_top5", "valid_top1", "valid_top5")
    return {name: [row[name] for row in history] for name in names}


@dataclass(frozen=True)
class UpdateTask:
    """A trained network that learns pictures as they arrive.

    Attributes:
        row: of the comparison.
        seed: of order and augmentation.
        base: trains the network.
        guards: against forgetting.
        update: settings of each arrival's training.
        arrivals: pictures to learn, one after the other.
        tests: to be measured on after each, by name.
        common: shared by all trainings.
    """

    row: str
    seed: int
    base: BaseTask
    guards: GuardsConfig
    update: TrainConfig
    arrivals: tuple[ImageDataset, ...]
    tests: Mapping[str, Pictures]
    common: Common

    @property
    def name(self) -> str:
        arrivals = f" in {len(self.arrivals)} arrivals" if len(self.arrivals) > 1 else ""
        return f"stream of {self.row}{arrivals}, seed {self.seed}"

    @property
    def steps(self) -> int:
        of_each = (steps_per_epoch(len(part), self.update.batch_size) for part in self.arrivals)
        return self.update.epochs * sum(of_each)

    def run(self, watch: Callable[[int, float], None] | None = None) -> Trained:
        network = self.base.run().network
        stages = self.common.stages(self.name, self.tests)
        measured, curves, seconds, done = [], [], 0.0, 0
        for number, pictures in enumerate(self.arrivals):
            result = learn(
                network,
                pictures,
                replace(self.update, seed=self.seed),
                self.guards,
                LOSSES[self.base.loss],
                folder=self.common.folder / "training" / f"{self.name.replace(',', '')} {number}",
                augment=self.common.augment,
                replay=self._replay(number),
                watch=None if watch is None else _from(done, watch),
                name=self.name,
                quiet=True,
            )
            done, seconds = done + result.steps, seconds + result.seconds
            curves.append({**training_curve(self.row, self.seed, result), "stage": "stream"})
            measured.append(
                {
                    name: stages.run(
                        f"{name} after {number}", partial(self.common.measure, network, pictures)
                    )
                    for name, pictures in self.tests.items()
                }
            )
        return Trained(network.cpu().eval(), measured, curves, seconds)

    def _replay(self, number: int) -> Joined | None:
        """Some of all that was seen before an arrival, in proportion to its parts."""
        assert isinstance(self.base.pictures, ImageDataset)
        seen = [self.base.pictures, *self.arrivals[:number]]
        total, kept = sum(map(len, seen)), self.guards.replay
        if not kept:
            return None
        return Joined(*(replay_buffer(part, kept * len(part) // total, self.seed) for part in seen))


def _from(done: int, watch: Callable[[int, float], None]) -> Callable[[int, float], None]:
    return lambda step, loss: watch(done + step, loss)
