"""What the report of a stream of new labels shows beside its metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from fastheads.metrics import count_macs, count_parameters
from fastheads.ops import topk_indices
from fastheads.pipelines.latency import latency
from fastheads.pipelines.run_folder import (
    dataset_counts,
    environment,
    flat,
    mean_and_std,
    total_durations,
    write_arrays,
    write_json,
)
from fastheads.pipelines.stream_config import Run
from fastheads.pipelines.stream_measures import BEST
from fastheads.pipelines.stream_rows import RETRAINED
from fastheads.pipelines.stream_tasks import BaseTask, UpdateTask

EXAMPLES = 12
WITHIN = 0.03  # of its base accuracy: what a network may lose on the original set


def analyse(
    run: Run,
    metrics: Mapping[str, Any],
    best: str,
    bases: Mapping[str, BaseTask],
    updates: Mapping[str, UpdateTask],
    arriving: Sequence[UpdateTask],
    command: str,
) -> None:
    """Writes ``analysis.json`` and ``analysis.npz``."""
    started = time.monotonic()
    data, kept = run.data, run.config.kept
    examples, pictures = _examples(run, bases[kept], updates[best])
    content = {
        "system": "stream",
        "title": "New labels stream in",
        "command": command,
        "environment": environment(),
        "settings": flat(run.settings),
        "kept": kept,
        "dataset": {
            **dataset_counts(data.base),
            "kinds": len(data.kinds),
            "streamed_train": len(data.train),
            "streamed_holdout": len(data.holdout),
            "streamed_test": len(data.test),
        },
        "curves": run.curves,
        "epochs": run.epochs,
        "forgotten": _forgotten(run, best, bases[kept], updates[best]),
        "arrivals": _arrivals(run, arriving),
        "guard": {"row": best, "within": _kept_share(metrics[best]) >= -WITHIN},
        "examples": examples,
        "costs": {"rows": costs(run)},
    }
    if RETRAINED in metrics:
        content["retraining"] = _retraining(metrics, quickest_row(metrics, ways(kept, updates)))
    run.stages.durations.append({"stage": "analysis", "seconds": time.monotonic() - started})
    content["durations"] = total_durations(run.stages.durations)
    write_arrays(run.config.output_dir / "analysis.npz", {"example_pictures": pictures})
    write_json(run.config.output_dir / "analysis.json", content)


def ways(kept: str, updates: Iterable[str]) -> list[str]:
    """The rows of the kept network: without a guard, and with each."""
    return [kept, *(row for row in updates if row.startswith("kept_"))]


def best_row(metrics: Mapping[str, Any], rows: Sequence[str]) -> str:
    """The row that learns the stream best of those that keep the original set, or that keeps most.

    Told by the pictures held out, not by those that the results are measured on.
    """

    def place(row: str) -> tuple[bool, float]:
        keeps = _keeps_held_out(metrics[row])
        name = "held_streamed_all" if keeps else "held_original_top5"
        return keeps, float(metrics[row][name]["mean"])

    return max(rows, key=place)


def quickest_row(metrics: Mapping[str, Any], rows: Sequence[str]) -> str:
    """The row that learns the stream in the least time of those that keep the original set.

    If none does, the best row. Told by the pictures held out.
    """
    keeping = [row for row in rows if _keeps_held_out(metrics[row])]
    if not keeping:
        return best_row(metrics, rows)
    return min(keeping, key=lambda row: float(metrics[row]["stream_seconds"]["mean"]))


def _keeps_held_out(found: Mapping[str, Any]) -> bool:
    lost = found["held_base_top5"]["mean"] - found["held_original_top5"]["mean"]
    return float(lost) <= WITHIN


def _kept_share(found: Mapping[str, Any]) -> float:
    return float(found["original_top5"]["mean"] - found["base_top5"]["mean"])


def _retraining(metrics: Mapping[str, Any], beside: str) -> dict[str, Any]:
    again = metrics[RETRAINED]["base_seconds"]
    streamed = metrics[beside]["stream_seconds"]["seeds"]
    ratios = [a / b for a, b in zip(again["seeds"], streamed, strict=True)]
    ratio = mean_and_std(ratios)
    return {"row": RETRAINED, "beside": beside, "seconds": again, "ratio": ratio}


def _forgotten(run: Run, row: str, base: BaseTask, update: UpdateTask) -> dict[str, Any]:
    """How often each base label is among the best, before and after, for the first seed."""
    before, after = base.run().measured[0]["base"], update.run().measured[0]["base"]
    components = set(run.data.train.targets.indices.tolist())
    labels = [
        {
            "label": name,
            "images": count,
            "before": before["found"][label] / count,
            "after": after["found"][label] / count,
            "component": label in components,
        }
        for label, (name, count) in enumerate(
            zip(run.data.base.label_space.names, before["pictures"], strict=True)
        )
        if count
    ]
    return {"row": row, "labels": labels}


def _arrivals(run: Run, tasks: Sequence[UpdateTask]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for task in tasks:
        names = ("original_top5", "learned_all", "first_all")
        row = rows.setdefault(task.row, {name: [] for name in names})
        steps = task.run().measured
        before = task.base.run().measured[0]["base"]["top5"]
        row["original_top5"].append([before, *(step["base"]["top5"] for step in steps)])
        row["learned_all"].append(
            [
                float(np.mean([step[str(n)]["all"] for n in range(number + 1)]))
                for number, step in enumerate(steps)
            ]
        )
        row["first_all"].append([step["0"]["all"] for step in steps])
    return {"count": run.config.arrivals, "rows": rows}


@torch.no_grad()
def _examples(
    run: Run, base: BaseTask, update: UpdateTask
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Streamed test pictures of different kinds, and the best labels before and after."""
    data, names = run.data, run.data.base.label_space.names
    _, firsts = np.unique(data.kind_of_test, return_index=True)
    rows = firsts[np.linspace(0, len(firsts) - 1, min(EXAMPLES, len(firsts))).astype(int)]
    images, targets = data.test.__getitems__(rows.tolist())
    inputs = run.config.augmentation.normalize(images)
    k = min(BEST, len(names))
    best = [topk_indices(task.run().network(inputs), k).tolist() for task in (base, update)]
    shown = [
        {
            "kind": data.kinds[int(data.kind_of_test[row])],
            "labels": [names[label] for label in labels],
            "before": [names[label] for label in before],
            "after": [names[label] for label in after],
        }
        for row, labels, before, after in zip(rows, targets.tolist(), *best, strict=True)
    ]
    return shown, images.numpy()


def costs(run: Run) -> dict[str, Any]:
    """Parameters, multiply-adds and milliseconds of each network."""
    rows = list(range(min(len(run.data.base.test), 64)))
    images = run.config.augmentation.normalize(run.data.base.test.__getitems__(rows)[0])
    timed = run.stages.run("latency", partial(latency, run.networks, images, (1, 32), seconds=10.0))
    return {
        row: {
            "parameters": count_parameters(network),
            "macs": count_macs(network, images[:1]),
            **{f"ms_{size}": timed[row][size]["ms"] for size in ("1", "32")},
        }
        for row, network in run.networks.items()
    }
