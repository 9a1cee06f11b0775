"""How a model is trained, and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from fastheads.ranges import check_range, check_seeds

OptimizerName = Literal["adamw", "sgd", "adagrad"]
ScheduleName = Literal["one_cycle", "cosine", "step", "constant"]
# float16 is left out: its gradient scaler would be one more state to resume.
PrecisionName = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; the same settings and data end in the same weights."""

    epochs: int = 8
    """Passes over the training data."""
    batch_size: int = 256
    """Rows in a step, over all devices together; an incomplete last batch is left out."""
    lr: float = 2e-3
    """Peak learning rate."""
    optimizer: OptimizerName = "adamw"
    """Optimizer."""
    weight_decay: float = 0.0
    """Decay of weights with two or more dimensions; biases and norms are exempt."""
    momentum: float = 0.9
    """Momentum of sgd, first beta of adamw."""
    schedule: ScheduleName = "one_cycle"
    """Learning rate over the run: one_cycle rises over the first 30 % from 1/25 of lr and falls
    to 0; cosine falls to 0; step multiplies by gamma every step_epochs; constant."""
    warmup: int = 0
    """Steps of linear warm-up before cosine, step and constant."""
    gamma: float = 0.96
    """Factor of the step schedule."""
    step_epochs: float = 8.0
    """Epochs between two factors of the step schedule."""
    milestones: tuple[float, ...] = ()
    """Epochs at which the step schedule multiplies, in place of every step_epochs."""
    clip_norm: float | None = None
    """Largest norm of all gradients together; None for no clipping."""
    polyak: float | None = None
    """Decay of the exponential (Polyak) average of weights, such as 0.999; None for the last."""
    patience: int | None = None
    """Epochs without a better validation after which to stop, keeping the best; None for never."""
    monitor: str | None = None
    """Metric that patience watches, higher is better; the first one of the validation if None."""
    precision: PrecisionName = "32-true"
    """Number format of the network: float32, or bfloat16 where autocast allows it."""
    accelerator: str = "auto"
    """cpu, cuda or auto."""
    devices: int = 1
    """Processes that share each batch; more than one are launched, or come from torchrun."""
    workers: int = 0
    """Processes that load data ahead; 0 loads in the training process."""
    threads: int | None = None
    """Threads of one process on the CPU; None leaves PyTorch's number."""
    seed: int = 0
    """Seed of the order of the data, the augmentation and dropout."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints; there is one more after each epoch."""
    log_every: int = 20
    """Steps between two points of the logged curve."""

    def __post_init__(self) -> None:
        positive = ("epochs", "batch_size", "lr", "devices", "step_epochs", "log_every")
        check_range(self, *positive, "gamma", "clip_norm", above=0)
        check_range(self, "weight_decay", "warmup", "workers", "checkpoint_seconds", least=0)
        check_range(self, "milestones", least=0)
        check_range(self, "threads", "patience", least=1)
        check_range(self, "momentum", least=0, below=1)
        check_seeds(self, "seed")
        if self.accelerator not in ("cpu", "cuda", "auto"):
            raise ValueError(f"accelerator must be cpu, cuda or auto, got {self.accelerator!r}")
        if self.polyak is not None and not 0 < self.polyak < 1:
            raise ValueError(f"polyak must be between 0 and 1, got {self.polyak}")
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size must be a multiple of the {self.devices} devices, "
                f"got {self.batch_size}"
            )


def check_training(**trainings: TrainConfig) -> None:
    """Sees that trainings that validate on nothing can be run on this machine.

    Args:
        **trainings: by the names that messages call them by.

    Raises:
        ValueError: if one has patience, or asks for a GPU that is not there.
    """
    for name, training in trainings.items():
        if training.patience is not None:
            raise ValueError(
                f"{name}.patience must be None, as this training validates on nothing, "
                f"got {training.patience}"
            )
        check_accelerator(training.accelerator, f"{name}.accelerator")


def check_accelerator(accelerator: str, name: str = "accelerator") -> None:
    """ValueError if it is a GPU that is not there."""
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{name} must be cpu or auto, as PyTorch finds no GPU, got 'cuda'")


# Settings that a run may be continued under with another value: speed, not outcome.
FREE_SETTINGS = ("accelerator", "workers", "threads", "checkpoint_seconds")


def lr_factor(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of ``step`` (from 0) as a fraction of the peak ``config.lr``."""
    total = config.epochs * steps_per_epoch
    if config.schedule == "one_cycle":
        peak = max(1.0, 0.3 * total)
        if step < peak:
            return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / peak)) / 2
        return (1 + math.cos(math.pi * (step - peak) / (total - peak))) / 2
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "cosine":
        done = (step - config.warmup) / max(1, total - config.warmup)
        return (1 + math.cos(math.pi * min(1.0, done))) / 2
    if config.schedule == "step" and config.milestones:
        return config.gamma ** sum(step >= m * steps_per_epoch for m in config.milestones)
    if config.schedule == "step":
        return config.gamma ** int(step / (config.step_epochs * steps_per_epoch))
    return 1.0
