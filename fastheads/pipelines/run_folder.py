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
from fastheads.data import Data, ImageDataset, StreamData
from fastheads.training import FitResult, Stages
from fastheads.training.checkpoint import DATA, dotted, write_whole
from fastheads.training.config import FREE_SETTINGS

PICTURES = 1 << 16  # of a part that are read to tell data sets apart


def write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, default=_plain)
    # Bytes of file names that the locale could not decode are written as they were.
    options = {"encoding": "utf-8", "errors": "surrogateescape"}
    write_whole(path, lambda partial: partial.write_text(text, **options))


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    def write(partial: Path) -> None:
        with open(partial, "wb") as file:  # a file, because numpy would add .npz to a name
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)


def write_config(folder: Path, config: Any) -> None:
    """Writes ``config.yaml``, which ``--config`` reads."""
    plain = json.loads(json.dumps(asdict(config), default=_plain))
    text = yaml.safe_dump(plain, sort_keys=False)
    path = folder / "config.yaml"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


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


def open_stages(folder: Path, settings: dict[str, Any], data: Data | StreamData) -> Stages:
    """The stages of a run folder, whose results depend on ``settings`` and ``data``."""
    return Stages(folder, {**settings, DATA: data_digest(data)})


def data_digest(data: Data | StreamData) -> str:
    """Tells data sets apart: label spaces, and of each part rows, labels and pictures.

    Of a part with more than ``PICTURES`` pictures only some are read, evenly over all of them.
    """
    found = hashlib.blake2b(digest_size=8)
    base = data.base if isinstance(data, StreamData) else data
    parts: list[ImageDataset] = [base.train, base.holdout, base.test]
    if isinstance(data, StreamData):
        parts += [data.train, data.holdout, data.test]
        found.update(repr(data.kinds).encode())
        found.update(np.concatenate([data.kind_of_train, data.kind_of_test]).data)
    found.update(repr(base.label_space).encode())
    for part in parts:
        for values in (part.rows, part.targets.indices.numpy(), part.targets.offsets.numpy()):
            found.update(np.ascontiguousarray(values).data)
        for row in part.rows[:: len(part) // PICTURES + 1]:
            found.update(np.ascontiguousarray(part.images[row]).data)
    return found.hexdigest()


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


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings within settings under names with dots, as JSON values."""
    return dotted(json.loads(json.dumps(settings, default=_plain)))


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
