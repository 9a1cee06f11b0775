"""What the report of networks that skip layers shows beside their metrics."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastheads.metrics import count_macs, count_parameters
from fastheads.models import resnet110
from fastheads.models.resnet import imagenet_resnet
from fastheads.nn import gate_model
from fastheads.nn.gate_export import conditional, masked
from fastheads.pipelines.adaptive_config import Run, row_of
from fastheads.pipelines.adaptive_measures import BATCHES
from fastheads.pipelines.block_costs import block_costs
from fastheads.pipelines.gate_analysis import analyse_gates
from fastheads.pipelines.latency import latency
from fastheads.pipelines.run_folder import (
    dataset_counts,
    environment,
    flat,
    total_durations,
    write_arrays,
    write_json,
)

# Parameters without and with gates of 16 hidden units, multiply-adds: as counted, and as published
# (Table 5.1, 5.2), where those of ResNet-110 are two operations a multiply-add.
_COUNTS: tuple[tuple[str, tuple[float, float, float], tuple[float, float, float]], ...] = (
    ("ResNet-110", (1_727_962, 1_763_878, 0.2529e9), (1.7e6, 1.78e6, 0.5e9)),
    ("ResNet-50", (25_557_032, 25_768_264, 3.858e9), (25.56e6, 26.56e6, 3.8e9)),
    ("ResNet-101", (44_549_160, 45_040_314, 7.570e9), (44.54e6, 46.23e6, 7.6e9)),
)


def analyse(run: Run, command: str) -> None:
    """Writes ``analysis.json`` and ``analysis.npz``."""
    started = time.monotonic()
    config, data = run.config, run.data
    normalize = config.augmentation.normalize
    kept, example = run.networks[run.kept], normalize(data.test.__getitems__([0])[0])
    shown, arrays = run.stages.run(
        "gates of the kept network",
        lambda: analyse_gates(
            kept, data, normalize, config.analysis,
            row=run.kept, others={"plain": run.networks["plain"]},
        ),
    )  # fmt: skip
    content = {
        "system": "adaptive",
        "title": "Networks that skip layers",
        "command": command,
        "environment": environment(),
        "settings": flat(run.settings),
        "dataset": dataset_counts(data),
        "kept": run.kept,
        "curves": run.curves,
        "network": block_costs(kept, example).describe(type(kept).__name__),
        "counts": run.stages.run("counts of the paper's networks", counts),
        "rates": _rates(run),
        "trajectories": run.trajectories,
        **shown,
        "latency": {
            "threads": torch.get_num_threads(),
            "rows": run.latency,
            "peers": run.stages.run("latency of peers", lambda: peers(run)),
        },
        "budget": _budgets(run),
    }
    run.stages.durations.append({"stage": "analysis", "seconds": time.monotonic() - started})
    content["durations"] = total_durations(run.stages.durations)
    write_arrays(config.output_dir / "analysis.npz", arrays)
    write_json(config.output_dir / "analysis.json", content)


def counts() -> list[dict[str, Any]]:
    """Parameters and multiply-adds of the paper's networks, as built here."""
    builders: tuple[Callable[[], nn.Module], ...] = (
        resnet110,
        lambda: imagenet_resnet(50),
        lambda: imagenet_resnet(101),
    )
    found = []
    for (name, expected, published), build in zip(_COUNTS, builders, strict=True):
        network = build()
        size = 32 if name == "ResNet-110" else 224
        row = {
            "network": name,
            "parameters": count_parameters(network),
            "macs": count_macs(network, torch.zeros(1, 3, size, size)),
        }
        gate_model(network)
        row["gated_parameters"] = count_parameters(network)
        names = ("parameters", "gated_parameters", "macs")
        row["expected"] = dict(zip(names, expected, strict=True))
        row["published"] = dict(zip(names, published, strict=True))
        found.append(row)
    return found


def peers(run: Run) -> dict[str, Any]:
    """Milliseconds of other ways to run the kept network, and of the plain one compiled."""
    images = run.config.augmentation.normalize(
        run.data.test.__getitems__(list(range(min(len(run.data.test), 64))))[0]
    )
    kept, plain = run.networks[run.kept], run.networks["plain"]
    networks: dict[str, nn.Module | Callable[[Tensor], Any]] = {
        "kept": kept,
        "plain": plain,
        "masked": masked(kept),
    }
    if run.config.compiled:
        networks["compiled_plain"] = torch.compile(copy.deepcopy(plain))
    found = latency(networks, images, BATCHES)
    one = latency({"skip_batch_of_one": conditional(kept), "kept": kept}, images, (1,))
    return {**found, "skip_batch_of_one": one["skip_batch_of_one"]}


def _rates(run: Run) -> dict[str, Any]:
    targets = {row_of(target): target for target in run.config.targets}
    return {
        row: {"target": target, "layers": [each["rates"] for each in run.measured[row]]}
        for row, target in targets.items()
    }


def _budgets(run: Run) -> list[dict[str, Any]]:
    found = []
    for row, measured in run.measured.items():
        _, budget, k = row.rpartition("budget_")
        if budget:
            means = {
                name: sum(each[name] for each in measured) / len(measured)
                for name in ("top1", "layers", "macs", "ms_1")
            }
            found.append({"k": int(k), **means})
    return sorted(found, key=lambda each: each["k"])
