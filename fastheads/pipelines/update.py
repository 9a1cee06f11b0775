"""A trained network learns new pictures (paper 001, 5.2): a few epochs on them, under guards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fastheads.data.images import Pictures
from fastheads.pipelines.guards import Distilled, GuardsConfig, Joined, average_weights
from fastheads.pipelines.later_layers import LaterLayers, ReadPictures
from fastheads.pipelines.run_folder import digest
from fastheads.training import FitResult, TrainConfig, fit
from fastheads.training.checkpoint import claim
from fastheads.training.config import check_accelerator
from fastheads.training.fit import Augment, Loss, Watch


def learn(
    network: nn.Module,
    data: Pictures,
    update: TrainConfig,
    guards: GuardsConfig,
    loss: Loss,
    *,
    folder: Path,
    augment: Augment | None,
    replay: Pictures | Joined | None = None,
    watch: Watch | None = None,
    name: str = "update",
    quiet: bool = True,
) -> FitResult:
    """Trains ``network`` in place on new pictures, or goes on where a call was stopped.

    If it fails or is interrupted, the network is as it was; called with that network again, it goes
    on in ``folder``.

    Args:
        network: a trained network; left in eval mode on the device where it was.
        data: the new pictures, and their labels.
        update: settings of the training; ``patience`` has nothing to watch here.
        guards: against forgetting.
        loss: ``loss(logits, targets)``, a mean over pictures.
        folder: of the checkpoints.
        augment: ``augment(images, generator)``, uint8 to what the network takes; None for pictures
            as they are.
        replay: old pictures, such as those of :func:`replay_buffer`; given if ``guards.replay``.
        watch: ``watch(step, loss)`` at each point of the curve.
        name: shown with the progress.
        quiet: shows nothing.

    Returns:
        What happened; the weights are in ``network``.

    Raises:
        ValueError: if a guard does not fit the network or the data, there is no picture, no GPU
            that the settings ask for, or ``folder`` holds the work of another update.
        FloatingPointError: if the loss or a weight is not finite.
    """
    if not len(data):
        raise ValueError("data must hold at least one picture, got none")
    if (guards.replay > 0) != (replay is not None and len(replay) > 0):
        given = 0 if replay is None else len(replay)
        raise ValueError(
            f"replay must hold the old pictures that guards.replay = {guards.replay} asks for, "
            f"got {given}"
        )
    pictures: Any = Joined(data, replay) if replay is not None and len(replay) else data
    frozen = guards.frozen(network, min(update.batch_size, len(pictures)) // update.devices)
    polyak = update.polyak if guards.polyak is None else guards.polyak
    config = replace(update, lr=update.lr * guards.lr_factor, polyak=polyak)
    model: nn.Module = network
    if guards.passes:
        config = _over_passes(config, guards.passes)
        model = LaterLayers(network, loss, guards)
        check_accelerator(config.accelerator)
        device = Fabric(accelerator=config.accelerator, devices=1).device
        pictures = ReadPictures(
            model.read, pictures, guards.passes, augment, config.seed, Path(folder), device
        )
        augment = None
    _check_folder(Path(folder), network, data, replay, guards)
    if guards.distillation and not guards.passes:
        model = Distilled(network, loss, guards)
    device = next(network.parameters()).device
    with _as_before_on_failure(network) as before:
        trained = [p for p in network.parameters() if p.requires_grad]
        for module in frozen:
            module.requires_grad_(False)
        try:
            result = fit(
                model,
                pictures,
                loss if model is network else None,
                config,
                folder=folder,
                augment=augment,
                frozen=frozen,
                watch=watch,
                name=name,
                quiet=quiet,
            )
        finally:
            if isinstance(model, Distilled):
                model.release()
        if guards.averaging:
            average_weights(network, before, guards.averaging)
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{key} is not finite after the update; try a lower lr")
        network.to(device).eval()
        for parameter in trained:
            parameter.requires_grad_(True)
    return result


def _over_passes(update: TrainConfig, passes: int) -> TrainConfig:
    """As many pictures in epochs over all passes; loaded here, where they are read."""
    if update.epochs % passes:
        raise ValueError(
            f"update.epochs must be a multiple of guards.passes = {passes}, got {update.epochs}"
        )
    return replace(update, epochs=update.epochs // passes, workers=0)


@contextmanager
def _as_before_on_failure(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Weights, statistics, modes and what requires gradients are put back if anything is raised.

    Gives the state dict before.
    """
    weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    modes = {module: module.training for module in network.modules()}
    asked = {parameter: parameter.requires_grad for parameter in network.parameters()}
    device = next(network.parameters()).device
    try:
        yield weights
    except BaseException:  # also KeyboardInterrupt
        network.to(device).load_state_dict(weights)
        for module, training in modes.items():
            module.training = training
        for parameter, requires_grad in asked.items():
            parameter.requires_grad_(requires_grad).grad = None
        raise


def _check_folder(
    folder: Path,
    network: nn.Module,
    data: Pictures,
    replay: Pictures | Joined | None,
    guards: GuardsConfig,
) -> None:
    """Refuses a folder with checkpoints of another network, other labels or other guards."""
    sets = [data] if replay is None else [data, replay]
    labels = [tensor for part in sets for tensor in (part.targets.indices, part.targets.offsets)]
    settings = {
        "guards": asdict(guards),
        "weights before": digest(network.state_dict().values()),
        "labels of the pictures": digest(labels),
    }
    claim(folder, "update.json", settings)
