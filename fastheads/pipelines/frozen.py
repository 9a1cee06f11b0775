"""What a frozen network says about each picture, computed once and trained on many times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastheads.data import Augmentation
from fastheads.nn import AugmentedClassifier
from fastheads.targets import SparseTargets
from fastheads.training.batches import mix

BATCH = 512  # rows in a step without gradients


@dataclass(frozen=True)
class Frozen:
    """Outputs of the frozen layers on one data set, over some augmented passes.

    Attributes:
        features: ``[passes, N, *feature_shape]``, what heads read.
        hidden: ``[passes, N, hidden]``, what the classifier reads.
        targets: of the ``N`` rows.
    """

    features: Tensor
    hidden: Tensor
    targets: SparseTargets

    @property
    def passes(self) -> int:
        return len(self.features)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return tuple(self.features.shape[2:])

    def batches(self, first_pass_only: bool = False) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features, hidden units and row numbers, batch after batch and pass after pass."""
        for number in range(1 if first_pass_only else self.passes):
            for start in range(0, self.targets.num_rows, BATCH):
                rows = torch.arange(start, min(start + BATCH, self.targets.num_rows))
                part = slice(start, start + len(rows))
                yield self.features[number, part], self.hidden[number, part], rows


class FrozenRows(Dataset[tuple[Tensor, SparseTargets]]):
    """Map-style rows ``[features | hidden]`` over all passes; each epoch sees each pass once."""

    def __init__(self, frozen: Frozen) -> None:
        self.frozen = frozen
        self.features, self.hidden = frozen.features.flatten(0, 1), frozen.hidden.flatten(0, 1)

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, SparseTargets]:
        picked = torch.as_tensor(rows)
        targets = self.frozen.targets.select(picked % self.frozen.targets.num_rows)
        return torch.cat([self.features[picked].flatten(1), self.hidden[picked]], 1), targets


class OnFrozen(nn.Module):
    """Runs the classifier and its heads on rows of :class:`FrozenRows`, labels in group order.

    ``stack`` are layers that are still to be trained between features and classifier, for the
    base network itself; then rows hold features alone.
    """

    def __init__(
        self, top: AugmentedClassifier, feature_shape: Sequence[int], stack: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.top, self.stack = top, stack
        self.feature_shape = tuple(feature_shape)
        self.num_features = math.prod(feature_shape)

    def forward(self, rows: Tensor) -> Tensor:
        features = rows[:, : self.num_features].unflatten(1, self.feature_shape)
        hidden = rows[:, self.num_features :] if self.stack is None else self.stack(features)
        return self.top.grouped(features, hidden)

    def loss(
        self, loss: Callable[[Tensor, SparseTargets], Tensor]
    ) -> Callable[[Tensor, SparseTargets], Tensor]:
        """The loss of label targets, for logits in group order."""
        if not len(self.top.heads):
            return loss
        position: Tensor = self.top.heads[-1].position

        def on_groups(logits: Tensor, targets: SparseTargets) -> Tensor:
            return loss(logits, targets._replace(indices=position[targets.indices]))

        return on_groups


@torch.no_grad()
def extract(
    network: nn.Module,
    data: Any,
    passes: int,
    augmentation: Augmentation,
    seed: int,
    title: str,
) -> list[Tensor]:
    """Each output of a frozen network on all rows: ``[max(passes, 1), N, ...]``, float32.

    Args:
        network: gives one tensor or a tuple of them; runs on the GPU if there is one.
        data: map-style data set of uint8 pictures.
        passes: augmented copies of each picture; 0 for the picture as it is.
        augmentation: of the copies, and the normalisation of the pictures as they are.
        seed: of the augmentation.
        title: shown with the progress.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.eval().to(device)
    generator = torch.Generator(device).manual_seed(seed)
    starts = range(0, len(data), BATCH)
    steps = [(number, start) for number in range(max(passes, 1)) for start in starts]
    whole: list[Tensor] = []
    for number, start in track(steps, title, transient=True):
        rows = range(start, min(start + BATCH, len(data)))
        images = data.__getitems__(list(rows))[0].to(device)
        inputs = augmentation(images, generator) if passes else augmentation.normalize(images)
        parts = network(channels_last(inputs))
        parts = [part.cpu() for part in (parts if isinstance(parts, tuple) else (parts,))]
        if not whole:
            shape = (max(passes, 1), len(data))
            whole = [part.new_empty(*shape, *part.shape[1:]) for part in parts]
        for out, part in zip(whole, parts, strict=True):
            out[number, start : rows.stop] = part
    network.cpu()
    return whole


def augmented_batches(
    data: Any,
    passes: int,
    augmentation: Callable[[Tensor, torch.Generator], Tensor],
    seed: int,
    start: int = 0,
) -> Iterator[tuple[Tensor, SparseTargets]]:
    """Augmented pictures and their labels in blocks of rows ``pass * len(data) + picture``.

    The draws of a block follow from ``seed``, its pass and its place alone: the same pictures come
    out whoever asks again, from whichever block on.

    Args:
        data: map-style data set of uint8 pictures.
        passes: augmented copies of each picture.
        augmentation: of the copies.
        seed: of the augmentation.
        start: the first row; a multiple of ``BATCH`` within its pass.
    """
    generator = torch.Generator()
    for number in range(passes):
        for begin in range(0, len(data), BATCH):
            if number * len(data) + begin < start:
                continue
            images, targets = data.__getitems__(list(range(begin, min(begin + BATCH, len(data)))))
            generator.manual_seed(mix(seed, number, begin))
            yield channels_last(augmentation(images, generator)), targets


def picture_batches(
    data: Any, normalize: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor, SparseTargets]]:
    """Pictures as they are, normalised, and their labels, batch by batch."""
    for start in range(0, len(data), BATCH):
        images, targets = data.__getitems__(list(range(start, min(start + BATCH, len(data)))))
        yield channels_last(normalize(images)), targets


def channels_last(images: Tensor) -> Tensor:
    """The memory format in which convolutions are fastest."""
    return images.contiguous(memory_format=torch.channels_last)
