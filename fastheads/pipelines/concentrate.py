"""Many specialists are concentrated into one student that knows every label (paper 002).

Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN",
2017, arXiv:1711.07607.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastheads.data import load_data
from fastheads.labels import Grouping
from fastheads.models import HeadedNetwork
from fastheads.pipelines.concentrate_analysis import analyse
from fastheads.pipelines.heads import check_groups
from fastheads.pipelines.network_file import write_network
from fastheads.pipelines.run_folder import (
    fingerprint,
    mean_and_std,
    open_stages,
    write_config,
    write_json,
)
from fastheads.pipelines.student_file import describe_student
from fastheads.pipelines.student_rows import ConcentrateConfig, Run, add_rows, find, prepare
from fastheads.pipelines.students import STUDENTS
from fastheads.pipelines.teaching import (
    Lessons,
    Vocabulary,
    measure_teachers,
    teach,
    vocabulary_of,
)
from fastheads.pipelines.verticals import given_levels, given_verticals
from fastheads.report import print_results, write_report

METRICS = ("mpvap", "mpvap_per_label", "top1", "top5")


@dataclass(frozen=True)
class ConcentrateResult:
    """What a run leaves.

    Attributes:
        student: the kept row's network of the first seed, in eval mode.
        metrics: the content of ``metrics.json``: for each row, each metric as mean, std, seeds.
        report: the page that shows it.
    """

    student: HeadedNetwork
    metrics: dict[str, Any]
    report: Path


def concentrate_run(config: ConcentrateConfig) -> ConcentrateResult:
    """Trains specialists and students, compares them, and writes a report."""
    folder, data = config.output_dir, load_data(config.data)
    print(data.summary())
    config.augmentation.normalize.check_channels(data.image_shape[0])
    check_groups(config.verticals.num_groups, data.num_labels)
    stages = open_stages(folder, fingerprint(config), data)
    write_config(folder, config)
    rows = {name: STUDENTS[name] for name in config.students.rows}
    if config.teachers.files is not None or config.verticals.source == "found":
        # Teachers that exist know the given verticals only; found ones are the only ones.
        rows = {name: row for name, row in rows.items() if row.verticals == "given"}
    kept = config.students.kept
    if kept not in rows:
        raise ValueError(f"students.keep must be a row on the given verticals here, got {kept!r}")
    given = None
    if config.verticals.source != "found":
        given = vocabulary_of(
            data,
            given_verticals(data.label_space, config.verticals),
            given_levels(data.label_space, config.verticals),
            config.students.ancestors,
        )
        print(f"verticals: {_names(given.grouping)}")
    run = prepare(config, data, stages)
    found = None
    if given is None or any(row.verticals == "found" for row in rows.values()):
        num_groups = config.verticals.num_groups
        if num_groups is None and given is not None:
            num_groups = given.grouping.num_groups
        found = vocabulary_of(
            data, find(run, num_groups), data.label_space, config.students.ancestors
        )
        print(f"verticals by confusion: {_names(found.grouping)}")
    given = given or found
    assert given is not None

    lessons = _teach(run, given, "given")
    ours = {name: row for name, row in rows.items() if row.verticals == "given"}
    add_rows(run, ours, given, lessons.targets, given)
    specialists = stages.run(
        "metrics of the specialists",
        partial(
            measure_teachers,
            lessons.teachers,
            data.test,
            config.augmentation.normalize,
            given.annotated,
        ),
    )
    others = {name: row for name, row in rows.items() if name not in ours}
    if others and found is not None:
        add_rows(run, others, found, _teach(run, found, "found").targets, given)

    student = HeadedNetwork(run.trunk, run.standardize, run.networks[kept].head).eval()
    known = found if rows[kept].verticals == "found" and found is not None else given
    write_network(
        folder,
        student,
        known.label_space if known.ancestors else data.label_space,
        data.image_shape,
        config.augmentation.normalize,
        {"student": describe_student(rows[kept], config.trunk, config.students, known.of_students)},
    )
    metrics = summarise(run, specialists)
    command = f"fastheads concentrate --config {shlex.quote(str(folder / 'config.yaml'))}"
    analyse(run, given, found, lessons, specialists, student, command)
    write_json(folder / "metrics.json", metrics)
    report = write_report(folder)
    print_results(metrics, report)
    return ConcentrateResult(student, metrics, report)


def summarise(run: Run, specialists: dict[str, Any]) -> dict[str, Any]:
    """For each row, each metric as mean, std and seeds; multiply-adds and parameters as numbers."""
    metrics: dict[str, Any] = {}
    for row, measured in [*run.measured.items(), ("specialists", [specialists])]:
        metrics[row] = {name: mean_and_std([each[name] for each in measured]) for name in METRICS}
        cost = specialists if row == "specialists" else run.cost[row]
        metrics[row] |= {name: cost[name] for name in ("macs", "parameters")}
    return metrics


def _teach(run: Run, vocabulary: Vocabulary, name: str) -> Lessons:
    config = run.config
    alike = config.trunk.kind == "small" and config.trunk.channels == config.teachers.channels
    return teach(
        vocabulary, run.data, config.teachers, config.augmentation, config.passes,
        name, run.stages, config.seed, run.trunk if alike else None,
    )  # fmt: skip


def _names(grouping: Grouping) -> str:
    pairs = zip(grouping.names, grouping.sizes.tolist(), strict=True)
    return ", ".join(f"{name} {size}" for name, size in pairs)
