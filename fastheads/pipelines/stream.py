"""Networks that learn a stream of new labels without the old data (paper 001).

Huang, "Scalable large scale visual recognition using multi-label image classification", 2019.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastheads.data.stream import load_stream
from fastheads.pipelines.network_file import write_network
from fastheads.pipelines.run_folder import (
    fingerprint,
    mean_and_std,
    open_stages,
    write_config,
    write_json,
)
from fastheads.pipelines.stream_analysis import analyse, best_row, costs, ways
from fastheads.pipelines.stream_config import Run, StreamConfig
from fastheads.pipelines.stream_rows import add_rows
from fastheads.report import print_results, write_report


@dataclass(frozen=True)
class StreamResult:
    """What a run leaves.

    Attributes:
        network: the kept network of the first seed after its best update, in eval mode.
        metrics: the content of ``metrics.json``: for each row, each metric as mean, std, seeds.
        report: the page that shows it.
    """

    network: nn.Module
    metrics: dict[str, Any]
    report: Path


def stream_run(config: StreamConfig) -> StreamResult:
    """Trains networks on base labels, streams new pictures into them, and writes a report."""
    folder, data = config.output_dir, load_stream(config.data)
    print(data.summary())
    config.augmentation.normalize.check_channels(data.base.image_shape[0])
    settings = fingerprint(config)
    run = Run(config, data, open_stages(folder, settings, data), settings)
    write_config(folder, config)
    bases, updates, arriving = add_rows(run)
    metrics = summarise(run)
    command = f"fastheads stream --config {shlex.quote(str(folder / 'config.yaml'))}"
    best = best_row(metrics, ways(config.kept, updates))
    analyse(run, metrics, best, bases, updates, arriving, command)
    write_json(folder / "metrics.json", metrics)
    network = updates[best].run().network
    description = {"stream": config.networks.describe(config.kept)}
    write_network(
        folder, network, data.base.label_space, data.base.image_shape,
        config.augmentation.normalize, description,
    )  # fmt: skip
    report = write_report(folder)
    print_results(metrics, report)
    return StreamResult(network, metrics, report)


def summarise(run: Run) -> dict[str, Any]:
    """For each row, each metric as mean, std and seeds; what the networks cost."""
    of_networks = costs(run)
    return {
        row: {name: mean_and_std([each[name] for each in measured]) for name in measured[0]}
        | {name: of_networks[row][name] for name in ("parameters", "macs") if row in of_networks}
        for row, measured in run.measured.items()
    }
