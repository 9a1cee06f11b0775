"""What the report of Knowledge Concentration shows beside its metrics."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.metrics import count_parameters
from fastheads.models import HeadedNetwork
from fastheads.pipelines.analysis import measure_latency
from fastheads.pipelines.run_folder import (
    dataset_counts,
    environment,
    fingerprint,
    flat,
    total_durations,
    write_arrays,
    write_json,
)
from fastheads.pipelines.student_rows import Run
from fastheads.pipelines.students import STUDENTS, feature_batches, measure
from fastheads.pipelines.teaching import Lessons, Vocabulary
from fastheads.pipelines.verticals import compare_verticals

EXAMPLES = 2  # test pictures shown of each vertical
BATCHES = (1, 64)  # pictures at a time, in latencies


def analyse(
    run: Run,
    given: Vocabulary,
    found: Vocabulary | None,
    lessons: Lessons,
    specialists: dict[str, Any],
    student: HeadedNetwork,
    command: str,
) -> None:
    """Writes ``analysis.json`` and ``analysis.npz``."""
    started = time.monotonic()
    data, config = run.data, run.config
    measured = {**run.measured, "specialists": [specialists]}
    images, _ = data.test.__getitems__(list(range(min(max(BATCHES), len(data.test)))))
    inputs = config.augmentation.normalize(images)
    teachers = lessons.teachers.teachers
    networks = [nn.Sequential(*filter(None, (t.prepare, t.network))).cpu() for t in teachers]
    latency = {
        "student": measure_latency(student, inputs, BATCHES),
        "specialists": measure_latency(
            lambda pictures: [network(pictures) for network in networks], inputs, BATCHES
        ),
    }
    examples, pictures = _examples(run, given, student)
    content = {
        "system": "concentrate",
        "student": config.students.kept,
        "title": "Many specialists concentrated into one student",
        "settings": flat(fingerprint(config)),
        "command": command,
        "environment": environment(),
        "dataset": dataset_counts(data) | {"nodes": len(given.label_space) - given.num_annotated},
        "verticals": _verticals(run, given),
        "per_vertical": {row: _spread(values) for row, values in measured.items()},
        "heads": {row: _head(run, row) for row in run.measured},
        "curves": run.curves,
        "soft_targets": lessons.storage,
        "latency_ms": latency,
        "memory_bytes": {
            "student": 4 * count_parameters(student),
            "specialists": 4 * sum(map(count_parameters, networks)),
        },
        "gamma": {
            row: _gamma(network, given)
            for row, network in run.networks.items()
            if network.head.pacing is not None and STUDENTS[row].verticals == "given"
        },
        "examples": examples,
        "found": _found(run, given, found),
    }
    spent = time.monotonic() - started
    durations = [*run.stages.durations, {"stage": "analysis", "seconds": spent}]
    content["durations"] = total_durations(durations)
    write_arrays(config.output_dir / "analysis.npz", {"examples": pictures})
    write_json(config.output_dir / "analysis.json", content)


def _verticals(run: Run, given: Vocabulary) -> list[dict[str, Any]]:
    """Name, labels, nodes, and pictures to train and to test, of each vertical."""
    annotated = given.annotated
    group_of = torch.from_numpy(annotated.group_of)
    pictures = {}
    for split in ("train", "test"):
        targets = getattr(run.data, split).targets
        pairs = torch.stack([targets.row_indices(), group_of[targets.indices]]).unique(dim=1)
        pictures[split] = torch.bincount(pairs[1], minlength=annotated.num_groups).tolist()
    nodes = given.grouping.sizes - annotated.sizes
    return [
        {
            "name": name,
            "labels": int(annotated.sizes[g]),
            "nodes": int(nodes[g]),
            "train": pictures["train"][g],
            "test": pictures["test"][g],
        }
        for g, name in enumerate(annotated.names)
    ]


def _spread(measured: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Mean and standard deviation over seeds of each vertical's average precision."""
    values = np.array([each["pvap"] for each in measured])
    std = values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return {
        name: [None if np.isnan(value) else float(value) for value in row]
        for name, row in (("mean", values.mean(0)), ("std", std))
    }


def _head(run: Run, row: str) -> dict[str, Any]:
    student, config = STUDENTS[row], run.config.students
    pacing = student.pacing
    return {
        "kind": student.kind,
        "top1": config.top1,
        "top2": config.top2,
        "generic": round(student.generic * config.top2),
        "distilled": student.distilled,
        "pacing": None if pacing is None else vars(pacing),
    }


def _gamma(network: HeadedNetwork, given: Vocabulary) -> list[float]:
    """Mean gamma of each vertical over the square root of its labels."""
    pacing = network.head.pacing
    assert pacing is not None
    gamma = pacing.factors.detach()
    if pacing.level == "label":
        gamma = torch.stack([part.mean() for part in gamma.split(list(pacing.out_sizes))])
    return (gamma / torch.tensor(pacing.out_sizes).sqrt()).tolist()


@torch.no_grad()
def _examples(
    run: Run, given: Vocabulary, student: HeadedNetwork
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Test pictures of each vertical with the student's three best labels (figure 6)."""
    test = run.data.test
    group_of = torch.from_numpy(given.annotated.group_of)[test.targets.indices]
    rows = test.targets.row_indices()
    generator = torch.Generator().manual_seed(run.config.seed)
    examples: list[dict[str, Any]] = []
    pictures: list[np.ndarray] = []
    for group, vertical in enumerate(given.annotated.names):
        mine = rows[group_of == group].unique()
        picked = mine[torch.randperm(len(mine), generator=generator)[:EXAMPLES]].tolist()
        images, targets = test.__getitems__(picked)
        scores = student(run.config.augmentation.normalize(images)).sigmoid()
        best = scores.topk(min(3, scores.shape[1]))
        for image, annotated, values, labels in zip(
            images, targets.tolist(), best.values.tolist(), best.indices.tolist(), strict=True
        ):
            right = {
                *annotated,
                *given.hierarchy.ancestors.select(torch.tensor(annotated)).indices.tolist(),
            }
            names = given.label_space.names
            examples.append(
                {
                    "picture": len(pictures),
                    "vertical": vertical,
                    "annotated": [names[label] for label in annotated],
                    "top": [
                        [names[label], value, label in right]
                        for label, value in zip(labels, values, strict=True)
                    ],
                }
            )
            pictures.append(_picture(image))
    return examples, np.stack(pictures)


def _picture(image: Tensor) -> np.ndarray:
    """uint8 ``[H, W]``, or ``[H, W, 3]`` in colour."""
    return image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()


def _found(run: Run, given: Vocabulary, found: Vocabulary | None) -> dict[str, Any] | None:
    """How far the verticals that were found are the given ones, and what they are good for."""
    if found is None or found is given:
        return None
    test = run.features["test"].flatten(0, 1)
    names = run.data.label_space.names
    rows = [row for row in ("fc_sc", "paced", "found", "found_paced") if row in run.networks]
    return {
        **compare_verticals(given.annotated, found.annotated, names),
        "mpvap_on_found": {
            row: measure(
                run.networks[row], feature_batches(test, run.data.test.targets), found.annotated
            )["mpvap"]
            for row in rows
        },
    }
