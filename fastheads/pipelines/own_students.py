"""Own teachers concentrated into own students: ``fastheads.concentrate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.data import Augmentation, Data
from fastheads.labels import Grouping
from fastheads.losses import sigmoid_cross_entropy
from fastheads.metrics import count_macs, count_parameters
from fastheads.pipelines.frozen import channels_last, picture_batches
from fastheads.pipelines.run_folder import open_stages, write_json
from fastheads.pipelines.students import measure
from fastheads.pipelines.teachers import Teacher, Teachers
from fastheads.pipelines.teaching import measure_teachers
from fastheads.targets import SparseTargets
from fastheads.training import TrainConfig, fit, save_weights


class Distilled(nn.Module):
    """The loss of a student on what teachers say of the same pictures (eq. 2).

    Args:
        student: pictures to logits ``[N, labels]``; if it has a method ``loss(images, targets)``,
            such as :class:`fastheads.models.HeadedNetwork`, its logits are never held.
        teachers: are asked about each batch, and not trained.
    """

    def __init__(self, student: nn.Module, teachers: Teachers) -> None:
        super().__init__()
        self.student, self._teachers = student, (teachers,)  # in a tuple: no part of the state

    def forward(self, images: Tensor, annotated: SparseTargets) -> Tensor:
        soft = self._teachers[0](images, annotated).to(images.device)
        student: Any = self.student
        if hasattr(student, "loss"):
            return student.loss(images, soft)
        return sigmoid_cross_entropy(self.student(images), soft)


def concentrate(
    students: Mapping[str, nn.Module],
    teachers: Sequence[Teacher],
    data: Data,
    *,
    output_dir: str | Path,
    grouping: Grouping | None = None,
    training: TrainConfig | None = None,
    augmentation: Augmentation | None = None,
    top_k: int = 100,
) -> dict[str, Any]:
    """Concentrates trained specialists into each of some students, trained as a whole on pictures.

    Each batch is augmented, each picture asks the teachers of the verticals that it has a label
    in, and their ``top_k`` probabilities are its targets. Teachers and students may have any trunk;
    one that takes pictures of another kind has a ``prepare`` (teachers), or begins with a
    :class:`fastheads.pipelines.teachers.Prepare` (students).

    Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single
    CNN", 2017, section 3.1.

    Args:
        students: by name; pictures to logits over the labels of ``data``. They are trained in
            place and left in eval mode.
        teachers: one a vertical, whose labels are the vertical unless ``grouping`` is given.
        data: as of :func:`fastheads.data.load_data`.
        output_dir: the run folder; a run that was stopped goes on there. Weights are written as
            ``NAME.safetensors``, metrics as ``metrics.json``.
        grouping: the verticals, in the order of ``teachers``.
        training: of the students; by default Adagrad with learning rate 0.001 and batches of 64,
            as in the paper.
        augmentation: of the pictures, and the normalisation that teachers and students expect.
        top_k: labels that a teacher gives of a picture.

    Returns:
        For each student, and for ``specialists``: mpvap, mpvap_per_label, pvap (a number a
        vertical), top1, top5, macs and parameters.

    Raises:
        ValueError: if teachers, verticals and labels do not fit together, or a student does not
            give one logit a label.
    """
    training = training or TrainConfig(
        epochs=5, batch_size=64, lr=1e-3, optimizer="adagrad", schedule="constant"
    )
    augmentation, folder = augmentation or Augmentation(), Path(output_dir)
    if grouping is None:
        grouping = verticals_of(teachers, data.num_labels)
    asked = Teachers(teachers, grouping, top_k)
    images, _ = data.train.__getitems__([0])
    example = augmentation.normalize(images)
    for name, student in students.items():
        _check_student(name, student, example, grouping)
    settings = {
        "teachers": asked.fingerprint,
        "training": asdict(training),
        "augmentation": asdict(augmentation),
    }
    stages = open_stages(folder, settings, data)
    metrics = {}
    for name, student in students.items():
        fit(
            Distilled(student, asked),
            data.train,
            None,
            training,
            folder=folder / "training" / name,
            augment=lambda images, generator: channels_last(augmentation(images, generator)),
            name=name,
        )
        student.cpu().eval()
        save_weights(student, folder / f"{name}.safetensors")
        measured = stages.run(
            f"metrics of {name}",
            partial(measure, student, picture_batches(data.test, augmentation.normalize), grouping),
        )
        cost = {"macs": count_macs(student, example), "parameters": count_parameters(student)}
        metrics[name] = measured | cost
    metrics["specialists"] = measure_teachers(asked, data.test, augmentation.normalize, grouping)
    write_json(folder / "metrics.json", metrics)
    return metrics


def verticals_of(teachers: Sequence[Teacher], num_labels: int) -> Grouping:
    """The verticals that teachers stand for: the labels of each.

    Raises:
        ValueError: if two teachers know the same label, or none knows one.
    """
    group_of = np.full(num_labels, -1)
    for group, teacher in enumerate(teachers):
        labels = teacher.labels[teacher.labels >= 0].numpy()
        if labels.max(initial=-1) >= num_labels:
            raise ValueError(
                f"teacher {teacher.name!r} must know labels below {num_labels}, got {labels.max()}"
            )
        if len(twice := labels[group_of[labels] >= 0]):
            other = teachers[group_of[twice[0]]].name
            raise ValueError(
                "teachers must know different labels without a grouping, "
                f"got label {twice[0]} of both {other!r} and {teacher.name!r}"
            )
        group_of[labels] = group
    if len(loose := np.flatnonzero(group_of < 0)):
        raise ValueError(f"teachers must know every label, got none for label {loose[0]}")
    return Grouping(group_of, tuple(teacher.name for teacher in teachers))


@torch.no_grad()
def _check_student(name: str, student: nn.Module, example: Tensor, grouping: Grouping) -> None:
    logits = student.eval()(example)
    if logits.shape != (1, grouping.num_labels):
        raise ValueError(
            f"student {name!r} must give one logit for each of the {grouping.num_labels} labels, "
            f"got {list(logits.shape)}"
        )
