"""Trains a teacher for each vertical on the pictures of its labels (paper 002, eq. 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import torch
from torch import nn

from fastheads.data import Augmentation, Data
from fastheads.data.images import Pictures
from fastheads.hierarchy import Hierarchy
from fastheads.labels import Grouping
from fastheads.models import BaseConfig
from fastheads.pipelines.side_by_side import run_all
from fastheads.pipelines.teacher_task import (
    WEIGHTS,
    TeacherTask,
    describe,
    read_network,
    steps_per_epoch,
)
from fastheads.pipelines.teachers import Teacher
from fastheads.ranges import check_range
from fastheads.targets import SparseTargets
from fastheads.training import TrainConfig
from fastheads.training.config import check_training


@dataclass(frozen=True)
class TeachersConfig:
    """The teachers, and how they are trained or where they are.

    Attributes:
        training: of each teacher, by sigmoid cross-entropy.
        min_steps: a vertical of few pictures is trained for more epochs, until it has so many
            steps.
        channels: of the blocks of a teacher's trunk; each halves height and width.
        hidden: s1 and s2, widths of the two layers below the logits.
        from_trunk: start from the weights of the student's trunk, not from new ones.
        top_k: K, the most probable labels of a teacher that the student learns from.
        files: description of networks to load in place of training any, or a folder of teachers
            that an earlier run has trained.
        processes: that train teachers side by side; by default one for each GPU, or else for each
            thread that PyTorch would use.
    """

    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=10, batch_size=64, lr=3e-3, weight_decay=1e-4)
    )
    min_steps: int = 300
    channels: tuple[int, ...] = (32, 64, 128, 128)
    hidden: tuple[int, ...] = (256, 128)
    from_trunk: bool = True
    top_k: int = 100
    files: Path | None = None
    processes: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "top_k", "processes", least=1)
        check_range(self, "min_steps", least=0)
        check_training(training=self.training)
        BaseConfig(self.channels, self.hidden)  # checks both


def train_teachers(
    data: Data,
    grouping: Grouping,
    hierarchy: Hierarchy | None,
    config: TeachersConfig,
    augmentation: Augmentation,
    folder: Path,
    seed: int,
    trunk: nn.Module | None = None,
    *,
    label_names: tuple[str, ...] | None = None,
    quiet: bool = False,
) -> list[Teacher]:
    """A specialist for each vertical, trained end to end; several at a time where that pays.

    The labels of a picture are smeared to their ancestors first. Each teacher has a folder of its
    own; a run that was stopped goes on there, and finished teachers are read.

    Args:
        data: its training pictures.
        grouping: the verticals of all labels, nodes of the hierarchy among them.
        hierarchy: of the labels; ``None`` smears nothing.
        config: settings.
        augmentation: of the pictures.
        folder: of the run; teachers lie in ``teachers/<name>``.
        seed: of weights, order and augmentation.
        trunk: whose weights the trunks start from.
        label_names: of the labels of the grouping; those of ``data`` if not given.
        quiet: shows nothing.

    Returns:
        The teachers in the order of the grouping, in eval mode, on the CPU.

    Raises:
        ValueError: if a vertical has no picture, the trunk has another shape, or a folder holds
            a teacher of other settings.
        FloatingPointError: if a loss is not finite.
        ChildProcessError: if a process dies.
    """
    names = label_names or data.label_space.names
    targets = data.train.targets if hierarchy is None else hierarchy.smear(data.train.targets)
    weights = None
    if trunk is not None and config.from_trunk:
        weights = {key: tensor.cpu() for key, tensor in trunk.state_dict().items()}
    tasks = []
    for group, name in enumerate(grouping.names):
        pictures = vertical_pictures(data, targets, grouping, group)
        tasks.append(
            TeacherTask(
                name=name,
                folder=Path(folder) / "teachers" / folder_name(name),
                pictures=pictures,
                image_shape=tuple(data.train.images.shape[1:]),
                num_labels=int(grouping.sizes[group]),
                base=BaseConfig(config.channels, config.hidden),
                training=_training(config, len(pictures), seed),
                augmentation=augmentation,
                trunk=weights,
            )
        )
    for group, task in enumerate(tasks):
        describe(task, [names[label] for label in grouping.members(group)])
    unfinished = [task for task in tasks if not (task.folder / WEIGHTS).exists()]
    run_all(unfinished, config.processes, config.training.accelerator, quiet, "teacher")
    return [
        Teacher(task.name, read_network(task.folder), torch.from_numpy(grouping.members(group)))
        for group, task in enumerate(tasks)
    ]


def vertical_pictures(
    data: Data, targets: SparseTargets, grouping: Grouping, group: int
) -> Pictures:
    """The training pictures with a label in the vertical, and these labels alone."""
    members = torch.from_numpy(grouping.members(group))
    inside = torch.from_numpy(grouping.group_of)[targets.indices] == group
    row = targets.row_indices()[inside]
    rows, counts = row.unique_consecutive(return_counts=True)
    if not rows.numel():
        raise ValueError(
            f"vertical {grouping.names[group]!r} must have a picture to train on, got none"
        )
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    labels = torch.searchsorted(members, targets.indices[inside])
    return Pictures(
        data.train.images, data.train.rows[rows.numpy()], SparseTargets(labels, offsets)
    )


def folder_name(name: str) -> str:
    """A name that is a file name everywhere, another one for every vertical."""
    return quote(name, safe=" &()+,-").replace(".", "%2E")


def _training(config: TeachersConfig, rows: int, seed: int) -> TrainConfig:
    steps = steps_per_epoch(rows, config.training.batch_size)
    epochs = max(config.training.epochs, math.ceil(config.min_steps / steps))
    return replace(config.training, epochs=epochs, seed=seed, devices=1)
