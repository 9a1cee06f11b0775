"""Residual networks that skip layers, trained, measured and compared (paper 004, chapter 5).

Veit, "Conditional networks", 2018; Veit, Belongie, "Convolutional networks with adaptive inference
graphs", 2018, arXiv:1711.11503.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fastheads.data import load_data
from fastheads.pipelines.adaptive_analysis import analyse
from fastheads.pipelines.adaptive_config import AdaptiveConfig, Run
from fastheads.pipelines.adaptive_measures import time_rows, untrained_rows
from fastheads.pipelines.adaptive_rows import add_rows
from fastheads.pipelines.gated_training import describe_gated
from fastheads.pipelines.network_file import write_network
from fastheads.pipelines.run_folder import (
    fingerprint,
    mean_and_std,
    open_stages,
    write_config,
    write_json,
)
from fastheads.report import print_results, write_report

METRICS = ("top1", "top5", "layers", "ms_1", "ms_32")


@dataclass(frozen=True)
class AdaptiveResult:
    """What a run leaves.

    Attributes:
        network: the kept gated network of the first seed, in eval mode.
        metrics: the content of ``metrics.json``: for each row, each metric as mean, std, seeds.
        report: the page that shows it.
    """

    network: nn.Module
    metrics: dict[str, Any]
    report: Path


def adaptive_run(config: AdaptiveConfig) -> AdaptiveResult:
    """Trains a plain network and gated ones, compares them, and writes a report."""
    folder, data = config.output_dir, load_data(config.data)
    print(data.summary())
    config.augmentation.normalize.check_channels(data.image_shape[0])
    make = partial(config.network.build, data.image_shape[0], data.num_labels)
    if "preactivation" in config.others:
        make(preactivation=True)  # sees that there is such a network
    config.check(data, make())
    settings = fingerprint(config)
    run = Run(config, data, open_stages(folder, settings, data), settings)
    write_config(folder, config)
    add_rows(run, make)
    untrained_rows(run)
    time_rows(run)
    network = run.networks[run.kept]
    description = {"adaptive": describe_gated(config.network, config.gates)}
    write_network(
        folder, network, data.label_space, data.image_shape, config.augmentation.normalize,
        description,
    )  # fmt: skip
    return conclude(run, f"fastheads adaptive --config {shlex.quote(str(folder / 'config.yaml'))}")


def conclude(run: Run, command: str) -> AdaptiveResult:
    """Metrics, analysis and report of a run whose networks are trained and measured."""
    folder = run.config.output_dir
    metrics = summarise(run)
    analyse(run, command)
    write_json(folder / "metrics.json", metrics)
    report = write_report(folder)
    print_results(metrics, report)
    return AdaptiveResult(run.networks[run.kept], metrics, report)


def summarise(run: Run) -> dict[str, Any]:
    """For each row, each metric as mean, std and seeds; multiply-adds as the mean over seeds."""
    metrics: dict[str, Any] = {}
    for row, measured in run.measured.items():
        metrics[row] = {
            name: mean_and_std([each[name] for each in measured])
            for name in METRICS
            if name in measured[0]
        }
        metrics[row]["macs"] = sum(each["macs"] for each in measured) / len(measured)
        metrics[row]["parameters"] = measured[0]["parameters"]
    return metrics
