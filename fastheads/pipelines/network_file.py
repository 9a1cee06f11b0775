"""A network in a run folder: how it is built, its labels, its weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from fastheads.data import Augmentation, Normalize
from fastheads.labels import Grouping, LabelSpace
from fastheads.models import AugmentedNetwork, BaseConfig, BaseNetwork, Tap
from fastheads.nn import AugmentedClassifier, GroupHeads
from fastheads.pipelines.foreign_network import build_network, first_line
from fastheads.pipelines.gated_training import described_gated
from fastheads.pipelines.stream_networks import described_network
from fastheads.pipelines.student_file import described_student
from fastheads.training import load_weights, save_weights
from fastheads.training.checkpoint import write_whole

FEATURE_LAYER, CLASSIFIER = "trunk", "classifier"
FILES = ("network.json", "labels.json", "model.safetensors")


def save_network(
    folder: Path,
    network: nn.Module,
    label_space: LabelSpace,
    image_shape: tuple[int, ...],
    base: BaseConfig,
    augmentation: Augmentation,
) -> None:
    """Writes ``network.json``, ``labels.json`` and ``model.safetensors``.

    Args:
        folder: the run folder.
        network: a :class:`BaseNetwork`, or an :class:`AugmentedNetwork` on one.
        label_space: of the logits.
        image_shape: ``(channels, height, width)`` that the network takes.
        base: shape of the base network.
        augmentation: whose normalisation the network was trained with.
    """
    heads = network.top.heads if isinstance(network, AugmentedNetwork) else []
    description = {
        "augmented": isinstance(network, AugmentedNetwork),
        "base": asdict(base),
        "rounds": [
            {
                "group_of": each.grouping.group_of.tolist(),
                "names": each.grouping.names,
                "widths": each.widths,
                "conv_channels": each.conv_channels,
            }
            for each in heads
        ],
    }
    write_network(folder, network, label_space, image_shape, augmentation.normalize, description)


def write_network(
    folder: Path,
    network: nn.Module,
    label_space: LabelSpace,
    image_shape: tuple[int, ...],
    normalize: Normalize,
    description: dict[str, Any],
) -> None:
    """Writes the three files of a network that ``description`` says how to build."""
    whole = {"image_shape": list(image_shape), "normalize": asdict(normalize), **description}
    save_weights(network, folder / "model.safetensors")
    write_whole(folder / "labels.json", label_space.save)
    write_whole(folder / "network.json", lambda partial: partial.write_text(json.dumps(whole)))


def load_network(folder: Path) -> tuple[nn.Module, LabelSpace, tuple[int, ...], Normalize]:
    """Reads what :func:`save_network` wrote.

    Returns:
        The network in eval mode, its labels, the image shape and the normalisation. Its outputs are
        logits, each of a label by itself, unless :func:`is_softmax` says otherwise.

    Raises:
        ValueError: if the folder holds no finished network, or one that is damaged.
    """
    for name in FILES:
        if not (folder / name).exists():
            raise ValueError(f"run must be a folder of a finished run, got {folder} without {name}")
    name = FILES[0]
    try:
        stored: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
        image_shape = tuple(stored["image_shape"])
        normalize = Normalize(*(tuple(stored["normalize"][key]) for key in ("mean", "std")))
        name = FILES[1]
        label_space = LabelSpace.load(folder / name)
        name = FILES[0]
        network = network_of(stored, image_shape, len(label_space))
        name = FILES[2]
        load_weights(network, folder / name)
    except (OSError, SafetensorError, RuntimeError, ValueError, LookupError, TypeError,
            AttributeError) as error:  # fmt: skip
        raise ValueError(
            f"run must be a folder of a finished run, got {folder} whose {name} is damaged or of "
            f"another network ({first_line(error)})"
        ) from None
    return network.eval(), label_space, image_shape, normalize


def network_of(
    description: dict[str, Any], image_shape: tuple[int, ...], num_labels: int
) -> nn.Module:
    """A network without its weights.

    Args:
        description: as :func:`write_network` was given it, or ``{"model": "timm:seresnet18"}`` with
            a network of torchvision or timm.
        image_shape: ``(channels, height, width)`` that the network takes.
        num_labels: logits.
    """
    if "model" in description:
        return build_network(description["model"], num_labels, image_shape[0])
    if "student" in description:
        return described_student(description["student"], image_shape)
    if "adaptive" in description:
        return described_gated(description["adaptive"], image_shape, num_labels)
    if "stream" in description:
        return described_network(description["stream"], image_shape, num_labels)
    return _described_base(description, image_shape, num_labels)


def is_softmax(folder: Path) -> bool:
    """Whether the logits of the network in a run folder are those of one distribution."""
    return "adaptive" in json.loads((folder / "network.json").read_text(encoding="utf-8"))


def _described_base(
    stored: dict[str, Any], image_shape: tuple[int, ...], num_labels: int
) -> nn.Module:
    base = BaseConfig(*(tuple(stored["base"][key]) for key in ("channels", "hidden")))
    network = BaseNetwork(image_shape, num_labels, base)
    if not stored["augmented"]:
        return network
    rounds = [
        GroupHeads(
            network.feature_shape,
            Grouping(each["group_of"], tuple(each["names"])),
            each["widths"],
            each["conv_channels"],
        )
        for each in stored["rounds"]
    ]
    tap = Tap(network, FEATURE_LAYER, CLASSIFIER)
    return AugmentedNetwork(tap, AugmentedClassifier(network.classifier, rounds))
