"""What a process needs to train one teacher on the pictures of its vertical (paper 002, eq. 1)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fastheads.data import Augmentation
from fastheads.data.images import Pictures
from fastheads.losses import sigmoid_cross_entropy
from fastheads.models import BaseConfig, BaseNetwork
from fastheads.nn import Standardize
from fastheads.training import TrainConfig, fit, load_weights, save_weights
from fastheads.training.checkpoint import claim, read_json
from fastheads.training.config import FREE_SETTINGS

DESCRIPTION, WEIGHTS = "teacher.json", "model.safetensors"
MEASURED = 1024  # pictures that tell mean and deviation of the first features


@dataclass(frozen=True)
class TeacherTask:
    """All that a process needs to train one teacher."""

    name: str
    folder: Path
    pictures: Pictures
    image_shape: tuple[int, ...]
    num_labels: int
    base: BaseConfig
    training: TrainConfig
    augmentation: Augmentation
    trunk: dict[str, Tensor] | None

    @property
    def steps(self) -> int:
        training = self.training
        return training.epochs * steps_per_epoch(len(self.pictures), training.batch_size)

    def run(self, watch: Callable[[int, float], None] | None = None) -> None:
        """Trains the teacher, or the rest of it, and writes its weights into its folder."""
        train_teacher(self, watch)


def describe(task: TeacherTask, labels: list[str]) -> None:
    """Writes what the teacher is, unless the folder holds another one, which is an error."""
    training = {k: v for k, v in asdict(task.training).items() if k not in FREE_SETTINGS}
    of_data, of_trunk = hashlib.sha256(), hashlib.sha256()
    for part in (task.pictures.rows, *(t.numpy() for t in task.pictures.targets[:2])):
        of_data.update(part.tobytes())
    for tensor in (task.trunk or {}).values():
        of_trunk.update(tensor.detach().cpu().numpy().tobytes())
    description = {
        "name": task.name,
        "labels": labels,
        "image_shape": task.image_shape,
        "base": asdict(task.base),
        "normalize": asdict(task.augmentation.normalize),
        "training": training,
        "augmentation": asdict(task.augmentation),
        "pictures": of_data.hexdigest(),
        "trunk": of_trunk.hexdigest() if task.trunk else None,
    }
    claim(task.folder, DESCRIPTION, description)


def train_teacher(task: TeacherTask, watch: Callable[[int, float], None] | None = None) -> None:
    """Trains one teacher, or the rest of one, and writes its weights into its folder."""
    torch.manual_seed(task.training.seed)
    network = BaseNetwork(task.image_shape, task.num_labels, task.base)
    if task.trunk is not None:
        _start_from(network.trunk, task.trunk, task.name)
    standardize = network.stack[0]
    assert isinstance(standardize, Standardize)
    images, _ = task.pictures.__getitems__(list(range(min(MEASURED, len(task.pictures)))))
    with torch.no_grad():  # in training mode: a new trunk has no statistics yet
        generator = torch.Generator().manual_seed(task.training.seed)
        standardize.measure(network.train().trunk(task.augmentation(images, generator)))
    fit(
        network,
        task.pictures,
        sigmoid_cross_entropy,
        task.training,
        folder=task.folder,
        augment=task.augmentation,
        watch=watch,
        name=f"teacher {task.name}",
        quiet=True,
    )
    save_weights(network.cpu(), task.folder / WEIGHTS)


def read_network(folder: Path) -> BaseNetwork:
    """The network of a teacher's folder, in eval mode."""
    stored = read_json(folder / DESCRIPTION)
    base = BaseConfig(*(tuple(stored["base"][key]) for key in ("channels", "hidden")))
    network = BaseNetwork(tuple(stored["image_shape"]), len(stored["labels"]), base)
    load_weights(network, folder / WEIGHTS)
    return network.eval()


def steps_per_epoch(rows: int, batch_size: int) -> int:
    return rows // min(batch_size, rows)


def _start_from(trunk: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in trunk.state_dict().items()}
    given = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    if shapes != given:
        raise ValueError(
            f"trunk must have the shape of the teachers' trunk to start teacher {name!r}, got "
            "other blocks: set channels to those of the trunk, or from_trunk to false"
        )
    trunk.load_state_dict(weights)
