"""Files that are whole or absent: checkpoints, weights, the state of random generators."""

from __future__ import annotations

import os
import random
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import nn

# What torch.load(weights_only=True) has to know to read numpy arrays back.
_NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    np.empty(0).__reduce__()[0],
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` fill a temporary file, then renames it, so that ``path`` is never partial."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp")
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save(state: Any, path: Path) -> None:
    """Writes tensors, numpy arrays and plain Python values, whole or not at all."""
    write_whole(path, lambda partial: torch.save(state, partial))


def load(path: Path, *, mmap: bool = False) -> Any:
    """Reads what :func:`save` wrote, on the CPU, running no code that the file might hold."""
    with torch.serialization.safe_globals(_NUMPY):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def check_same(folder: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ValueError if ``folder`` holds the work of another configuration."""
    for key in {**stored, **wanted}:
        before, now = stored.get(key), wanted.get(key)
        if before != now:
            raise ValueError(
                f"folder {folder} holds the work of another configuration "
                f"({key} was {reprlib.repr(before)} and is {reprlib.repr(now)}): "
                "choose another folder or delete it"
            )


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the parameters and buffers of ``model`` as safetensors."""
    write_whole(Path(path), lambda partial: save_model(model, str(partial)))


def load_weights(model: nn.Module, path: Path) -> None:
    """Reads the parameters and buffers of ``model`` from safetensors; all names must agree."""
    load_model(model, str(path))


def random_state() -> dict[str, Any]:
    """The state of the generators of Python, numpy and PyTorch on this machine."""
    version, keys, gauss = random.getstate()
    name, words, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": (version, keys, gauss),
        "numpy": (
            name,
            torch.from_numpy(np.asarray(words, dtype=np.int64)),
            position,
            has_gauss,
            cached,
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts the generators back to what :func:`random_state` found."""
    random.setstate(state["python"])
    name, words, *rest = state["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
