"""Files that are whole or absent: checkpoints, weights, the state of random generators."""

from __future__ import annotations

import glob
import json
import os
import pickle
import random
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

DATA = "digest of data"  # among the settings; folders of earlier versions are without it

# What torch.load(weights_only=True) has to know to read numpy arrays back.
_NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    np.empty(0).__reduce__()[0],
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` fill a temporary file, then renames it, so that ``path`` is never partial.

    Raises:
        OSError: if it cannot be written, such as on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_partial(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(f"{path} cannot be written ({_first_line(error)})") from error
    finally:
        partial.unlink(missing_ok=True)


def save(state: Any, path: Path) -> None:
    """Writes tensors, numpy arrays and plain Python values, whole or not at all."""
    write_whole(path, lambda partial: torch.save(state, partial))


def load(path: Path, *, mmap: bool = False) -> Any:
    """Reads what :func:`save` wrote, on the CPU, running no code that the file might hold.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is damaged.
    """
    path.open("rb").close()
    try:
        with torch.serialization.safe_globals(_NUMPY):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise _damaged(path, _first_line(error)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads an object of JSON; ValueError if it is damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, _first_line(error)) from None
    if not isinstance(stored, dict):
        raise _damaged(path, f"a {type(stored).__name__} in place of an object")
    return stored


def claim(folder: Path, name: str, settings: dict[str, Any]) -> None:
    """Writes into ``folder / name`` what the results in ``folder`` depend on, as JSON values.

    Raises:
        ValueError: if the folder holds results of other settings, or of other data.
    """
    path, text = folder / name, json.dumps(settings, default=str, indent=1)
    # An attempt that failed before its first checkpoint leaves the folder to others.
    if path.exists() and any(folder.rglob("*.pt")):
        check_same(folder, read_json(path), json.loads(text))
    write_whole(path, lambda partial: partial.write_text(text))


def check_same(folder: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ValueError if ``folder`` holds the work of another configuration or other data."""
    before, now = dotted(stored), dotted(wanted)
    before.setdefault(DATA, now.get(DATA))
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            what = "other data"
            if key != DATA:
                was, is_ = reprlib.repr(before.get(key)), reprlib.repr(now.get(key))
                what = f"another configuration ({key} was {was} and is {is_})"
            raise ValueError(
                f"folder {folder} holds the work of {what}: choose another folder or delete it"
            )


def dotted(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings under names with dots."""
    plain: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            plain |= dotted(value, f"{prefix}{key}.")
        else:
            plain[f"{prefix}{key}"] = value
    return plain


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


def _remove_partial(path: Path) -> None:
    """Deletes what processes that were killed have left of ``path``."""
    for partial in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        try:
            os.kill(int(partial.name.split(".")[-2]), 0)  # signals nothing
        except (ProcessLookupError, ValueError):
            partial.unlink(missing_ok=True)
        except PermissionError:
            pass  # it is another user's, and lives


def _damaged(path: Path, found: str) -> ValueError:
    return ValueError(f"{path} is damaged ({found}): delete it, and it is computed anew")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
