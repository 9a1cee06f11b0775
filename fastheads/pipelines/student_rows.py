"""Trunk, verticals and students of a run of Knowledge Concentration, stage by stage (paper 002)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from fastheads.data import Augmentation, Data, DataConfig
from fastheads.labels import Grouping
from fastheads.metrics import count_macs, count_parameters
from fastheads.models import HeadedNetwork
from fastheads.nn import Standardize
from fastheads.pipelines.frozen import BATCH, Frozen, augmented_batches, extract
from fastheads.pipelines.heads import HeadsConfig, count_confusions
from fastheads.pipelines.run_folder import check_distinct, training_curve
from fastheads.pipelines.side_by_side import run_all
from fastheads.pipelines.soft_targets import SoftTargets
from fastheads.pipelines.student_task import Repeated, StudentTask, Targets, mean_targets
from fastheads.pipelines.students import (
    STUDENTS,
    Student,
    StudentsConfig,
    feature_batches,
    measure,
)
from fastheads.pipelines.teaching import Vocabulary
from fastheads.pipelines.train_teachers import TeachersConfig
from fastheads.pipelines.trunk import TrunkConfig, build_trunk, fit_trunk
from fastheads.pipelines.verticals import VerticalsConfig, found_verticals
from fastheads.ranges import check_range, check_seeds
from fastheads.training import Stages

TRAIN_FEATURES = "features of the training pictures"  # a stage


@dataclass(frozen=True)
class ConcentrateConfig:
    """A run of Knowledge Concentration.

    Attributes:
        output_dir: the run folder; a run that was stopped goes on there.
        data: which pictures and labels.
        augmentation: of the pictures.
        verticals: the groups of labels that specialists and the student's head are made for.
        trunk: the student's base network.
        teachers: the specialists.
        students: the rows of the comparison.
        passes: augmented copies of each training picture that trunk and teachers are run on.
        holdout_passes: augmented copies of each hold-out picture, for the verticals that are found.
        seeds: every student is trained once for each.
        seed: of trunk, teachers and augmentation.
    """

    output_dir: Path = Path("runs/concentrate")
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    verticals: VerticalsConfig = field(default_factory=VerticalsConfig)
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    teachers: TeachersConfig = field(default_factory=TeachersConfig)
    students: StudentsConfig = field(default_factory=StudentsConfig)
    passes: int = 8
    holdout_passes: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "passes", "holdout_passes", least=1)
        check_distinct("seeds", self.seeds)
        check_seeds(self, "seed", "seeds")


@dataclass
class Run:
    """What the stages of a run share.

    Attributes:
        config: settings.
        data: pictures.
        stages: what is finished.
        trunk: the frozen base network.
        standardize: of its features.
        features: of ``train`` ``[passes, N, ...]``, and of ``test``.
        networks: the first seed's student of each row, which reads features.
        measured: for each row, the metrics of each seed.
        cost: for each row its multiply-adds and parameters, trunk included.
        curves: of every training.
    """

    config: ConcentrateConfig
    data: Data
    stages: Stages
    trunk: nn.Module
    standardize: Standardize
    features: dict[str, Tensor]
    networks: dict[str, HeadedNetwork] = field(default_factory=dict)
    measured: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    cost: dict[str, dict[str, int]] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)


def prepare(config: ConcentrateConfig, data: Data, stages: Stages) -> Run:
    """The trained trunk and its features."""
    torch.manual_seed(config.seed)
    trunk = build_trunk(config.trunk, data.image_shape[0])
    seconds = fit_trunk(
        trunk,
        data,
        config.trunk.width,
        config.trunk.training,
        config.augmentation,
        config.output_dir,
        config.seed,
    )
    stages.durations.append({"stage": "training the trunk", "seconds": seconds})
    trunk.eval().requires_grad_(False)
    features = {
        "train": stages.run(TRAIN_FEATURES, lambda: _train(trunk, data, config)),
        "test": stages.run(
            "features of the test pictures",
            lambda: extract(trunk, data.test, 0, config.augmentation, config.seed, "features")[0],
        ),
    }
    standardize = Standardize(features["train"].shape[2])
    standardize.measure(features["train"][0])
    return Run(config, data, stages, trunk, standardize, features)


@torch.no_grad()
def _train(trunk: nn.Module, data: Data, config: ConcentrateConfig) -> Tensor:
    """Features ``[passes, N, ...]`` of the pictures that the teachers see as well."""
    blocks = augmented_batches(data.train, config.passes, config.augmentation, config.seed)
    steps = config.passes * -(-len(data.train) // BATCH)
    parts = [trunk(images) for images, _ in track(blocks, "features", total=steps, transient=True)]
    return torch.cat(parts).unflatten(0, (config.passes, len(data.train)))


def find(run: Run, num_groups: int | None) -> Grouping:
    """Verticals that a generalist, trained without any, confuses (paper 000)."""
    config, data = run.config, run.data
    everything = Grouping(np.zeros(data.num_labels), ("every label",))
    annotated = Repeated(data.train.targets)
    scout = _task(
        run, "scout", STUDENTS["generalist"], everything, annotated,
        _prior(run, annotated, everything), config.seeds[0],
    )  # fmt: skip
    network = _finished(run, scout)
    run.curves.pop()  # no row of the comparison

    def cluster() -> dict[str, Any]:
        (features,) = extract(
            run.trunk, data.holdout, config.holdout_passes, config.augmentation, config.seed,
            "hold-out features",
        )  # fmt: skip
        holdout = Frozen(features, features.new_empty(*features.shape[:2], 0), data.holdout.targets)
        matrix = count_confusions(
            lambda features, _: network(features),
            holdout,
            HeadsConfig(top_k=config.verticals.top_k),
            "confusion",
        )
        grouping = found_verticals(
            matrix, num_groups, config.seed, regularization=config.verticals.regularization
        )
        return {"group_of": grouping.group_of, "names": list(grouping.names)}

    stored = run.stages.run("verticals by confusion", cluster)
    return Grouping(stored["group_of"], tuple(stored["names"]))


def add_rows(
    run: Run, rows: dict[str, Student], vocabulary: Vocabulary, soft: SoftTargets, judge: Vocabulary
) -> None:
    """Trains the students of a vocabulary, and measures them by the verticals of ``judge``."""
    data, config, stages = run.data, run.config, run.stages
    annotated = Repeated(data.train.targets)
    priors = {
        distilled: _prior(run, soft if distilled else annotated, vocabulary.of_students)
        for distilled in {student.distilled for student in rows.values()}
    }
    tasks = {
        (row, seed): _task(
            run, row, student, vocabulary.of_students,
            soft if student.distilled else annotated, priors[student.distilled], seed,
        )
        for row, student in rows.items()
        for seed in config.seeds
    }  # fmt: skip
    unfinished = [
        task for task in tasks.values() if not stages.path(f"metrics of {task.name}").exists()
    ]
    training = config.students.training
    run_all(unfinished, config.students.processes, training.accelerator, kind="student")

    test = run.features["test"].flatten(0, 1)
    example = config.augmentation.normalize(data.test.__getitems__([0])[0])
    for (row, seed), task in tasks.items():
        network = _finished(run, task)
        metrics = stages.run(
            f"metrics of {task.name}",
            partial(measure, network, feature_batches(test, data.test.targets), judge.annotated),
        )
        run.measured.setdefault(row, []).append(metrics)
        if seed == config.seeds[0]:
            run.networks[row] = network
            whole = HeadedNetwork(run.trunk, run.standardize, network.head)
            cost = {"macs": count_macs(whole, example), "parameters": count_parameters(whole)}
            run.cost[row] = cost


def _task(
    run: Run, row: str, student: Student, grouping: Grouping, targets: Targets, prior: Tensor,
    seed: int,
) -> StudentTask:  # fmt: skip
    passes, pictures = run.features["train"].shape[:2]
    return StudentTask(
        row,
        seed,
        student,
        grouping,
        run.stages.path(TRAIN_FEATURES),
        (run.standardize.mean, run.standardize.std),
        targets,
        prior,
        run.config.students,
        run.config.output_dir,
        passes * pictures,
    )


def _prior(run: Run, targets: Targets, grouping: Grouping) -> Tensor:
    return mean_targets(targets, run.features["train"].shape[:2].numel(), grouping.num_labels)


def _finished(run: Run, task: StudentTask) -> HeadedNetwork:
    """The student of a task; its curve and the time that it took are added to the run's."""
    network, result = task.run()
    run.curves.append(training_curve(task.row, task.seed, result))
    run.stages.durations.append({"stage": f"student {task.name}", "seconds": result.seconds})
    return network
