"""The networks of a lesion study trained and studied, several at a time where that pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from fastheads.data import Augmentation, Data, Normalize
from fastheads.metrics import count_macs, count_parameters, evaluate
from fastheads.pipelines.frozen import picture_batches
from fastheads.pipelines.lesion_networks import NetworksConfig, NetworkTask
from fastheads.pipelines.lesion_studies import interchangeable, lesionable_blocks
from fastheads.pipelines.lesion_task import (
    STUDIES,
    LesionsConfig,
    Source,
    StudyTask,
    some_pictures,
)
from fastheads.pipelines.run_folder import training_curve
from fastheads.pipelines.side_by_side import run_all
from fastheads.training import Stages


@dataclass
class Measured:
    """What is known of the networks of a row, in the order of their seeds.

    Attributes:
        title: what the network is called.
        network: of the first seed.
        metrics: ``top1``, ``top5``, ``macs`` and ``parameters`` of each.
        studies: for each study, the results of each seed by part.
        curves: of their training.
    """

    title: str
    network: nn.Module
    metrics: list[dict[str, Any]] = field(default_factory=list)
    studies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)


def study_one(
    network: nn.Module,
    title: str,
    data: Data,
    normalize: Normalize,
    config: LesionsConfig,
    stages: Stages,
) -> Measured:
    """All studies of a network that exists, in this process."""
    measured = Measured(title, network)
    measured.metrics.append(_metrics(network, "network", 0, data, normalize, stages))
    tasks = _studies("network", 0, network, lambda: network, data, normalize, config, stages)
    _run({"network": measured}, tasks, stages, 1, "cpu")
    return measured


def train_and_study(
    networks: NetworksConfig,
    config: LesionsConfig,
    seeds: Sequence[int],
    data: Data,
    augmentation: Augmentation,
    stages: Stages,
) -> dict[str, Measured]:
    """Own networks; all trainings first, then all studies."""
    pictures = some_pictures(data.train)
    tasks = [
        NetworkTask(row, seed, networks, pictures, data.num_labels, augmentation, stages.folder)
        for row in networks.rows
        for seed in seeds
    ]
    unfinished = [task for task in tasks if not stages.path(f"metrics of {task.name}").exists()]
    accelerator = networks.training.accelerator
    run_all(unfinished, networks.processes, accelerator, kind="network")
    rows: dict[str, Measured] = {}
    studies: list[StudyTask] = []
    for task in tasks:
        network, result = task.run()
        measured = rows.setdefault(task.row, Measured(networks.title(task.row), network))
        measured.curves.append(training_curve(task.row, task.seed, result))
        stages.durations.append({"stage": f"training {task.name}", "seconds": result.seconds})
        normalize = augmentation.normalize
        measured.metrics.append(_metrics(network, task.row, task.seed, data, normalize, stages))
        source = partial(_trained, task)
        studies += _studies(task.row, task.seed, network, source, data, normalize, config, stages)
    _run(rows, studies, stages, networks.processes, accelerator)
    return rows


def _trained(task: NetworkTask) -> nn.Module:
    network, _ = task.run()
    on_gpu = task.config.training.accelerator != "cpu" and torch.cuda.is_available()
    return network.to("cuda" if on_gpu else "cpu")


def _studies(
    row: str,
    seed: int,
    network: nn.Module,
    source: Source,
    data: Data,
    normalize: Normalize,
    config: LesionsConfig,
    stages: Stages,
) -> list[StudyTask]:
    """All studies of the first residual network; of the others, what each block is worth."""
    blocks = lesionable_blocks(network)
    chosen: Sequence[str] = STUDIES[:1]
    if row in ("resnet", "network") and not any(block.plain for block in blocks):
        device = next(network.parameters()).device
        example = normalize(data.test.__getitems__([0])[0]).to(device)
        groups = interchangeable(network, blocks, example)
        chosen = [study for study in STUDIES if groups or study != "reorder"]
    test, train = some_pictures(data.test, config.pictures, config.seed), some_pictures(data.train)
    return [
        StudyTask(
            study, row, seed, source, len(blocks), test, train, normalize, config, stages.folder
        )
        for study in chosen
    ]


def _run(
    rows: dict[str, Measured],
    tasks: list[StudyTask],
    stages: Stages,
    processes: int | None,
    accelerator: str,
) -> None:
    unfinished = [task for task in tasks if not stages.path(task.name).exists()]
    run_all(unfinished, processes, accelerator, kind="study")
    for task in tasks:
        found = stages.run(task.name, task.run)
        stages.durations[-1]["seconds"] = found["seconds"]
        rows[task.row].studies.setdefault(task.study, []).append(found["parts"])


@torch.no_grad()
def _metrics(
    network: nn.Module, row: str, seed: int, data: Data, normalize: Normalize, stages: Stages
) -> dict[str, Any]:
    """Of the whole network, on all test pictures."""

    def measure() -> dict[str, Any]:
        device = next(network.parameters()).device
        pictures = picture_batches(data.test, normalize)
        scores = ((network(images.to(device)).cpu(), targets) for images, targets in pictures)
        found = evaluate(scores, data.num_labels)
        example = normalize(data.test.__getitems__([0])[0]).to(device)
        cost = {"macs": count_macs(network, example), "parameters": count_parameters(network)}
        return {"top1": found["top1"], "top5": found["top5"], **cost}

    return stages.run(f"metrics of {row}, seed {seed}", measure)
