"""The rows of a comparison of networks that learn a stream: trained and measured side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastheads.data.images import ImageDataset, Pictures
from fastheads.data.stream import StreamData
from fastheads.pipelines.guards import GuardsConfig, Joined
from fastheads.pipelines.side_by_side import run_all
from fastheads.pipelines.stream_config import Run
from fastheads.pipelines.stream_tasks import BaseTask, Common, LossName, Trained, UpdateTask
from fastheads.training import TrainConfig

WATCHED_ROWS = ("resnet", "senet")  # Fig. 6
RETRAINED = "retrained"


def add_rows(run: Run) -> tuple[dict[str, BaseTask], dict[str, UpdateTask], list[UpdateTask]]:
    """Trains and measures every row for every seed.

    Returns:
        The first seed's tasks, finished: of the base trainings and of the updates by row, and
        every task that learned the stream in arrivals.
    """
    config = run.config
    common = Common(run.data.base.num_labels, config.augmentation, config.output_dir)
    bases = {seed: _bases(run, common, seed) for seed in config.seeds}
    _finish(run, [task for of_seed in bases.values() for task in of_seed.values()])
    updates = {seed: _updates(run, bases[seed], seed) for seed in config.seeds}
    arriving = [task for seed in config.seeds for task in _arriving(run, bases[seed], seed)]
    _finish(run, [task for each in updates.values() for task in each.values()] + arriving)
    for seed in config.seeds:
        for row, base in bases[seed].items():
            _add_base(run, row, base)
        for row, update in updates[seed].items():
            _add_update(run, row, update)
    first = config.seeds[0]
    return bases[first], updates[first], arriving


def _finish(run: Run, tasks: Sequence[BaseTask | UpdateTask]) -> None:
    stages = run.stages
    waiting = [task for task in tasks if not stages.path(f"finished {task.name}").exists()]
    run_all(waiting, run.config.processes, run.config.training.accelerator, kind="training")
    for task in waiting:
        stages.run(f"finished {task.name}", lambda: True)


def _bases(run: Run, common: Common, seed: int) -> dict[str, BaseTask]:
    config, data = run.config, run.data

    def task(
        row: str,
        network: str,
        loss: LossName = "margin",
        training: TrainConfig = config.training,
        pictures: ImageDataset | Joined = data.base.train,
    ) -> BaseTask:
        make = partial(config.networks.build, network, common.num_labels, data.base.image_shape[0])
        watch_on = data.base.holdout if row in WATCHED_ROWS else None
        return BaseTask(
            row, seed, make, loss, config.l1, training, pictures, _tests(data), watch_on, common
        )

    tasks = {row: task(row, row) for row in config.networks.rows}
    tasks |= {f"{row}_soft": task(f"{row}_soft", row, "soft_margin") for row in config.soft_margin}
    if config.retrain:
        everything = Joined(data.base.train, data.train)
        tasks[RETRAINED] = task(RETRAINED, config.kept, pictures=everything)
    return tasks


def _updates(run: Run, bases: Mapping[str, BaseTask], seed: int) -> dict[str, UpdateTask]:
    config, data = run.config, run.data
    task = partial(_update, run, seed, (data.train,), _tests(data))
    rows = {row: task(row, bases[row], GuardsConfig()) for row in config.networks.rows}
    kept = bases[config.kept]
    guarded = {f"kept_{name}": guards for name, guards in config.guards.items()}
    return rows | {row: task(row, kept, guards) for row, guards in guarded.items()}


def _tests(data: StreamData) -> dict[str, Pictures]:
    """Measured on after every training; of guards, the best is chosen on what is held out."""
    return {
        "base": data.base.test, "streamed": data.test,
        "held_base": data.base.holdout, "held_streamed": data.holdout,
    }  # fmt: skip


def _arriving(run: Run, bases: Mapping[str, BaseTask], seed: int) -> list[UpdateTask]:
    """The stream in several arrivals: without a guard, and with some."""
    config, data = run.config, run.data
    if not config.arrivals:
        return []
    parts = data.arrivals(config.arrivals)
    trains = tuple(train for train, _ in parts)
    tests = {"base": data.base.test} | {str(n): test for n, (_, test) in enumerate(parts)}
    guards = {config.kept: GuardsConfig()}
    guards |= {f"kept_{name}": config.guards[name] for name in config.arriving}
    kept = bases[config.kept]
    return [_update(run, seed, trains, tests, row, kept, each) for row, each in guards.items()]


def _update(
    run: Run,
    seed: int,
    arrivals: tuple[ImageDataset, ...],
    tests: Mapping[str, Pictures],
    row: str,
    base: BaseTask,
    guards: GuardsConfig,
) -> UpdateTask:
    return UpdateTask(row, seed, base, guards, run.config.streaming, arrivals, tests, base.common)


def _add_base(run: Run, row: str, task: BaseTask) -> None:
    trained = task.run()
    _keep(run, task.name, trained)
    found, epochs = trained.measured[0], task.training.epochs
    base, streamed = found["base"], found["streamed"]
    when = "original" if row == RETRAINED else "base"
    measured = {f"{when}_top1": base["top1"], f"{when}_top5": base["top5"]}
    if row == RETRAINED:
        measured |= _streamed(streamed)
    else:
        measured |= {"before_top5": streamed["top5"], "before_all": streamed["all"]}
        measured |= {"held_base_top5": found["held_base"]["top5"]}
    measured |= {
        "base_seconds": trained.seconds, "base_epoch_seconds": trained.seconds / epochs
    }  # fmt: skip
    run.measured.setdefault(row, []).append(measured)
    if trained.epochs is not None:
        run.epochs.append({"row": row, "seed": task.seed, **trained.epochs})
    if task.seed == run.config.seeds[0] and row in run.config.networks.rows:
        run.networks[row] = trained.network


def _add_update(run: Run, row: str, task: UpdateTask) -> None:
    trained = task.run()
    _keep(run, task.name, trained)
    found, epochs = trained.measured[0], task.update.epochs
    measured = {
        "original_top1": found["base"]["top1"],
        "original_top5": found["base"]["top5"],
        **_streamed(found["streamed"]),
        "held_original_top5": found["held_base"]["top5"],
        "held_streamed_all": found["held_streamed"]["all"],
        "stream_seconds": trained.seconds,
        "stream_epoch_seconds": trained.seconds / epochs,
    }
    number = run.config.seeds.index(task.seed)
    of_row = run.measured.setdefault(row, [])
    if number < len(of_row):
        of_row[number] |= measured
    else:  # a guard: its base training is that of the kept network
        kept = run.measured[run.config.kept][number]
        before = ("base_top1", "base_top5", "held_base_top5")
        of_row.append({name: kept[name] for name in before} | measured)


def _streamed(found: dict[str, Any]) -> dict[str, float]:
    return {f"streamed_{name}": found[name] for name in ("top5", "all", "exact")}


def _keep(run: Run, name: str, trained: Trained) -> None:
    run.curves += trained.curves
    run.stages.durations.append({"stage": f"training {name}", "seconds": trained.seconds})
