"""What every run folder holds beside its results: settings, environment, JSON written whole."""

from __future__ import annotations

import datetime
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import fastheads
from fastheads.training.checkpoint import write_whole


def write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, default=_plain)
    write_whole(path, lambda partial: partial.write_text(text))


def write_config(folder: Path, config: Any) -> None:
    """Writes ``config.yaml``, which ``--config`` reads."""
    plain = json.loads(json.dumps(asdict(config), default=_plain))
    text = yaml.safe_dump(plain, sort_keys=False)
    write_whole(folder / "config.yaml", lambda partial: partial.write_text(text))


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
