"""A finished run, as its folder holds it: ``metrics.json``, ``analysis.json``, ``analysis.npz``."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastheads.report.rows import SYSTEMS, System


@dataclass(frozen=True)
class Run:
    """What a report is made from.

    Attributes:
        metrics: row to its metrics (``mean``, ``std``, ``seeds``), ``macs`` and ``parameters``.
        analysis: everything else that is no array.
        arrays: pictures and matrices by name.
        system: whose rows and metrics these are.
    """

    metrics: dict[str, Any]
    analysis: dict[str, Any]
    arrays: dict[str, np.ndarray]
    system: System

    def pictures(self, name: str | None) -> np.ndarray | None:
        """The pictures called ``name``, ``[n, H, W]`` or ``[n, H, W, 3]`` uint8; None for None."""
        if name is None:
            return None
        if name not in self.arrays:
            raise ValueError(f"analysis.npz must hold the pictures {name!r} of analysis.json")
        pictures = self.arrays[name]
        if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4):
            raise ValueError(
                f"pictures {name!r} in analysis.npz must be uint8 [n, H, W], "
                f"got {pictures.dtype} {list(pictures.shape)}"
            )
        return pictures


def read_run(folder: Path) -> Run:
    """Reads and checks what a report needs.

    Raises:
        ValueError: if a file is missing, cannot be read or lacks what every report shows.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder must be the folder of a finished run, got {folder}")
    metrics = _read_json(folder / "metrics.json")
    analysis = _read_json(folder / "analysis.json")
    name = analysis.get("system", "augment")
    if name not in SYSTEMS:
        known = " or ".join(repr(system) for system in SYSTEMS)
        raise ValueError(f"'system' in {folder / 'analysis.json'} must be {known}, got {name!r}")
    check_rows(metrics, str(folder / "metrics.json"), SYSTEMS[name])
    return Run(metrics, analysis, _read_arrays(folder / "analysis.npz"), SYSTEMS[name])


def check_rows(rows: Any, where: str, system: System) -> None:
    """ValueError unless ``rows`` has the shape of the system's ``metrics.json``."""
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"{where} must hold rows")
    if system.needs_base and system.base not in rows:
        raise ValueError(f"{where} must hold the row {system.base!r} among its rows")
    for key, row in rows.items():
        if not isinstance(row, dict):
            raise ValueError(f"{where} must hold an object in the row {key!r}, got {row!r}")
        for name in system.metrics:
            metric = row.get(name)
            if metric is None and name not in system.required:
                continue
            if not isinstance(metric, dict) or not _is_number(metric.get("mean")):
                raise ValueError(f"{where} must hold {name!r} with its 'mean' in the row {key!r}")
        for name in ("macs", "parameters"):
            if not _is_number(row.get(name)) and (name in row or system.needs_costs):
                raise ValueError(f"{where} must hold the number {name!r} in the row {key!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"a finished run must hold {path.name}, there is none in {path.parent}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be readable JSON, got: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"a finished run must hold {path.name}, there is none in {path.parent}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be a readable .npz of arrays, got: {error}") from error
