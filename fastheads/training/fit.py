"""The training loop: settings, set-up, loop, checkpoint; a page read downwards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fastheads.targets import SparseTargets
from fastheads.training.batches import ShuffledBatches, loader, mix
from fastheads.training.checkpoint import check_same, load, random_state, save, set_random_state
from fastheads.training.config import FREE_SETTINGS, TrainConfig, check_accelerator, lr_factor
from fastheads.training.log import TrainingLog
from fastheads.training.optimizer import build_optimizer, polyak_average

Augment = Callable[[Tensor, torch.Generator], Tensor]
Loss = Callable[[Any, SparseTargets], Tensor]
Validate = Callable[[nn.Module], dict[str, float]]
Watch = Callable[[int, float], None]


@dataclass(frozen=True)
class FitResult:
    """What a finished training run leaves beside the weights.

    Attributes:
        metrics: the validation of the weights that were kept; empty without validation.
        history: one row an epoch: step, epoch, train_loss, seconds and the validation.
        curve: one row every ``log_every`` steps: step, loss, lr.
        steps: optimiser steps taken.
        seconds: time spent, over all times that the run was continued.
        stopped_early: whether patience ended the run.
    """

    metrics: dict[str, float]
    history: list[dict[str, float]]
    curve: list[dict[str, float]]
    steps: int
    seconds: float
    stopped_early: bool


@dataclass
class _Run:
    """Where a run stands; with the weights, the optimiser and the generators, all of its state."""

    step: int = 0
    epoch: int = 0
    epoch_loss: float = 0.0
    seconds: float = 0.0
    stopped_early: bool = False
    best: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)


def fit(
    model: nn.Module,
    data: Any,
    loss: Loss | None,
    config: TrainConfig,
    *,
    folder: Path,
    augment: Augment | None = None,
    validate: Validate | None = None,
    parameters: Iterable[Any] | None = None,
    frozen: Sequence[nn.Module] = (),
    watch: Watch | None = None,
    name: str = "training",
    quiet: bool = False,
) -> FitResult:
    """Trains ``model`` in place, or continues where an earlier call in ``folder`` was stopped.

    On one machine's CPU a run that was killed any number of times ends in the same bits as one
    that was not. Seeds the generators of Python, numpy and PyTorch.

    Args:
        model: its forward takes the inputs of a batch; left in eval mode, holding the Polyak
            average, or the best epoch with ``patience``, or else the last weights.
        data: map-style, ``__len__`` and ``__getitems__(rows) -> (inputs, SparseTargets)``.
        loss: ``loss(outputs, targets)``, a scalar that is a mean over the rows of the batch; None
            for a model that takes inputs and targets and gives that scalar itself.
        config: settings.
        folder: where ``checkpoint.pt`` and ``log/`` are written.
        augment: ``augment(inputs, generator)``, on the device, random by the generator alone.
        validate: ``validate(model)`` after each epoch, in eval mode without gradients.
        parameters: tensors or parameter groups to train; all that require gradients if None.
        frozen: modules inside ``model`` that stay in eval mode (batch norm statistics).
        watch: ``watch(step, loss)`` at each point of the curve.
        name: shown with the progress.
        quiet: shows nothing.

    Returns:
        What happened; the weights are in ``model``.

    Raises:
        ValueError: if ``folder`` holds the checkpoint of another configuration, no parameter is
            to be trained, or there is no GPU that the settings ask for.
        FloatingPointError: if the loss is not finite; the last checkpoint is kept.
    """
    if config.patience is not None and validate is None:
        raise ValueError("validate must be given for patience to watch, got None")
    check_accelerator(config.accelerator)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    fabric = Fabric(
        accelerator=config.accelerator, devices=config.devices, precision=config.precision
    )
    fabric.launch()
    fabric.seed_everything(mix(config.seed, fabric.global_rank), verbose=False)
    rank, world = fabric.global_rank, fabric.world_size
    batches = ShuffledBatches(len(data), config.batch_size, config.seed, rank, world)

    path = Path(folder) / "checkpoint.pt"
    identity = _identity(config, model, len(data))
    stored = _read(path, identity)
    if stored and stored["finished"]:
        model.load_state_dict(stored["model"])
        model.to(fabric.device).eval()
        return _result(_Run(**stored["run"]))

    optimizer = build_optimizer(model, parameters, config)
    peaks = [group["lr"] for group in optimizer.param_groups]
    network, optimizer = fabric.setup(model, optimizer)
    average = polyak_average(model, config.polyak) if config.polyak else None
    run = _Run()
    if stored:
        run = _Run(**stored["run"])
        model.load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
        if average is not None:
            average.load_state_dict(stored["average"])

    steps = config.epochs * len(batches)
    log = TrainingLog(Path(folder), name, steps, writes=fabric.is_global_zero, quiet=quiet)
    log.replay(run.curve, run.history)
    generator = torch.Generator(fabric.device)
    saved = time.monotonic()
    started = saved - run.seconds

    def checkpoint(data_state: dict[str, Any] | None, finished: bool = False) -> None:
        run.seconds = time.monotonic() - started
        state = {"identity": identity, "finished": finished, "run": vars(run)}
        state["model"] = model.state_dict()
        if not finished:
            state |= {"optimizer": optimizer.state_dict(), "data": data_state}
            state["average"] = average.state_dict() if average is not None else None
            state["random"] = _gather(fabric, random_state())
        if fabric.is_global_zero:
            save(state, path)
            log.flush()
        fabric.barrier()

    with log:
        while run.epoch < config.epochs and not run.stopped_early:
            batches.epoch = run.epoch
            feed = loader(data, batches, config.workers)
            if stored and stored["data"]:
                feed.load_state_dict(stored["data"])
            rows = iter(feed)
            if stored:
                set_random_state(stored["random"][rank])
                stored = None

            _train_mode(network, frozen)
            losses: list[Tensor] = []
            for inputs, targets in rows:
                factor = lr_factor(config, run.step, len(batches))
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * factor
                inputs, targets = inputs.to(fabric.device), targets.to(fabric.device)
                if augment is not None:
                    with torch.no_grad():
                        seed = mix(config.seed, run.step, rank)
                        inputs = augment(inputs, generator.manual_seed(seed))
                if loss is None:
                    value = network(inputs, targets)
                else:
                    value = loss(network(inputs), targets)
                fabric.backward(value)
                if config.clip_norm is not None:
                    fabric.clip_gradients(
                        model, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False
                    )
                optimizer.step()
                optimizer.zero_grad()
                if average is not None:
                    average.update_parameters(model)
                run.step += 1
                losses.append(value.detach())

                end_of_epoch = run.step % len(batches) == 0
                if run.step % config.log_every and not end_of_epoch:
                    log.advance(run.step)
                    continue
                mean = _mean_loss(fabric, losses, run.step, config.lr * factor)
                run.epoch_loss += mean * len(losses)
                losses.clear()
                point = {"loss": mean, "lr": config.lr * factor}
                run.curve.append({"step": run.step, **point})
                log.write(run.step, point)
                log.show(run.step, point)
                if watch is not None:
                    watch(run.step, mean)
                now = fabric.broadcast(time.monotonic())
                if now - saved > config.checkpoint_seconds and not end_of_epoch:
                    checkpoint(feed.state_dict())
                    saved = now

            run.epoch += 1
            row = {"epoch": run.epoch, "train_loss": run.epoch_loss / len(batches)}
            run.epoch_loss = 0.0
            if validate is not None:
                kept = model if average is None else average.module
                metrics = _validate(fabric, kept, validate)
                _watch(run, metrics, kept, config)
                row |= metrics
            run.history.append({"step": run.step, **row})
            log.write(run.step, row)
            log.show(run.step, row)
            checkpoint(None)
            saved = time.monotonic()

        if config.patience is not None:
            model.load_state_dict(run.best.pop("model"))
        elif average is not None:
            model.load_state_dict(average.module.state_dict())
        model.eval()
        checkpoint(None, finished=True)
    return _result(run)


def _train_mode(network: nn.Module, frozen: Sequence[nn.Module]) -> None:
    network.train()
    for module in frozen:
        module.eval()


def _mean_loss(fabric: Fabric, losses: list[Tensor], step: int, lr: float) -> float:
    """The mean of the last losses over processes and steps, if they are all finite."""
    reduced = fabric.all_reduce(torch.stack(losses).double(), reduce_op="mean")
    means = cast(Tensor, reduced).tolist()
    for number, value in enumerate(means, step - len(means) + 1):
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {number} with learning rate {lr:.3g}; "
                "try a lower lr or clip_norm"
            )
    return math.fsum(means) / len(means)


def _validate(fabric: Fabric, model: nn.Module, validate: Validate) -> dict[str, float]:
    model.eval()
    with torch.no_grad(), fabric.autocast():
        return {key: float(value) for key, value in validate(model).items()}


def _watch(run: _Run, metrics: dict[str, float], model: nn.Module, config: TrainConfig) -> None:
    """Keeps the best weights so far, and stops the run when patience is over."""
    if config.patience is None:
        return
    monitor = config.monitor or next(iter(metrics))
    if monitor not in metrics:
        raise ValueError(f"monitor must be one of {sorted(metrics)}, got {monitor!r}")
    if not run.best or metrics[monitor] > run.best["value"]:
        weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        run.best = {"value": metrics[monitor], "epoch": run.epoch, "model": weights}
    run.stopped_early = run.epoch - run.best["epoch"] >= config.patience


def _identity(config: TrainConfig, model: nn.Module, rows: int) -> dict[str, Any]:
    """What a checkpoint must agree in to be continued."""
    settings = {key: value for key, value in asdict(config).items() if key not in FREE_SETTINGS}
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    return {**settings, "rows of data": rows, "shapes of weights": shapes}


def _read(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint at ``path`` if there is one, and it is of this configuration."""
    if not path.exists():
        return None
    stored = load(path)
    check_same(path.parent, stored["identity"], identity)
    return stored


def _gather(fabric: Fabric, value: Any) -> list[Any]:
    """One value of each process."""
    if fabric.world_size == 1:
        return [value]
    values = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def _result(run: _Run) -> FitResult:
    row = next((r for r in run.history if r["epoch"] == run.best.get("epoch")), run.history[-1])
    metrics = {k: v for k, v in row.items() if k not in ("step", "epoch", "train_loss")}
    return FitResult(metrics, run.history, run.curve, run.step, run.seconds, run.stopped_early)
