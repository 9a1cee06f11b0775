"""The rows of a comparison of networks with and without gates: trained, side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from fastheads.pipelines.adaptive_config import AdaptiveConfig, Run, row_of
from fastheads.pipelines.adaptive_measures import add_row
from fastheads.pipelines.gated_training import GatedTask, GatesConfig, copied
from fastheads.pipelines.run_folder import training_curve
from fastheads.pipelines.side_by_side import run_all
from fastheads.training import TrainConfig


def add_rows(run: Run, make: Callable[..., nn.Module]) -> None:
    """Trains and measures every row for every seed.

    Args:
        run: gets the rows.
        make: a new plain network, or the same with ``preactivation=True``; picklable.
    """
    first = {seed: _tasks_from_new(run, make, seed) for seed in run.config.seeds}
    _train(run, first)
    if run.config.start == "plain":
        _train(run, {seed: tasks_from_plain(run, first[seed]["plain"], seed) for seed in first})


def add_rows_of(run: Run, trained: nn.Module) -> None:
    """Trains and measures the rows that begin with a network that is trained already."""
    for seed in run.config.seeds:
        add_row(run, "plain", seed, copy.deepcopy(trained))
    make = copied(trained)
    _train(run, {seed: tasks_from_plain(run, make, seed) for seed in run.config.seeds})


def _train(run: Run, tasks: dict[int, dict[str, GatedTask]]) -> None:
    config = run.config
    every = [task for of_seed in tasks.values() for task in of_seed.values()]
    unfinished = [task for task in every if not run.stages.path(f"metrics of {task.name}").exists()]
    run_all(unfinished, config.processes, config.training.accelerator, kind="network")
    for task in every:
        _add(run, task)


def _tasks_from_new(run: Run, make: Callable[..., nn.Module], seed: int) -> dict[str, GatedTask]:
    config = run.config
    task = partial(_task, run, seed)
    # As many epochs as the rows that begin with the trained plain network see in all.
    whole = config.training
    if config.start == "plain":
        whole = replace(whole, epochs=whole.epochs + config.tuning.epochs)
    tasks = {"plain": task("plain", make, training=config.training)}
    if "preactivation" in config.others:
        row = "preactivation"
        tasks[row] = task(row, partial(make, preactivation=True), training=whole)
    if "stochastic_depth" in config.others:
        row = "stochastic_depth"
        tasks[row] = task(row, make, training=whole, stochastic_depth=True)
    if config.start == "new":
        tasks |= _gated_tasks(config, partial(task, make=make, training=whole))
    return tasks


def tasks_from_plain(
    run: Run, plain: Callable[[], nn.Module] | GatedTask, seed: int
) -> dict[str, GatedTask]:
    """The rows that go on with the trained plain network."""
    config = run.config
    task = partial(_task, run, seed, make=plain, training=config.tuning)
    tasks = {}
    if "plain_continued" in config.others:
        tasks["plain_continued"] = task("plain_continued")
    return tasks | _gated_tasks(config, task)


def _gated_tasks(config: AdaptiveConfig, task: Callable[..., GatedTask]) -> dict[str, GatedTask]:
    tasks = {row_of(target): task(row_of(target), target=target) for target in config.targets}
    if "soft" in config.others:
        row = f"{row_of(config.kept)}_soft"
        tasks[row] = task(row, target=config.kept, soft=True)
    if "worded" in config.others:
        row = f"{row_of(config.kept)}_worded"
        tasks[row] = task(row, target=config.kept, gates=config.gates.worded())
    return tasks


def _task(
    run: Run,
    seed: int,
    row: str,
    make: Callable[[], nn.Module] | GatedTask,
    *,
    training: TrainConfig,
    target: float | None = None,
    soft: bool = False,
    stochastic_depth: bool = False,
    gates: GatesConfig | None = None,
) -> GatedTask:
    config = run.config
    return GatedTask(
        row, seed, make, target, soft, stochastic_depth, gates or config.gates, training,
        config.augmentation, run.data.train, config.output_dir,
    )  # fmt: skip


def _add(run: Run, task: GatedTask) -> None:
    network, result, trajectory = task.run()
    run.stages.durations.append({"stage": f"training {task.name}", "seconds": result.seconds})
    run.curves.append(training_curve(task.row, task.seed, result))
    if len(trajectory):
        every = task.training.log_every
        steps = (torch.arange(len(trajectory)) + 0.5) * every / task.steps_per_epoch
        run.trajectories.append(
            {
                "row": task.row,
                "seed": task.seed,
                "epochs": [0.0, *steps.tolist()],
                "layers": [[task.gates.rate] * trajectory.shape[1], *trajectory.tolist()],
            }
        )
    add_row(run, task.row, task.seed, network)
