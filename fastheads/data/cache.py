"""Memory-mapped arrays on disk: written once and whole, shared by every process."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Entry:
    """Pictures and what is known about them.

    Attributes:
        images: ``[images, channels, size, size]``, uint8, memory-mapped, read-only.
        table: ``[rows, columns]``, int32; what the columns are is its maker's business.
        meta: whatever else is to be kept, as JSON.
    """

    images: np.ndarray
    table: np.ndarray
    meta: dict[str, Any]


def default_directory() -> Path:
    """``$FASTHEADS_CACHE``, else ``fastheads`` under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get("FASTHEADS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastheads"


def cached(
    directory: Path | None,
    key: object,
    build: Callable[[Path], tuple[tuple[int, ...], np.ndarray, dict[str, Any]]],
) -> Entry:
    """Opens the entry of ``key``, building it first where it is missing or damaged.

    A lock file keeps two processes from building the same entry; the entry is built in a temporary
    folder and renamed, so that a killed process leaves no entry behind.

    Args:
        directory: where entries lie; ``None`` is :func:`default_directory`.
        key: anything JSON can express; its hash names the entry.
        build: writes the raw pictures to the path given to it, and returns their shape, the table
            and the meta data.
    """
    directory = Path(directory).expanduser() if directory else default_directory()
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = directory / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / f"{name}.lock", "w")
    except OSError as error:
        raise ValueError(
            f"cache_dir must be a directory that can be written, got {str(directory)!r} ({error})"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _open(folder)
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=directory))
        try:
            shape, table, meta = build(work / "images.bin")
            np.save(work / "table.npy", table)
            (work / "meta.json").write_text(json.dumps({"shape": shape, "meta": meta}))
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return _open(folder)


def _open(folder: Path) -> Entry:
    stored = json.loads((folder / "meta.json").read_text())
    shape = tuple(stored["shape"])
    path = folder / "images.bin"
    if path.stat().st_size != int(np.prod(shape)):
        raise ValueError(f"{path} is truncated")
    # numpy cannot map an empty file
    images = np.memmap(path, np.uint8, "r", shape=shape) if path.stat().st_size else np.empty(shape)
    return Entry(images, np.load(folder / "table.npy"), stored["meta"])
