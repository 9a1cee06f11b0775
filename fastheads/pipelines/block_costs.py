"""What the blocks of a residual network cost, and what an image costs that skips some of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.metrics import count_macs, count_parameters
from fastheads.nn import gated_blocks
from fastheads.nn.residual_blocks import residual_blocks


@dataclass(frozen=True)
class BlockCost:
    """One residual block.

    Attributes:
        name: within the network.
        macs: multiply-adds of the branch for one image.
        channels: of its input.
        downsampling: whether it changes size or number of channels.
        gated: whether it may be skipped.
        gate_macs: multiply-adds of its gate.
        scale_macs: one for each number that the gate's decision is multiplied with, if it is open.
    """

    name: str
    macs: int
    channels: int
    downsampling: bool
    gated: bool
    gate_macs: int = 0
    scale_macs: int = 0


@dataclass(frozen=True)
class NetworkCost:
    """Multiply-adds and parameters of a network with gates, or without.

    Attributes:
        blocks: in forward order.
        unskippable_macs: stem, shortcuts, classifier and blocks without gates, for one image.
        parameters: of all but the gates.
        gate_parameters: of the gates.
    """

    blocks: tuple[BlockCost, ...]
    unskippable_macs: int
    parameters: int
    gate_parameters: int

    @property
    def macs(self) -> int:
        """Multiply-adds of the network that the gates were built into."""
        return self.unskippable_macs + sum(block.macs for block in self.blocks if block.gated)

    @property
    def gate_macs(self) -> int:
        """Multiply-adds of all gates, which each image pays."""
        return sum(block.gate_macs for block in self.blocks)

    def describe(self, name: str) -> dict[str, Any]:
        """For JSON."""
        shown = ("name", "macs", "channels", "downsampling", "gated")
        return {
            "name": name,
            "blocks": [{key: getattr(block, key) for key in shown} for block in self.blocks],
            "macs": self.macs,
            "unskippable_macs": self.unskippable_macs,
            "parameters": self.parameters,
            "gate_parameters": self.gate_parameters,
            "gate_macs": self.gate_macs,
        }


def block_costs(network: nn.Module, image: Tensor) -> NetworkCost:
    """Counts what a network costs, block by block.

    Args:
        network: with gates or without, in any mode, which is left as it is.
        image: ``[1, C, H, W]``, as the network takes it.

    Raises:
        ValueError: if ``image`` is not one image.
    """
    if image.ndim != 4 or len(image) != 1:
        raise ValueError(f"image must be [1, C, H, W], got {list(image.shape)}")
    gated = gated_blocks(network)
    plain = {block.name: block for block in residual_blocks(network)[0]}
    modules = gated | {name: block.module for name, block in plain.items()}
    with _passing(modules) as passing:
        total = count_macs(network, image)
    executed = {name: block.last_executed for name, block in gated.items()}

    blocks, skippable = [], 0
    for name, (x, shape) in passing.items():
        block = gated.get(name)
        macs = count_macs(block.branch if block else plain[name].branch, x)
        gate_macs = scale_macs = 0
        if block:
            gate_macs = count_macs(block.gate, x)
            shortcut = count_macs(block.shortcut, x) if block.shortcut is not None else 0
            scale_macs = count_macs(block, x, x.new_ones(1)) - macs - shortcut
            skippable += gate_macs + (macs + scale_macs if executed[name] else 0)
        downsampling = x.shape != shape
        blocks.append(
            BlockCost(name, macs, x.shape[1], downsampling, bool(block), gate_macs, scale_macs)
        )
    gate_parameters = sum(count_parameters(block.gate) for block in gated.values())
    return NetworkCost(
        tuple(blocks),
        total - skippable,
        count_parameters(network) - gate_parameters,
        gate_parameters,
    )


def executed_macs(cost: NetworkCost, open_gates: np.ndarray) -> np.ndarray:
    """Multiply-adds of images in a network that skips the blocks whose gates are closed.

    Args:
        cost: of the network.
        open_gates: ``[images, gates]``, bool, in the order of the gated blocks.

    Returns:
        ``[images]``, int64; what :func:`fastheads.metrics.count_macs` counts for each by itself.

    Raises:
        ValueError: if there is not one column for each gated block.
    """
    gated = [block.macs + block.scale_macs for block in cost.blocks if block.gated]
    branches = np.array(gated, dtype=np.int64)
    if open_gates.ndim != 2 or open_gates.shape[1] != len(branches):
        raise ValueError(
            f"open_gates must be [images, {len(branches)}], got {list(open_gates.shape)}"
        )
    return cost.unskippable_macs + cost.gate_macs + open_gates.astype(np.int64) @ branches


@contextmanager
def _passing(modules: dict[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, torch.Size]]]:
    """What each module is given, and the shape that it gives, in forward order."""
    given: dict[str, Tensor] = {}
    seen: dict[str, tuple[Tensor, torch.Size]] = {}

    def watch(name: str, module: nn.Module) -> list[Any]:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            given[name] = args[0].clone()  # the result may take the place of the input

        def after(_: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
            seen[name] = given.pop(name), y.shape

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    hooks = [hook for name, module in modules.items() for hook in watch(name, module)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
