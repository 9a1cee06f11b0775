"""Teachers that exist already: those of an earlier run, or any torchvision or timm checkpoint."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from fastheads.data import Normalize
from fastheads.labels import Grouping, LabelSpace, join_names
from fastheads.pipelines.foreign_network import build_network, fill_network, first_line
from fastheads.pipelines.teacher_task import DESCRIPTION, WEIGHTS, read_network
from fastheads.pipelines.teachers import Prepare, Teacher

KEYS = ("vertical", "model", "checkpoint", "labels")  # that an entry without run needs


@dataclass(frozen=True)
class TeacherFile:
    """One entry of a description of teachers.

    Attributes:
        vertical: name of the vertical that it teaches.
        run: folder of a teacher that this package has trained; all else is then known.
        model: ``timm:NAME`` or ``torchvision:NAME``.
        checkpoint: its weights, .safetensors or what ``torch.save`` wrote.
        labels: label names of its outputs: a JSON list, a JSON object from output to name, or a
            CSV table with the columns output and label. Outputs without a name of the student's
            are left out.
        outputs: of the network; by default as many as ``labels`` tells of.
        size: height and width that it takes; by default those of the pictures.
        channels: of its pictures.
        mean: of the normalisation that it expects.
        std: likewise.
        options: further arguments of the model.
    """

    vertical: str
    run: Path | None = None
    model: str | None = None
    checkpoint: Path | None = None
    labels: Path | None = None
    outputs: int | None = None
    size: int | None = None
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    options: dict[str, Any] | None = None


def load_teachers(
    path: Path, label_space: LabelSpace, grouping: Grouping, normalize: Normalize | None = None
) -> list[Teacher]:
    """Loads a teacher for each vertical, running no code that a file might hold.

    Args:
        path: a YAML or JSON list of :class:`TeacherFile` entries, whose paths are relative to it::

                - vertical: dogs
                  model: timm:resnet18
                  checkpoint: dogs.safetensors
                  labels: dogs.json
                - vertical: cats
                  run: runs/concentrate/teachers/cats

            or a folder of teachers that this package has trained, or the run that has.
        label_space: of the student.
        grouping: the verticals of its labels.
        normalize: how the run normalises pictures; as by default if ``None``.

    Returns:
        One teacher a vertical, in the order of ``grouping``, in eval mode, on the CPU.

    Raises:
        ValueError: if a file is missing, cannot be read or does not fit, or teachers and verticals
            do not match.
        ModuleNotFoundError: if timm or torchvision is wanted and not installed.
    """
    path = Path(path)
    found: dict[str, Teacher] = {}
    for entry in _own(path) if path.is_dir() else _entries(path):
        if entry.vertical not in grouping.names:
            raise ValueError(
                f"teacher {entry.vertical!r} of {path} must be for one of the verticals "
                f"{join_names(grouping.names)}"
            )
        if entry.vertical in found:
            raise ValueError(f"{path} must have one teacher for {entry.vertical!r}, got two")
        load = _load_own if entry.run is not None else _load_foreign
        found[entry.vertical] = load(entry, label_space, normalize or Normalize())
    missing = [name for name in grouping.names if name not in found]
    if missing:
        raise ValueError(
            f"{path} must have a teacher for each vertical, got none for {join_names(missing)}"
        )
    return [found[name] for name in grouping.names]


def _own(folder: Path) -> list[TeacherFile]:
    """The teachers in the folder of a run, or in its folder of teachers."""
    places = (folder / "given" / "teachers", folder / "teachers", folder)
    inner = next(place for place in places if place.is_dir())
    described = sorted(inner.glob(f"*/{DESCRIPTION}"))
    if not described:
        raise ValueError(f"teachers must lie in a folder that a run has written, got {folder}")
    return [TeacherFile(_json(path)["name"], run=path.parent) for path in described]


def _entries(path: Path) -> list[TeacherFile]:
    """The entries of a description, with paths that are relative to it made whole."""
    try:
        rows = yaml.safe_load(_text(path))  # JSON is YAML
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be YAML or JSON, got {first_line(error)}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} must be a list of teachers, each with its settings by name")
    known = {field.name for field in fields(TeacherFile)}
    entries = []
    for number, row in enumerate(rows, 1):
        where = f"teacher {row.get('vertical', number)!r} of {path}"
        if unknown := set(row) - known:
            raise ValueError(f"{where} must have settings among {sorted(known)}, got {unknown}")
        needed = (
            {"vertical", "run"} if "run" in row else {"vertical", "model", "checkpoint", "labels"}
        )
        if missing := sorted(needed - set(row)):
            raise ValueError(f"{where} must have {join_names(missing)}, got none")
        for name in ("run", "checkpoint", "labels"):
            if name in row:
                row[name] = path.parent / row[name]
        for name in ("mean", "std"):
            if name in row:
                row[name] = tuple(row[name])
        entries.append(TeacherFile(**row))
    return entries


def _load_own(entry: TeacherFile, label_space: LabelSpace, normalize: Normalize) -> Teacher:
    folder = entry.run
    assert folder is not None
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).exists():
            raise ValueError(
                f"teacher {entry.vertical!r} must be a finished one, got {folder} without {name}"
            )
    stored = _json(folder / DESCRIPTION)
    channels, size, _ = stored["image_shape"]
    own = Normalize(*(tuple(stored["normalize"][key]) for key in ("mean", "std")))
    try:
        network = read_network(folder)
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{folder / WEIGHTS} must fit {folder / DESCRIPTION}, got {first_line(error)}"
        ) from None
    labels = _known(stored["labels"], label_space)
    return Teacher(entry.vertical, network, labels, Prepare(size, channels, own, normalize))


def _load_foreign(entry: TeacherFile, label_space: LabelSpace, normalize: Normalize) -> Teacher:
    assert entry.model and entry.labels and entry.checkpoint  # the entries have been checked
    names = _output_names(entry.labels)
    outputs = entry.outputs or len(names)
    if len(names) > outputs:
        raise ValueError(
            f"{entry.labels} must name at most the {outputs} outputs of teacher "
            f"{entry.vertical!r}, got output {len(names) - 1}"
        )
    labels = _known([*names, *[None] * (outputs - len(names))], label_space)
    try:
        network = build_network(entry.model, outputs, entry.channels, entry.options)
        fill_network(network, entry.checkpoint)
    except (ValueError, ModuleNotFoundError) as error:
        raise type(error)(f"teacher {entry.vertical!r}: {error}") from None
    own = Normalize(entry.mean, entry.std)
    prepare = Prepare(entry.size, entry.channels, own, normalize)
    return Teacher(entry.vertical, network.eval(), labels, prepare)


def _output_names(path: Path) -> list[str | None]:
    """The label name of each output, ``None`` where the file tells of none."""
    pairs: Any
    if path.suffix == ".json":
        stored = _json(path)
        pairs = list(enumerate(stored)) if isinstance(stored, list) else stored
    else:
        rows = csv.DictReader(_text(path).splitlines())
        if not {"output", "label"} <= set(rows.fieldnames or ()):
            raise ValueError(
                f"{path} must have the columns output and label, got {rows.fieldnames}"
            )
        pairs = [(row["output"], row["label"]) for row in rows]
    try:
        names = {int(output): str(name) for output, name in dict(pairs).items()}
    except (ValueError, TypeError):
        names = {}
    if not names or min(names) < 0:
        raise ValueError(f"{path} must give names to outputs by their numbers, from 0")
    return [names.get(output) for output in range(max(names) + 1)]


def _known(names: list[str | None], label_space: LabelSpace) -> Tensor:
    number = {name: label for label, name in enumerate(label_space.names)}
    return torch.tensor([-1 if name is None else number.get(name, -1) for name in names])


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON, got {first_line(error)}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} must be a file that can be read ({error.strerror})") from None
