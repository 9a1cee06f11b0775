"""The studies of one network, part by part, so that one that was stopped goes on (paper 004)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.data import ImageDataset, Normalize
from fastheads.data.images import Pictures
from fastheads.pipelines.frozen import channels_last, picture_batches
from fastheads.pipelines.lesion_studies import (
    deleted,
    draw_orders,
    draw_pictures,
    draw_sets,
    error_rate,
    interchangeable,
    lesionable_blocks,
    order_correlation,
    path_gradient,
    reordered,
)
from fastheads.ranges import check_range, check_seeds
from fastheads.targets import SparseTargets
from fastheads.training import Stages

STUDIES = ("single", "many", "reorder", "gradients")
GRADIENT_COST = 3  # a picture's forward and backward pass, in forward passes


@dataclass(frozen=True)
class LesionsConfig:
    """The lesions, and what they are measured on.

    Attributes:
        pictures: test pictures that each lesion is measured on, drawn by the seed; None for all.
        deleted: how many blocks are deleted at a time.
        deletions: random sets of blocks for each of these numbers.
        swaps: how many pairs of blocks change places.
        reorderings: random orders for each of these numbers.
        paths: random paths of each length.
        path_pictures: training pictures in the batch that a path is sampled with.
        seed: of everything that is drawn.
    """

    pictures: int | None = 600
    deleted: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20)
    deletions: int = 8
    swaps: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24)
    reorderings: int = 6
    paths: int = 30
    path_pictures: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "pictures", "deletions", "reorderings", "paths", "path_pictures", least=1)
        check_seeds(self, "seed")
        for name in ("deleted", "swaps"):
            values = getattr(self, name)
            if not values or min(values) < 1 or list(values) != sorted(set(values)):
                raise ValueError(f"{name} must ascend from at least 1, got {values}")


class Source(Protocol):
    """Where the network of a study comes from; another process gets it pickled."""

    def __call__(self) -> nn.Module: ...


@dataclass(frozen=True)
class StudyTask:
    """All that a process needs for one study of one network.

    Attributes:
        study: one of ``STUDIES``.
        row: of the network.
        seed: of the network.
        network: gives it, in eval mode.
        depth: how many blocks it has.
        test: pictures that lesions are measured on.
        train: pictures for the gradients.
        normalize: as the network expects its pictures.
        config: settings.
        folder: of the run.
    """

    study: str
    row: str
    seed: int
    network: Source
    depth: int
    test: Pictures
    train: Pictures
    normalize: Normalize
    config: LesionsConfig
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.study} of {self.row}, seed {self.seed}"

    @property
    def steps(self) -> int:
        """Passes of a picture through the network."""
        return sum(self._costs())

    @property
    def stages(self) -> Stages:
        """Of its own, because processes share no folder of stages."""
        folder = self.folder / "lesions" / f"{self.study} of {self.row} seed {self.seed}"
        return Stages(folder, {"pictures": len(self.test)})

    def run(self, watch: Callable[[int, float], None] | None = None) -> dict[str, Any]:
        """``parts``, each result by name, and the ``seconds``; read where measured before."""
        model, stages, done = self.network(), self.stages, 0
        parts = _Parts(self, model)
        results = {}
        for (name, part), cost in zip(getattr(parts, self.study)(), self._costs(), strict=True):
            results[name] = stages.run(name, part)
            done += cost
            if watch is not None:
                watch(done, 0.0)
        return {"parts": results, "seconds": sum(d["seconds"] for d in stages.durations)}

    def _costs(self) -> list[int]:
        """Of each part, in passes of a picture."""
        config, pictures = self.config, len(self.test)
        if self.study == "single":
            return [pictures] * (self.depth + 1)
        if self.study == "many":
            return [config.deletions * pictures] * len(deletable(config, self.depth))
        if self.study == "reorder":
            return [config.reorderings * pictures] * len(config.swaps)
        return [GRADIENT_COST * config.paths * config.path_pictures] * (self.depth + 1)


def deletable(config: LesionsConfig, depth: int) -> list[int]:
    """Those of the numbers of blocks to delete that leave a block of the network."""
    return [count for count in config.deleted if count < depth] or [1]


class _Parts:
    """Each study as the parts that it is measured in: a name and a call."""

    def __init__(self, task: StudyTask, model: nn.Module) -> None:
        self.task, self.config, self.model = task, task.config, model
        self.blocks = lesionable_blocks(model)
        self.seed = task.config.seed + task.seed
        self.device = next(model.parameters()).device

    def single(self) -> Iterator[tuple[str, Callable[[], float]]]:
        """The error of the whole network, then without each block (figures 4.3, 4.4 and 4.8)."""
        yield "whole", self._error
        for index, block in enumerate(self.blocks):
            yield f"without {index} {block.name}", partial(self._without, [index])

    def many(self) -> Iterator[tuple[str, Callable[[], list[float]]]]:
        """The error without each of some random sets of blocks (figure 4.5a)."""
        n = len(self.blocks)
        for count in deletable(self.config, n):
            sets = draw_sets(n, count, self.config.deletions, self.seed)
            yield f"without {count}", partial(_each, self._without, sets)

    def reorder(self) -> Iterator[tuple[str, Callable[[], dict[str, list[float]]]]]:
        """Kendall's tau and the error of random orders (figure 4.5b)."""
        groups = interchangeable(self.model, self.blocks, self._inputs(self.task.test, [0])[0])
        for swaps in self.config.swaps:
            orders = draw_orders(
                len(self.blocks), groups, swaps, self.config.reorderings, self.seed
            )
            yield f"{swaps} swaps", partial(self._in_orders, orders)

    def gradients(self) -> Iterator[tuple[str, Callable[[], list[float]]]]:
        """The norm of the gradient along random paths of each length (figure 4.6b)."""
        n, config, train = len(self.blocks), self.config, self.task.train
        for length in range(n + 1):
            paths = draw_sets(n, length, config.paths, self.seed)
            rows = draw_pictures(len(train), config.path_pictures, config.paths, self.seed, length)
            yield f"length {length}", partial(self._along, paths, rows)

    def _error(self) -> float:
        pictures = picture_batches(self.task.test, self.task.normalize)
        batches = ((images.to(self.device), targets) for images, targets in pictures)
        return error_rate(self.model, batches)

    def _without(self, indices: list[int]) -> float:
        with deleted(self.model, self.blocks, indices):
            return self._error()

    def _in_orders(self, orders: list[list[int]]) -> dict[str, list[float]]:
        errors = []
        for order in orders:
            with reordered(self.model, self.blocks, order):
                errors.append(self._error())
        return {"tau": [order_correlation(order) for order in orders], "error": errors}

    def _along(self, paths: list[list[int]], rows: list[list[int]]) -> list[float]:
        norms = []
        for path, batch in zip(paths, rows, strict=True):
            images, targets = self._inputs(self.task.train, batch)
            norms.append(path_gradient(self.model, self.blocks, path, images, targets))
        return norms

    def _inputs(self, pictures: Pictures, rows: list[int]) -> tuple[Tensor, SparseTargets]:
        images, targets = pictures.__getitems__(rows)
        inputs = channels_last(self.task.normalize(images)).to(self.device)
        return inputs, targets.to(self.device)


def some_pictures(data: ImageDataset, count: int | None = None, seed: int = 0) -> Pictures:
    """So many pictures of a data set in its order, or all; they go to other processes by name."""
    rows = np.arange(len(data))
    if count is not None and count < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))
    targets = data.targets.select(torch.from_numpy(rows))
    return Pictures(data.images, data.rows[rows], targets)


def _each(measure: Callable[[Any], float], lesions: list[Any]) -> list[float]:
    return [measure(lesion) for lesion in lesions]
