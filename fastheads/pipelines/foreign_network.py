"""Networks of torchvision and timm, and the weights of any checkpoint."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

LIBRARIES = {"timm": "timm", "torchvision": "torchvision.models"}
INSIDE = ("state_dict", "model", "model_state_dict")  # where checkpoints hold their weights
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, of torch.compile


def build_network(
    model: str, outputs: int, channels: int = 3, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """A network without trained weights.

    Args:
        model: ``timm:NAME`` or ``torchvision:NAME``.
        outputs: logits.
        channels: of the pictures; torchvision's networks take 3.
        options: further arguments of the network.

    Raises:
        ValueError: if the library knows no such network, or cannot build it so.
        ModuleNotFoundError: if the library is not installed.
    """
    library, _, name = str(model).partition(":")
    if library not in LIBRARIES or not name:
        raise ValueError(f"model must be timm:NAME or torchvision:NAME, got {model!r}")
    try:
        models: Any = importlib.import_module(LIBRARIES[library])
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"model {model!r} needs {library}, which is not installed: pip install {library}"
        ) from None
    given = {"num_classes": outputs, **(options or {})}
    try:
        if library == "timm":
            return models.create_model(name, in_chans=channels, **given)
        return models.get_model(name, weights=None, **given)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"model must be one that {library} can build, got {name!r} ({first_line(error)})"
        ) from None


def fill_network(network: nn.Module, path: Path) -> None:
    """Puts the weights of a checkpoint into ``network``.

    Raises:
        ValueError: unless all names and shapes agree, or if :func:`read_weights` cannot read it.
    """
    weights, wanted = read_weights(path), network.state_dict()
    for key in [*wanted, *weights]:
        problem = ""
        if key not in weights:
            problem = f"no {key}"
        elif key not in wanted:
            problem = f"{key}, which it has not"
        elif weights[key].shape != wanted[key].shape:
            shapes = list(weights[key].shape), list(wanted[key].shape)
            problem = f"{key} of shape {shapes[0]} in place of {shapes[1]}"
        if problem:
            raise ValueError(
                f"checkpoint {path} must fit the {type(network).__name__}, got {problem}"
            )
    network.load_state_dict(weights)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, by the names that they have in a plain module.

    Raises:
        ValueError: if the file is missing, damaged, needs code to be run, or holds no weights.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint must be a file, got {path}")
    try:
        if path.suffix == ".safetensors":
            stored: Any = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"checkpoint {path} must hold weights alone, readable without running its code, "
            f"got {first_line(error)}"
        ) from None
    for name in INSIDE:
        if isinstance(stored, dict) and isinstance(stored.get(name), dict):
            stored = stored[name]
            break
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise ValueError(
            f"checkpoint {path} must hold weights by name, alone or as {' or '.join(INSIDE)}, "
            f"got a {type(stored).__name__} of something else"
        )
    for prefix in PREFIXES:
        if stored and all(key.startswith(prefix) for key in stored):
            stored = {key.removeprefix(prefix): value for key, value in stored.items()}
    return stored


def first_line(error: Exception) -> str:
    """The first line of a message, which may have many."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
