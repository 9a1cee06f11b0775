"""What all updates of a streaming classifier have in common, and the pictures that it keeps."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.data import Augmentation, Normalize
from fastheads.data.images import Pictures
from fastheads.labels import LabelSpace
from fastheads.losses import multilabel_margin, multilabel_soft_margin
from fastheads.pipelines.foreign_network import first_line
from fastheads.pipelines.frozen import channels_last
from fastheads.pipelines.guards import GuardsConfig
from fastheads.pipelines.network_file import network_of
from fastheads.pipelines.streaming_input import checked_pictures
from fastheads.targets import SparseTargets
from fastheads.training import TrainConfig
from fastheads.training.checkpoint import load, save, write_whole

LossName = Literal["margin", "soft_margin"]
LOSSES = {"margin": multilabel_margin, "soft_margin": multilabel_soft_margin}
BATCH = 256  # pictures in a step without gradients
REFERENCE = 64  # old pictures that drift is measured on, unless others are given
SETTINGS, LABELS, PICTURES = "settings.json", "labels.json", "pictures.pt"


@dataclass(frozen=True)
class Settings:
    """Arguments of :meth:`fastheads.StreamingClassifier.create`, as they lie in the folder."""

    image_shape: tuple[int, ...]
    normalize: Normalize
    augmentation: Augmentation | None
    update: TrainConfig
    guards: GuardsConfig
    loss: LossName
    keep: int | None
    description: dict[str, Any] | None

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be margin or soft_margin, got {self.loss!r}")
        if self.update.patience is not None:
            raise ValueError(
                f"update.patience must be None, as an update validates on nothing, "
                f"got {self.update.patience}"
            )

    def prepare(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures to learn: augmented, if so set, and normalised."""
        if self.augmentation is None:
            return channels_last(self.normalize(images))
        return channels_last(self.augmentation(images, generator))

    @torch.no_grad()
    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """``[N, labels]``, float32, on the CPU, of uint8 pictures; ``N`` may be 0."""
        device = next(network.parameters()).device
        parts = [
            network(channels_last(self.normalize(part.to(device)))).float().cpu()
            for part in images.split(BATCH)
            if len(part)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, 0)

    def check(self, network: nn.Module, num_labels: int) -> None:
        """Raises ValueError unless ``network`` takes the pictures, and is what is described."""
        blank = torch.zeros(1, *self.image_shape, dtype=torch.uint8)
        try:
            shape = list(self.logits(network, blank).shape)
        except RuntimeError as error:
            raise ValueError(
                "image_shape must be one that the network takes, "
                f"got {list(self.image_shape)} ({first_line(error)})"
            ) from None
        if shape != [1, num_labels]:
            raise ValueError(
                f"network must give one logit for each of the {num_labels} labels, "
                f"got {shape} for one picture"
            )
        if self.description is not None:
            stored = json.loads(json.dumps(self.description))
            built = network_of(stored, self.image_shape, num_labels)
            if _shapes(built) != _shapes(network):
                raise ValueError(
                    f"description must be that of the network, got {self.description}, "
                    "which has other weights"
                )


@dataclass(frozen=True)
class Kept:
    """The pictures that a classifier keeps.

    Attributes:
        replay: old pictures that every update mixes in; may be none.
        reference: uint8 ``[N, channels, height, width]``, that drift is measured on; may be none.
        first_logits: ``[N, labels]``, of version 0 on them.
    """

    replay: Pictures
    reference: Tensor
    first_logits: Tensor


def kept_pictures(
    settings: Settings,
    network: nn.Module,
    replay: Pictures | None,
    reference: Tensor | np.ndarray | None,
) -> Kept:
    """Copies the pictures that a classifier is to keep, and sees what ``network`` says of them."""
    shape, given = settings.image_shape, 0 if replay is None else len(replay)
    if (settings.guards.replay > 0) != (given > 0):
        raise ValueError(
            "replay must hold the old pictures that "
            f"guards.replay = {settings.guards.replay} asks for, got {given}"
        )
    old, targets = torch.zeros(0, *shape, dtype=torch.uint8), SparseTargets.from_lists([])
    if replay is not None and given:
        images, targets = replay.__getitems__(list(range(given)))
        old = checked_pictures(images, shape, "replay")
    if reference is None:
        watched = old[:: max(1, -(-given // REFERENCE))]
    else:
        watched = checked_pictures(reference, shape, "reference")
    return Kept(_pictures(old, targets), watched.clone(), settings.logits(network, watched))


def write_settings(folder: Path, settings: Settings, label_space: LabelSpace, kept: Kept) -> None:
    """Writes the three files that never change."""
    text = json.dumps(asdict(settings), indent=1)
    write_whole(folder / SETTINGS, lambda partial: partial.write_text(text))
    write_whole(folder / LABELS, label_space.save)
    replay = kept.replay
    stored = {
        "replay": torch.from_numpy(replay.images),
        "indices": replay.targets.indices,
        "offsets": replay.targets.offsets,
        "reference": kept.reference,
        "first_logits": kept.first_logits,
    }
    save(stored, folder / PICTURES)


def read_settings(folder: Path) -> tuple[Settings, LabelSpace, Kept]:
    """Reads what :func:`write_settings` wrote.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    name = SETTINGS
    try:
        settings = _settings(json.loads((folder / name).read_text()))
        name = LABELS
        label_space = LabelSpace.load(folder / name)
        name = PICTURES
        # Mapped, not read: the old pictures may be many.
        stored = load(folder / name, mmap=True)
        targets = SparseTargets(stored["indices"], stored["offsets"])
        kept = Kept(
            _pictures(stored["replay"], targets), stored["reference"], stored["first_logits"]
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError,
            pickle.UnpicklingError) as error:  # fmt: skip
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise ValueError(
            f"{folder / name} must be as it was created, got something damaged "
            f"({first_line(cause)})"
        ) from None
    return settings, label_space, kept


def _settings(stored: dict[str, Any]) -> Settings:
    if stored["augmentation"] is not None:
        normalize = _built(Normalize, stored["augmentation"]["normalize"])
        augmentation = _built(Augmentation, stored["augmentation"])
        stored["augmentation"] = replace(augmentation, normalize=normalize)
    kinds = {"normalize": Normalize, "update": TrainConfig, "guards": GuardsConfig}
    stored |= {name: _built(kind, stored[name]) for name, kind in kinds.items()}
    return Settings(**{**stored, "image_shape": tuple(stored["image_shape"])})


def _built(kind: type[Any], values: dict[str, Any]) -> Any:
    """A dataclass from JSON values, which have no tuples."""
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _pictures(images: Tensor, targets: SparseTargets) -> Pictures:
    return Pictures(images.numpy(), np.arange(len(images)), targets)


def _shapes(network: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
