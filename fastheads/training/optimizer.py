"""The optimiser of a configuration, and the Polyak average of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fastheads.training.config import TrainConfig


def build_optimizer(
    model: nn.Module, parameters: Iterable[Any] | None, config: TrainConfig
) -> torch.optim.Optimizer:
    """The optimiser of ``parameters``, or of all parameters of ``model`` that require gradients.

    Args:
        model: the network.
        parameters: tensors or parameter groups; groups keep their own ``lr`` and decay.
        config: settings.

    Raises:
        ValueError: if nothing is to be trained.
    """
    chosen = list(model.parameters() if parameters is None else parameters)
    if not chosen or not isinstance(chosen[0], dict):
        chosen = [p for p in chosen if p.requires_grad]
        if not chosen:
            raise ValueError("parameters must hold one that requires gradients, got none")
        chosen = [
            {"params": [p for p in chosen if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in chosen if p.ndim <= 1], "weight_decay": 0.0},
        ]
        chosen = [group for group in chosen if group["params"]]
    decay: dict[str, Any] = {"weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        betas = (config.momentum, 0.999)
        return torch.optim.AdamW(chosen, config.lr, betas, fused=True, **decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(chosen, config.lr, config.momentum, fused=True, **decay)
    return torch.optim.Adagrad(chosen, config.lr, **decay)


def polyak_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential average of weights and buffers; short at first, so that runs may be short.

    ``average += (1 - d) (weights - average)`` with ``d = min(decay, (1 + n) / (10 + n))``.
    """

    @torch.no_grad()
    def update(average: Any, current: Any, _: Any) -> None:
        if not average[0].is_floating_point():  # counters of batch norm
            torch._foreach_copy_(average, current)
            return
        # Not the argument: that lies on the GPU, and reading it would wait for the step.
        n = int(averaged.n_averaged)
        torch._foreach_lerp_(average, current, 1 - min(decay, (1 + n) / (10 + n)))

    averaged = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return averaged
