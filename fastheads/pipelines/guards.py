"""Guards against forgetting: what an update may do beyond training on the new pictures alone.

The paper has none of them ("we will never be retraining on older datasets", paper 001, 5.2).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastheads.data.images import ImageDataset, Pictures
from fastheads.targets import SparseTargets

LEAST_FOR_NORMS = 8  # pictures of a batch; the statistics of fewer are noise


@dataclass(frozen=True)
class GuardsConfig:
    """How an update keeps what a network has learned before; by default, as the paper, not at all.

    Attributes:
        lr_factor: learning rate of the update, as a multiple of that of its training.
        freeze: names of modules, or what they begin with (``stages.0``), that stay as they are:
            weights, and statistics of their norms.
        passes: augmented copies of each picture that the frozen first layers read, once and for
            all: an epoch of an update is then one over all copies, and there are so many times
            fewer. 0: they read another copy in each epoch, beside the layers that learn.
        freeze_norms: norms with running statistics keep these, and their weights. So they do, asked
            or not, where a batch holds fewer than 8 pictures, which give no statistics.
        distillation: weight of :func:`distillation_loss` beside the loss of the labels (Li and
            Hoiem, "Learning without forgetting", 2016).
        replay: old pictures that each epoch mixes in; 0 as in the paper.
        polyak: decay of an average of the weights along the update, which it ends with, such as
            0.99 (Izmailov and others, "Averaging weights leads to wider optima", 2018).
        averaging: share ``a`` of the weights before in the result, ``(1 - a) after + a before``,
            also of the statistics of norms (Wortsman and others, "Robust fine-tuning of zero-shot
            models", 2022).
    """

    lr_factor: float = 1.0
    freeze: tuple[str, ...] = ()
    passes: int = 0
    freeze_norms: bool = False
    distillation: float = 0.0
    replay: int = 0
    polyak: float | None = None
    averaging: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "freeze", tuple(self.freeze))
        if not self.lr_factor > 0:
            raise ValueError(f"lr_factor must be above 0, got {self.lr_factor}")
        for name in ("passes", "distillation", "replay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.polyak is not None and not 0 < self.polyak < 1:
            raise ValueError(f"polyak must be between 0 and 1, got {self.polyak}")
        if not 0 <= self.averaging <= 1:
            raise ValueError(f"averaging must be between 0 and 1, got {self.averaging}")

    def keeps_norms(self, batch: int) -> bool:
        """Whether norms stay as they are in training with ``batch`` pictures in a step."""
        return self.freeze_norms or batch < LEAST_FOR_NORMS

    def frozen(self, network: nn.Module, batch: int) -> list[nn.Module]:
        """The modules that stay as they are, in training with ``batch`` pictures in a step.

        Raises:
            ValueError: if a name in ``freeze`` belongs to no module.
        """
        found: list[nn.Module] = []
        for name in self.freeze:
            try:
                found.append(network.get_submodule(name))
            except AttributeError:
                children = [child for child, _ in network.named_children()]
                raise ValueError(
                    f"freeze must name modules of the network, such as {children}, got {name!r}"
                ) from None
        if self.keeps_norms(batch):
            norms = (m for m in network.modules() if getattr(m, "running_mean", None) is not None)
            found.extend(norms)
        return found


def distillation_loss(logits: Tensor, before: Tensor, targets: SparseTargets) -> Tensor:
    """How far the outputs for labels that a picture does not carry have moved.

    ``1 / 2 mean_i (d_i - mean(d))^2`` with ``d = logits - before``, over the labels ``i`` that the
    picture does not carry, averaged over pictures. This is what the softened cross-entropy of Li
    and Hoiem (eqs. 2-4), times ``T^2`` and less its least value, becomes for high temperatures
    ``T`` (Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, eq. 4); like
    the margin loss it does not see a shift of all logits. Their old and new tasks have outputs of
    their own; here the label space is one, and the labels that a new picture carries are what it
    is to teach.

    Args:
        logits: ``[N, L]``, floating.
        before: ``[N, L]``, the logits of the network before.
        targets: the labels of the ``N`` pictures.

    Returns:
        A scalar, float32 or float64. A picture with all labels adds 0.

    Differentiable in ``logits``.
    """
    moved = logits.double() if logits.dtype == torch.float64 else logits.float()
    moved = moved - before.to(moved.dtype)
    held = torch.ones_like(moved)
    held[targets.row_indices(), targets.indices] = 0
    count = held.sum(1, keepdim=True).clamp(min=1)
    centred = (moved - (moved * held).sum(1, keepdim=True) / count) * held
    return (centred.square() / (2 * count)).sum(1).mean()


class Distilled(nn.Module):
    """A network that gives the loss of a batch: that of its labels, and the distillation loss.

    Attributes:
        network: that learns.
        before: a copy of it, as it was. Modules that are frozen run once for both, as long as
            nothing before them learns.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Any, SparseTargets], Tensor],
        guards: GuardsConfig,
    ) -> None:
        super().__init__()
        self.network, self.loss, self.weight = network, loss, guards.distillation
        self.before = copy.deepcopy(network).eval().requires_grad_(False)
        self._shared = []
        for name in guards.freeze:
            if any(name.startswith(f"{outer}.") for outer in guards.freeze):
                continue  # shared with what it lies in
            self._shared.append(_Shared(network.get_submodule(name)))
            self.before.set_submodule(name, self._shared[-1])

    def train(self, mode: bool = True) -> Distilled:
        """Leaves the network before as it predicts: statistics of its norms, no dropout."""
        super().train(mode)
        self.before.eval()
        return self

    def forward(self, images: Tensor, targets: SparseTargets) -> Tensor:
        logits = self.network(images)
        with torch.no_grad():
            before = self.before(images)
        held = distillation_loss(logits, before, targets)
        return self.loss(logits, targets) + self.weight * held

    def release(self) -> None:
        """Takes the hooks off the frozen modules."""
        for shared in self._shared:
            shared.release()


class _Shared(nn.Module):
    """A frozen module that gives again what it gave last, where the input is the same tensor."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._frozen = (module,)  # no child: the weights are those of the network that learns
        self._last: tuple[Tensor, int, Tensor, int] | None = None
        self._hook = module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._last = (args[0], args[0]._version, output, output._version)

    def forward(self, x: Tensor) -> Tensor:
        last, self._last = self._last, None
        if last is not None and last[0] is x and last[1] == x._version:
            output, version = last[2:]
            if output._version == version:  # what follows may write over it
                return output
        return cast(Tensor, self._frozen[0](x))

    def release(self) -> None:
        self._hook.remove()


@torch.no_grad()
def average_weights(network: nn.Module, before: dict[str, Tensor], share: float) -> None:
    """Moves weights and statistics of ``network`` to ``(1 - share) after + share before``.

    Weights that have not moved keep their bits; counters stay.

    Args:
        network: changed in place.
        before: its state dict before.
        share: of the weights before.
    """
    for name, after in chain(network.named_parameters(), network.named_buffers()):
        if name in before and after.is_floating_point():
            after.lerp_(before[name].to(after.device), share)


def replay_buffer(data: ImageDataset, count: int, seed: int) -> Pictures:
    """``count`` of the pictures, as evenly over their labels as there are pictures; all, if fewer.

    Args:
        data: with one label a picture; where there are several, the rarest counts.
        count: of pictures; at least 0.
        seed: of the choice.
    """
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    drawn = torch.from_numpy(np.random.default_rng(seed).permutation(len(data)))
    targets = data.targets.select(drawn)
    # The first picture of every label, then the second of every label, ...
    by_label = targets.indices.argsort(stable=True)
    sizes = targets.indices.bincount(minlength=1)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    turn = torch.empty_like(by_label)
    turn[by_label] = torch.arange(len(by_label)) - starts
    turn = turn.new_full((len(data),), len(data)).scatter_reduce_(
        0, targets.row_indices(), turn, "amin"
    )
    chosen = drawn[turn.argsort(stable=True)[:count]].sort().values
    return Pictures(data.images, data.rows[chosen.numpy()], data.targets.select(chosen))


class Joined(Dataset[tuple[Tensor, SparseTargets]]):
    """The pictures of several data sets, one after the other.

    Attributes:
        parts: the data sets.
        shape: ``[channels, height, width]`` of every picture.
        targets: the labels of all pictures.
    """

    targets: SparseTargets

    def __init__(self, *parts: Pictures | Joined) -> None:
        shapes = [list(picture_shape(part)) for part in parts]
        for shape in shapes:
            if shape != shapes[0]:
                raise ValueError(f"replay must hold pictures of shape {shapes[0]}, got {shape}")
        self.parts, self.shape = parts, shapes[0]
        self.targets = reduce(join_targets, (part.targets for part in parts))
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, SparseTargets]:
        """A whole batch: uint8 ``[B, channels, size, size]`` and its targets."""
        wanted = np.asarray(rows, dtype=np.int64)
        part_of = np.searchsorted(self._ends, wanted, side="right")
        images = torch.empty((len(wanted), *self.shape), dtype=torch.uint8)
        for number in np.unique(part_of):
            places = np.flatnonzero(part_of == number)
            first = self._ends[number] - len(self.parts[number])
            images[places], _ = self.parts[number].__getitems__((wanted[places] - first).tolist())
        return images, self.targets.select(torch.from_numpy(wanted))


def picture_shape(part: Pictures | Joined) -> tuple[int, ...]:
    return tuple(part.shape if isinstance(part, Joined) else part.images.shape[1:])


def join_targets(first: SparseTargets, second: SparseTargets) -> SparseTargets:
    """The rows of ``first``, then those of ``second``."""
    values = None
    if first.values is not None or second.values is not None:
        given = next(v for v in (first.values, second.values) if v is not None)
        values = torch.cat(
            [
                given.new_ones(part.indices.numel()) if part.values is None else part.values
                for part in (first, second)
            ]
        )
    offsets = torch.cat([first.offsets, second.offsets[1:] + first.offsets[-1]])
    return SparseTargets(torch.cat([first.indices, second.indices]), offsets, values)
