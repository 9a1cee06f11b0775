"""An update of the later layers alone: the first ones, frozen, read each picture only once.

What they say is kept, as in Pellegrini, Graffieti, Lomonaco, Maltoni, "Latent replay for real-time
continual learning", 2020, there of old pictures, here of new ones too.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastheads.models.staged import Staged
from fastheads.pipelines.frozen import augmented_batches, channels_last
from fastheads.pipelines.guards import GuardsConfig, distillation_loss
from fastheads.targets import SparseTargets
from fastheads.training.fit import Augment, Loss


class LaterLayers(nn.Module):
    """The layers behind the frozen first ones; gives the loss of a batch of :class:`ReadPictures`.

    A row holds what the first layers say about a picture and, for the distillation loss, what the
    classifier read of it before the update.

    Attributes:
        layers: that learn; their weights are those of the network.
        classifier: the last of them as it was before.
    """

    def __init__(self, network: nn.Module, loss: Loss, guards: GuardsConfig) -> None:
        """Copies what is to stay as it was.

        Raises:
            ValueError: if ``guards.freeze`` does not name first layers of a chain of layers.
        """
        super().__init__()
        first, self.layers = _split(network, guards.freeze)
        self.loss, self.weight = loss, guards.distillation
        before = copy.deepcopy(self.layers).requires_grad_(False)
        self.classifier = before[-1]
        self._before = (first, before[:-1])  # no children: neither trained nor in checkpoints
        # Of the features of one picture, channels last, and of what the classifier reads of them.
        self._shapes = torch.Size(), torch.Size()

    def train(self, mode: bool = True) -> LaterLayers:
        """Leaves the classifier before as it predicts."""
        super().train(mode)
        self.classifier.eval()
        return self

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """``[N, ...]``, as the network takes them, to rows ``[N, length]``."""
        first, rest = (layers.eval().to(images.device) for layers in self._before)
        features = first(images)
        parts = [features.movedim(1, -1), rest(features) if self.weight else features[:, :0]]
        self._shapes = parts[0].shape[1:], parts[1].shape[1:]
        return torch.cat([part.flatten(1) for part in parts], 1)

    def forward(self, rows: Tensor, targets: SparseTargets) -> Tensor:
        shape, hidden_shape = self._shapes
        features, hidden = rows.tensor_split([math.prod(shape)], 1)
        features = features.unflatten(1, shape).movedim(-1, 1)
        logits = self.layers(channels_last(features) if features.ndim == 4 else features)
        value = self.loss(logits, targets)
        if not self.weight:
            return value
        before = self.classifier(hidden.unflatten(1, hidden_shape))
        return value + self.weight * distillation_loss(logits, before, targets)


class ReadPictures(Dataset[tuple[Tensor, SparseTargets]]):
    """Rows that were read from copies of pictures, all when the first row is asked for.

    Map-style: row ``pass * N + picture`` of each of ``N`` pictures.

    Args:
        read: pictures to float32 rows ``[N, length]``.
        pictures: map-style, uint8.
        passes: copies of each picture.
        augment: ``augment(pictures, generator)``; None for pictures as they are.
        seed: of the copies.
        folder: of the file that rows lie in. It has no name there, so that it is gone with this
            object, also if the process is killed.
        device: that pictures are read on.
    """

    def __init__(
        self,
        read: Callable[[Tensor], Tensor],
        pictures: Any,
        passes: int,
        augment: Augment | None,
        seed: int,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.read, self.pictures, self.passes = read, pictures, passes
        self.augment = augment if augment is not None else lambda images, _: images
        self.seed, self.folder, self.device = seed, folder, device
        self._rows: Tensor | None = None

    def __len__(self) -> int:
        return self.passes * len(self.pictures)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, SparseTargets]:
        if self._rows is None:
            self._rows = self._read_all()
        picked = torch.as_tensor(rows)
        return self._rows[picked], self.pictures.targets.select(picked % len(self.pictures))

    def _read_all(self) -> Tensor:
        whole, done = torch.empty(0), 0
        for images, _ in augmented_batches(self.pictures, self.passes, self.augment, self.seed):
            part = self.read(images.to(self.device))
            whole = whole if done else self._file(len(self), part.shape[1])
            whole[done : done + len(part)] = part
            done += len(part)
        return whole

    def _file(self, *shape: int) -> Tensor:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rows.{os.getpid()}"
        mapped = torch.from_file(str(path), shared=True, size=math.prod(shape))
        path.unlink()
        return mapped.view(shape)


def _split(network: nn.Module, freeze: Collection[str]) -> tuple[nn.Sequential, nn.Sequential]:
    """The frozen first layers of a chain, and the others; with the weights of the network."""
    if isinstance(network, Staged):
        chain = network.chain
    elif type(network) is nn.Sequential:
        chain = dict(network.named_children())
    else:
        raise ValueError(
            "passes must be 0 for a network that is no chain of layers (nn.Sequential, senet, "
            f"inception_resnet), got {type(network).__name__}"
        )
    names, layers, count = list(chain), list(chain.values()), len(freeze)
    if not 0 < count < len(names) or set(freeze) != set(names[:count]):
        raise ValueError(
            f"freeze must name the first of the layers {', '.join(names)} where there are passes, "
            f"got {list(freeze)}"
        )
    return nn.Sequential(*layers[:count]), nn.Sequential(*layers[count:])
