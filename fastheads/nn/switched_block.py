"""Residual blocks with switches: to delete them, to train few at a time, to follow one path.

Veit, "Conditional networks", 2018, chapter 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from fastheads.nn.residual_blocks import (
    ResidualBlock,
    require_residual_blocks,
    restore,
    set_module,
)
from fastheads.nn.squeeze_excite import SqueezeExcite


class SwitchedBlock(nn.Module):
    """``y = act(shortcut(x) + scale * branch(x))``, and without the branch if it is not open.

    Its layers are those of the block. A closed plain layer, one without shortcut, returns ``x``.

    Attributes:
        open: whether the branch runs (section 4.3.1).
        scale: what the branch is multiplied by.
        gradient: "both", or the only path that the gradient takes: "branch" or "shortcut". The
            values of ``y`` stay those of "both" (section 4.4.2). A plain layer has no choice.
        block: what it is made of.
    """

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.block, self.before = block, block.before
        self.branch, self.shortcut = block.branch, block.shortcut
        self.open, self.scale = True, 1.0
        self.gradient: Literal["both", "branch", "shortcut"] = "both"
        self.training = block.module.training

    def forward(self, x: Tensor) -> Tensor:
        if self.block.plain:
            return self.branch(x) if self.open else x
        if self.before is not None:
            x = self.before(x)
        y = x if self.shortcut is None else self.shortcut(x)
        if self.open:
            branch = self.branch(x)
            if self.scale != 1:
                branch = self.scale * branch
            if self.gradient == "branch":
                y = y.detach()
            elif self.gradient == "shortcut":
                branch = branch.detach()
            y = branch + y
        return y.relu() if self.block.relu else y

    def extra_repr(self) -> str:
        return f"open={self.open}, scale={self.scale}, gradient={self.gradient!r}"


@contextmanager
def switched(
    model: nn.Module, blocks: Sequence[ResidualBlock] | None = None
) -> Iterator[list[SwitchedBlock]]:
    """Puts a :class:`SwitchedBlock` in the place of each block; all is as before afterwards.

    Args:
        model: changed in place, and restored also after an exception.
        blocks: of this model; by default its residual blocks.

    Yields:
        The switches, one a block.

    Raises:
        ValueError: as :func:`require_residual_blocks`, or if a block is not one of the model.

    Example::

        with switched(model) as blocks:
            blocks[3].open = False
            logits = model(images)
    """
    blocks = require_residual_blocks(model) if blocks is None else blocks
    modules = dict(model.named_modules())
    for block in blocks:
        if modules.get(block.name) is not block.module:
            raise ValueError(f"blocks must be those of the model now, got {block.name} of another")
    switches = [SwitchedBlock(block) for block in blocks]
    try:
        for switch in switches:
            _put(model, switch)
        yield switches
    finally:
        for switch in switches:
            restore(model, switch.block, switch.training)


class StochasticDepth(nn.Module):
    """Trains a network with some of its blocks closed, others in each batch.

    In training each block is open with its survival probability, or as many as asked for are, one
    choice for all images of a batch; in evaluation all are, the branches multiplied by their
    survival probabilities. The choices come from the global generator of the CPU, so that a run
    that restores its state goes on as if it had not been interrupted.

    Huang, Sun, Liu, Sedra, Weinberger, "Deep networks with stochastic depth", 2016,
    arXiv:1603.09382; with ``exactly``, training on the effective paths of "Conditional networks",
    section 4.4.3, in which nothing is scaled.

    Args:
        network: its residual blocks are switched in place, until :meth:`release`.
        survival: a probability for each block; by default it falls linearly to 0.5 at the last.
        exactly: blocks open in each batch, in place of probabilities.

    Raises:
        ValueError: if there are not as many probabilities as blocks, one is not in (0, 1], or
            ``exactly`` is not between 1 and the number of blocks.
    """

    def __init__(
        self,
        network: nn.Module,
        survival: Sequence[float] | None = None,
        exactly: int | None = None,
    ) -> None:
        super().__init__()
        blocks = require_residual_blocks(network)
        count = len(blocks)
        if exactly is not None and survival is not None:
            raise ValueError("exactly must be None where survival is given, got both")
        if exactly is not None and not 1 <= exactly <= count:
            raise ValueError(f"exactly must be between 1 and {count}, got {exactly}")
        if survival is None:
            survival = [1 - 0.5 * (i + 1) / count for i in range(count)]
        if len(survival) != count:
            raise ValueError(f"survival must hold {count} probabilities, got {len(survival)}")
        if not all(0 < p <= 1 for p in survival):
            raise ValueError(f"survival must be in (0, 1], got {list(survival)}")
        self.network, self.exactly = network, exactly
        self.training = network.training
        self.survival = [1.0] * count if exactly is not None else list(survival)
        self._names = [block.name for block in blocks]
        for block in blocks:
            _put(network, SwitchedBlock(block))

    def forward(self, x: Tensor) -> Tensor:
        """Runs the network with the blocks of this call."""
        switches = self.switches()
        for switch, is_open, p in zip(switches, self._choose(), self.survival, strict=False):
            switch.open, switch.scale = is_open, 1.0 if self.training else p
        return self.network(x)

    def switches(self) -> list[SwitchedBlock]:
        """The switched blocks, in the order of the network; none after the release."""
        modules = [self.network.get_submodule(name) for name in self._names]
        return [module for module in modules if isinstance(module, SwitchedBlock)]

    def release(self) -> nn.Module:
        """The network, with its own blocks again."""
        for switch in self.switches():
            restore(self.network, switch.block, switch.training)
        return self.network

    def _choose(self) -> list[bool]:
        count = len(self.survival)
        if not self.training:
            return [True] * count
        if self.exactly is None:
            return (torch.rand(count) < torch.tensor(self.survival)).tolist()
        chosen = set(torch.randperm(count)[: self.exactly].tolist())
        return [i in chosen for i in range(count)]

    def extra_repr(self) -> str:
        return f"exactly={self.exactly}" if self.exactly else f"survival={self.survival}"


@torch.no_grad()
def scale_branches(network: nn.Module, factors: Sequence[float]) -> None:
    """Multiplies the branch of each residual block by a factor, in its last convolution or norm.

    A network that was trained with some of its blocks at a time is evaluated with all of them: each
    counts as often as it was open, or every norm behind it would meet another distribution.

    Raises:
        ValueError: if there are not as many factors as blocks, or a branch ends in another layer.
    """
    for block, factor in zip(require_residual_blocks(network), factors, strict=True):
        *_, last = (layer for layer in block.branch.modules() if not isinstance(layer, nn.Identity))
        gates = [layer for layer in block.branch.modules() if isinstance(layer, SqueezeExcite)]
        if gates and last is gates[-1].fc2:  # these weights make a gate
            last = gates[-1]
        if not isinstance(last, nn.Conv2d | nn.BatchNorm2d):
            raise ValueError(
                f"the branch of {block.name} must end in a convolution or a batch norm, "
                f"got {type(last).__name__}"
            )
        for parameter in last.parameters():
            parameter.mul_(factor)


def _put(model: nn.Module, switch: SwitchedBlock) -> None:
    set_module(model, switch.block.name, switch)
    for name in switch.block.absorbed:
        set_module(model, name, nn.Identity())
