"""What every run folder holds beside its results: settings, environment, JSON written whole."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

import fastheads
from fastheads.data import Data
from fastheads.training import FitResult
from fastheads.training.checkpoint import write_whole
from fastheads.training.config import FREE_SETTINGS


def write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, default=_plain)
    write_whole(path, lambda partial: partial.write_text(text))


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    def write(partial: Path) -> None:
        with open(partial, "wb") as file:  # a file, because numpy would add .npz to a name
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)


def write_config(folder: Path, config: Any) -> None:
    """Writes ``config.yaml``, which ``--config`` reads."""
    plain = json.loads(json.dumps(asdict(config), default=_plain))
    text = yaml.safe_dump(plain, sort_keys=False)
    write_whole(folder / "config.yaml", lambda partial: partial.write_text(text))


def fingerprint(config: Any) -> dict[str, Any]:
    """What the results of a run with ``output_dir`` and ``data`` among its settings depend on."""
    settings = asdict(config)
    del settings["output_dir"], settings["data"]["cache_dir"]

    def without_speed(part: dict[str, Any]) -> dict[str, Any]:
        return {
            name: without_speed(value) if isinstance(value, dict) else value
            for name, value in part.items()
            if name not in (*FREE_SETTINGS, "processes")
        }

    return without_speed(settings)


def check_distinct(name: str, values: Sequence[object]) -> None:
    """ValueError unless the setting ``name`` holds at least one value, and none twice."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} must be distinct and at least one, got {values}")


def digest(tensors: Iterable[Tensor]) -> str:
    """Tells apart two networks, or two data sets, that are described alike."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings under names with dots, as JSON values."""
    plain: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(settings, default=_plain)).items():
        if isinstance(value, dict):
            plain |= flat(value, f"{prefix}{key}.")
        else:
            plain[prefix + key] = value
    return plain


def total_durations(durations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds by stage, added up over seeds."""
    total: dict[str, float] = {}
    for each in durations:
        stage = each["stage"].split(", seed")[0]
        total[stage] = total.get(stage, 0) + each["seconds"]
    return [{"stage": stage, "seconds": seconds} for stage, seconds in total.items()]


def dataset_counts(data: Data) -> dict[str, int]:
    """How much there is of a data set, for its report."""
    parts = ("train", "holdout", "test", "faces", "skipped", "dropped")
    return {"labels": data.num_labels, **{part: len(getattr(data, part)) for part in parts}}


def training_curve(row: str, seed: int, result: FitResult) -> dict[str, Any]:
    """The loss along a training, for its report."""
    return {
        "row": row,
        "seed": seed,
        "step": [point["step"] for point in result.curve],
        "loss": [point["loss"] for point in result.curve],
        "seconds": result.seconds,
    }


def environment() -> dict[str, Any]:
    """Where a run took place, for its report."""
    return {
        "torch": torch.__version__,
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "version": fastheads.__version__,
        "date": datetime.date.today().isoformat(),
    }


def mean_and_std(values: list[float]) -> dict[str, Any]:
    """``{mean, std, seeds}``: the spread is the sample standard deviation, 0 for one seed."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": spread, "seeds": [float(v) for v in values]}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    return str(value)
