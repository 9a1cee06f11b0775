"""From pictures to what teachers say about them: vocabulary, specialists, soft targets (paper 002).

Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN",
2017, section 3.1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastheads.data import Augmentation, Data, ImageDataset, Normalize
from fastheads.hierarchy import Hierarchy, with_ancestors
from fastheads.labels import Grouping, LabelSpace
from fastheads.metrics import count_macs, count_parameters, evaluate_verticals
from fastheads.pipelines.frozen import augmented_batches, picture_batches
from fastheads.pipelines.load_teachers import load_teachers
from fastheads.pipelines.run_folder import digest
from fastheads.pipelines.soft_targets import SoftTargets, open_soft_targets, write_soft_targets
from fastheads.pipelines.teachers import Teachers
from fastheads.pipelines.train_teachers import TeachersConfig, train_teachers
from fastheads.pipelines.verticals import check_verticals
from fastheads.targets import SparseTargets
from fastheads.training import Stages


@dataclass(frozen=True)
class Vocabulary:
    """The labels that teachers and students know, in verticals.

    Attributes:
        label_space: the labels of the data, and behind them the nodes above them.
        grouping: the verticals, of all of these.
        hierarchy: the ancestors of each.
        num_annotated: labels of the data, the first ones; metrics rank these alone.
        ancestors: whether students know the nodes too; teachers always do.
    """

    label_space: LabelSpace
    grouping: Grouping
    hierarchy: Hierarchy
    num_annotated: int
    ancestors: bool

    @property
    def annotated(self) -> Grouping:
        """The verticals of the data's labels alone."""
        return Grouping(self.grouping.group_of[: self.num_annotated], self.grouping.names)

    @property
    def of_students(self) -> Grouping:
        """The verticals of the labels that students know."""
        return self.grouping if self.ancestors else self.annotated


def vocabulary_of(
    data: Data, verticals: Grouping, label_space: LabelSpace, ancestors: bool
) -> Vocabulary:
    """The labels of ``data`` in ``verticals``, with the nodes above them in ``label_space``.

    Raises:
        ValueError: if a label is in no vertical, or a vertical has one label or no pictures.
    """
    check_verticals(verticals, data.train.targets, data.test.targets, data.label_space.names)
    return Vocabulary(*with_ancestors(label_space, verticals), data.num_labels, ancestors)


@dataclass(frozen=True)
class Lessons:
    """What the teachers of a vocabulary are and say.

    Attributes:
        teachers: one a vertical.
        targets: their soft targets for every augmented picture.
        storage: rows, entries, bytes, dense_bytes, bytes_per_row, top_k, seconds, rows_per_second
            and mass_kept of the targets.
    """

    teachers: Teachers
    targets: SoftTargets
    storage: dict[str, Any]


def teach(
    vocabulary: Vocabulary,
    data: Data,
    config: TeachersConfig,
    augmentation: Augmentation,
    passes: int,
    name: str,
    stages: Stages,
    seed: int,
    trunk: nn.Module | None,
) -> Lessons:
    """Trains or loads a teacher for each vertical and writes down what it says of its pictures.

    Args:
        vocabulary: labels and verticals.
        data: pictures.
        config: the teachers.
        augmentation: of the pictures, which the student will see as well.
        passes: augmented copies of each picture.
        name: of the verticals, and of the folder of teachers and targets.
        stages: of the run.
        seed: of teachers and augmentation.
        trunk: from whose weights the teachers' trunks start; None for new ones.
    """
    started, folder = time.monotonic(), stages.folder / name
    if config.files is not None:
        found = load_teachers(
            config.files, vocabulary.label_space, vocabulary.grouping, augmentation.normalize
        )
    else:
        found = train_teachers(
            data,
            vocabulary.grouping,
            vocabulary.hierarchy,
            config,
            augmentation,
            folder,
            seed,
            trunk,
            label_names=vocabulary.label_space.names,
        )
    stages.durations.append(
        {"stage": f"teachers of the {name} verticals", "seconds": time.monotonic() - started}
    )
    known = vocabulary.of_students
    found = [
        replace(teacher, labels=teacher.labels.where(teacher.labels < known.num_labels, -1))
        for teacher in found
    ]
    teachers = Teachers(found, known, config.top_k, vocabulary.hierarchy)
    identity = {
        "teachers": teachers.fingerprint,
        "data": digest([data.train.targets.indices, data.train.targets.offsets]),
        "augmentation": asdict(augmentation),
        "passes": passes,
        "seed": seed,
    }
    storage = stages.run(
        f"soft targets of the {name} verticals",
        partial(_write, folder / "soft_targets", identity, teachers, data, augmentation),
    )
    return Lessons(teachers, open_soft_targets(folder / "soft_targets", identity), storage)


def _write(
    folder: Path,
    identity: dict[str, Any],
    teachers: Teachers,
    data: Data,
    augmentation: Augmentation,
) -> dict[str, Any]:
    """Writes equation 2 for every augmented picture; returns what it takes to keep."""
    passes, seed = identity["passes"], identity["seed"]
    total, computed = passes * len(data.train), 0

    def batches(start: int) -> Iterator[SparseTargets]:
        nonlocal computed
        for images, targets in augmented_batches(data.train, passes, augmentation, seed, start):
            computed += len(images)
            yield teachers(images, targets)

    started = time.monotonic()
    soft = write_soft_targets(folder, batches, identity, total)
    seconds = time.monotonic() - started
    first = next(augmented_batches(data.train, 1, augmentation, seed))
    return {
        "rows": total,
        "entries": soft.entries,
        "bytes": soft.nbytes,
        "dense_bytes": soft.dense_nbytes(teachers.grouping.num_labels),
        "bytes_per_row": soft.bytes_per_row,
        "mass_kept": teachers.mass_kept(*first),
        "top_k": teachers.top_k,
        "seconds": seconds,
        "rows_per_second": computed / seconds if computed else None,
    }


@torch.no_grad()
def measure_teachers(
    teachers: Teachers, data: ImageDataset, normalize: Normalize, annotated: Grouping
) -> dict[str, Any]:
    """The metrics of the specialists, each asked about the pictures of its own vertical.

    A picture's verticals are told: specialists are given them, students are not. Multiply-adds and
    parameters are those of all specialists together.
    """

    def scores() -> Iterator[tuple[Tensor, SparseTargets]]:
        for images, targets in picture_batches(data, normalize):
            out = torch.full((len(images), teachers.grouping.num_labels), -torch.inf)
            for teacher, rows, logits in teachers.asked(images, targets):
                known = teacher.labels >= 0
                out[rows[:, None], teacher.labels[known]] = logits.cpu()[:, known]
            yield out[:, : annotated.num_labels], targets

    found = evaluate_verticals(scores(), annotated)
    example = normalize(data.__getitems__([0])[0])
    networks = [nn.Sequential(*filter(None, (t.prepare, t.network))) for t in teachers.teachers]
    found["macs"] = sum(count_macs(network.cpu(), example) for network in networks)
    found["parameters"] = sum(count_parameters(network) for network in networks)
    return found
