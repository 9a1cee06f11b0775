"""What the report of a lesion study shows: the figures of paper 004, chapter 4."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastheads.data import Data
from fastheads.pipelines.lesion_findings import findings
from fastheads.pipelines.lesion_rows import Measured
from fastheads.pipelines.lesion_studies import lesionable_blocks
from fastheads.pipelines.lesion_task import LesionsConfig, deletable, some_pictures
from fastheads.pipelines.paths import (
    effective_interval,
    gradient_shares,
    path_shares,
    remaining_paths,
    share_between,
)
from fastheads.pipelines.run_folder import (
    dataset_counts,
    environment,
    flat,
    mean_and_std,
    total_durations,
)
from fastheads.training import Stages

REMAINING = (1, 10, 20)  # deleted blocks of figure 4.7


def summarise(rows: dict[str, Measured]) -> dict[str, Any]:
    """For each row top1 and top5 as mean, std and seeds; multiply-adds and parameters."""
    return {
        row: {
            **{name: mean_and_std([m[name] for m in found.metrics]) for name in ("top1", "top5")},
            **{name: found.metrics[0][name] for name in ("macs", "parameters")},
        }
        for row, found in rows.items()
    }


def analyse(
    rows: dict[str, Measured],
    data: Data,
    config: LesionsConfig,
    stages: Stages,
    settings: dict[str, Any],
    command: str,
    modules: int | None,
) -> dict[str, Any]:
    """The content of ``analysis.json``.

    Args:
        rows: what has been measured.
        data: pictures.
        config: the lesions.
        stages: of the run.
        settings: of the run.
        command: that makes the run.
        modules: blocks that the row ``effective_paths`` was trained with in a batch, if known.
    """
    blocks = {row: lesionable_blocks(found.network) for row, found in rows.items()}
    depth = {row: len(each) for row, each in blocks.items()}
    whole = [row for row, found in rows.items() if "gradients" in found.studies]
    content: dict[str, Any] = {
        "system": "lesion",
        "title": "What the layers and paths of residual networks are worth",
        "settings": flat(settings),
        "command": command,
        "environment": environment(),
        "durations": total_durations(stages.durations),
        "dataset": dataset_counts(data),
        "curves": [curve for found in rows.values() for curve in found.curves],
        "networks": {
            row: {
                "name": found.title,
                "depth": depth[row],
                "blocks": [
                    {"name": block.name, "downsampling": block.downsampling}
                    for block in blocks[row]
                ],
            }
            for row, found in rows.items()
        },
        "chance": _chance(data, config),
        "single": {row: _single(found.studies["single"]) for row, found in rows.items()},
        "many": {
            row: {
                "deleted": deletable(config, depth[row]),
                "error": [[*seed.values()] for seed in rows[row].studies["many"]],
            }
            for row in whole
        },
        "reorder": {
            row: _reorder(config, rows[row].studies["reorder"])
            for row in whole
            if "reorder" in rows[row].studies
        },
        "paths": {row: {"n": depth[row], "counts": path_shares(depth[row])} for row in whole},
        "gradients": {row: _gradients(rows[row].studies["gradients"]) for row in whole},
    }
    content["effective"] = {row: _effective(content["gradients"][row], depth[row]) for row in whole}
    if whole:
        n = depth[whole[0]]
        deleted = [d for d in REMAINING if d < n]
        content["remaining"] = {
            "n": n,
            "deleted": deleted,
            "fraction": [remaining_paths(n, d) for d in deleted],
        }
        content["findings"] = findings(content, whole[0])
    if "effective_paths" in rows and modules is not None:
        trained = [row for row in ("resnet", "effective_paths") if row in rows]
        content["training"] = {
            "modules": modules, "of": depth["effective_paths"], "rows": trained
        }  # fmt: skip
    return content


def _chance(data: Data, config: LesionsConfig) -> float:
    """The error of always naming the label that most of the pictures have."""
    pictures = some_pictures(data.test, config.pictures, config.seed)
    labels = np.bincount(pictures.targets.indices.numpy(), minlength=data.num_labels)
    return 1 - float(labels.max()) / len(pictures)


def _single(seeds: list[dict[str, float]]) -> dict[str, Any]:
    values = [[*seed.values()] for seed in seeds]
    return {"error": [each[1:] for each in values], "whole": [each[0] for each in values]}


def _reorder(config: LesionsConfig, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    parts = [part for seed in seeds for part in seed.values()]
    swaps = [s for _ in seeds for s in config.swaps for _ in range(config.reorderings)]
    joined = {name: [v for part in parts for v in part[name]] for name in ("tau", "error")}
    return {"swaps": swaps, **joined}


def _gradients(seeds: list[dict[str, list[float]]]) -> dict[str, Any]:
    """The draws of all seeds, length by length."""
    by_length = zip(*(seed.values() for seed in seeds), strict=True)
    norms = [[norm for draws in same for norm in draws] for same in by_length]
    return {"lengths": list(range(len(norms))), "norm": norms}


def _effective(gradients: dict[str, Any], n: int) -> dict[str, Any]:
    """The lengths that carry 95 % of the gradient; the paper has 5 to 17 of 54."""
    shares = gradient_shares([float(np.mean(draws)) for draws in gradients["norm"]])
    low, high = effective_interval(shares.tolist())
    return {
        "low": low,
        "high": high,
        "share_of_gradient": float(shares[low : high + 1].sum()),
        "share_of_paths": share_between(n, low, high),
        "product": shares.tolist(),
    }
