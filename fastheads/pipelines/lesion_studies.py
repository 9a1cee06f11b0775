"""Lesions of a trained network: blocks deleted, blocks in another order, gradients along one path.

Veit, "Conditional networks", 2018, sections 4.3 and 4.4; Veit, Wilber, Belongie, "Residual networks
behave like ensembles of relatively shallow networks", 2016, arXiv:1605.06431.

Every lesion is drawn first, by a generator of its own, and then measured: what is drawn does not
depend on what has been measured before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from fastheads.losses import softmax_cross_entropy
from fastheads.metrics.hits import top_hits
from fastheads.nn.residual_blocks import ResidualBlock, plain_layers, residual_blocks
from fastheads.nn.residual_blocks import require_residual_blocks as require
from fastheads.nn.switched_block import switched
from fastheads.targets import SparseTargets
from fastheads.training.batches import mix

Batches = Iterable[tuple[Tensor, SparseTargets]]
SCALE = 2.0**60  # of losses: along 50 blocks the gradient falls below what float32 holds


def lesionable_blocks(model: nn.Module) -> list[ResidualBlock]:
    """The residual blocks of a network, or the layers of a plain one that can be left out.

    Raises:
        ValueError: if there is neither, or a branch changes the shape without a projection.
    """
    found, unknown = residual_blocks(model)
    if not found and not unknown:
        try:
            return plain_layers(model)
        except ValueError:
            pass  # then the network is told what it must have
    return require(model)


def check_evaluating(model: nn.Module) -> None:
    """ValueError if a batch norm is in training mode: each picture would change the network."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ValueError(
                "model must be in evaluation mode while it is measured, "
                f"got batch norm {name!r} in training mode: call model.eval()"
            )


@torch.no_grad()
def error_rate(model: nn.Module, batches: Batches) -> float:
    """The share of pictures whose best label is none of theirs; those without labels do not count.

    Args:
        model: gives scores ``[N, labels]``.
        batches: pictures as the model takes them, on its device, and their labels.

    Raises:
        ValueError: if a batch norm is in training mode, or no picture has a label.
    """
    check_evaluating(model)
    wrong = seen = 0
    for images, targets in batches:
        hits = top_hits(model(images).cpu(), targets, 1).any(1)
        labelled = targets.counts > 0
        wrong += int((labelled & ~hits).sum())
        seen += int(labelled.sum())
    if not seen:
        raise ValueError("batches must hold a picture with a label, got none")
    return wrong / seen


@contextmanager
def deleted(
    model: nn.Module, blocks: Sequence[ResidualBlock], indices: Iterable[int]
) -> Iterator[None]:
    """Without the branches of some blocks: ``y = shortcut(x)`` (section 4.3.1)."""
    with switched(model, blocks) as switches:
        for index in indices:
            switches[index].open = False
        yield


@contextmanager
def reordered(
    model: nn.Module, blocks: Sequence[ResidualBlock], order: Sequence[int]
) -> Iterator[None]:
    """With block ``order[i]`` in the place of block ``i`` (section 4.3.3)."""
    if sorted(order) != list(range(len(blocks))):
        raise ValueError(f"order must hold each of the {len(blocks)} blocks once, got {order}")
    with switched(model, blocks) as switches:
        for switch, other in zip(switches, order, strict=True):
            switch.branch, switch.shortcut = blocks[other].branch, blocks[other].shortcut
        yield


@torch.no_grad()
def interchangeable(
    model: nn.Module, blocks: Sequence[ResidualBlock], images: Tensor
) -> list[list[int]]:
    """Blocks of compatible dimensionality, two or more in a group; none that downsample.

    Compatible are blocks whose inputs have the same shape, and outputs the same activation.
    """
    shapes: dict[int, tuple] = {}

    def look(index: int) -> Callable[[nn.Module, tuple], None]:
        return lambda _, inputs: shapes.__setitem__(index, tuple(inputs[0].shape))

    hooks = [b.module.register_forward_pre_hook(look(i)) for i, b in enumerate(blocks)]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    groups: dict[tuple, list[int]] = {}
    for index, block in enumerate(blocks):
        if not block.downsampling:
            groups.setdefault((shapes[index], block.relu), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def draw_sets(blocks: int, size: int, draws: int, seed: int) -> list[list[int]]:
    """Sets of ``size`` of the blocks, each ascending: to delete, or to be the path."""
    rng = np.random.default_rng([seed, size])
    return [sorted(rng.permutation(blocks)[:size].tolist()) for _ in range(draws)]


def draw_orders(
    blocks: int, groups: Sequence[Sequence[int]], swaps: int, draws: int, seed: int
) -> list[list[int]]:
    """Orders after ``swaps`` exchanges of two blocks of a group; every pair is equally likely."""
    pairs = [(a, b) for group in groups for n, a in enumerate(group) for b in group[n + 1 :]]
    if not pairs:
        raise ValueError("groups must hold two blocks that can change places, got none")
    rng = np.random.default_rng([seed, swaps])
    orders = []
    for _ in range(draws):
        order = list(range(blocks))
        for pair in rng.integers(len(pairs), size=swaps):
            a, b = pairs[pair]
            order[a], order[b] = order[b], order[a]
        orders.append(order)
    return orders


def order_correlation(order: Sequence[int]) -> float:
    """Kendall's tau of an order with the network's own: 1 for the same, -1 for the reverse."""
    return float(kendalltau(range(len(order)), order).statistic)


def path_gradient(
    model: nn.Module,
    blocks: Sequence[ResidualBlock],
    path: Sequence[int],
    images: Tensor,
    targets: SparseTargets,
) -> float:
    """The norm of the gradient that one path brings to the input of the first block.

    The forward pass is that of the whole network. The backward pass goes through the branches of
    the blocks of ``path``, and through the shortcuts of all others (section 4.4.2).

    Args:
        model: a residual network that gives logits, in evaluation mode.
        blocks: of the model, in forward order.
        path: indices of the blocks that are entered.
        images: a batch as the model takes it.
        targets: labels, of which the softmax cross-entropy is taken, a mean over the batch.
    """
    check_evaluating(model)
    start: list[Tensor] = []

    def begin(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        start.append(inputs[0].detach().requires_grad_())
        return start[0]

    entered = set(path)
    with switched(model, blocks) as switches, torch.enable_grad():
        for index, switch in enumerate(switches):
            switch.gradient = "branch" if index in entered else "shortcut"
        switches[0].register_forward_pre_hook(begin)  # gone with the switch
        loss = SCALE * softmax_cross_entropy(model(images), targets)
        # Asked for one tensor, autograd leaves out the gradients of the weights.
        (gradient,) = torch.autograd.grad(loss, start[0])
    return float(gradient.double().norm()) / SCALE


def draw_pictures(pictures: int, size: int, draws: int, seed: int, length: int) -> list[list[int]]:
    """Random batches of ``size`` rows of a data set, for the paths of one length."""
    rng = np.random.default_rng(mix(seed, length))
    size = min(size, pictures)
    return [rng.choice(pictures, size, replace=False).tolist() for _ in range(draws)]
