"""Puts gates on the residual blocks of a network, and takes them off again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastheads.nn.gate import Gate
from fastheads.nn.gated_residual import GatedResidual
from fastheads.nn.patch import Entry, original_class, table, unpatch
from fastheads.nn.residual_blocks import (
    ResidualBlock,
    require_residual_blocks,
    residual_blocks,
    restore,
    set_module,
)


@dataclass
class GateReport:
    """What :func:`gate_model` did; its text is a table.

    Attributes:
        gated: blocks that have a gate now.
        always_on: blocks that have none, as was asked for.
        skipped: what looks like a residual block and is not understood, and why.
        parameters: of all gates.
    """

    gated: list[Entry] = field(default_factory=list)
    always_on: list[Entry] = field(default_factory=list)
    skipped: list[Entry] = field(default_factory=list)
    parameters: int = 0

    def __str__(self) -> str:
        return table({"gated": self.gated, "always on": self.always_on, "skipped": self.skipped})


class GatedBlock(GatedResidual):
    """A :class:`GatedResidual` that knows the block whose layers it has.

    Attributes:
        block: the block that it stands for.
        forced: values in place of those of the gate, a number or ``[N]``.
        recording: whether ``decision`` is kept.
        decision: ``z`` and the probabilities of the last call.
    """

    # Attributes and no hooks: those that are added later are not seen by a compiled network.
    forced: float | Tensor | None = None
    recording = False
    decision: tuple[Tensor, Tensor] | None = None

    def __init__(
        self,
        block: ResidualBlock,
        gate: Gate,
        mode: Literal["auto", "dense", "gather"],
        inplace: bool = False,
        exact: bool = True,
    ) -> None:
        super().__init__(
            block.branch,
            gate,
            shortcut=block.shortcut,
            relu=block.relu,
            nonnegative=block.nonnegative,
            inplace=inplace,
            mode=mode,
            exact=exact,
        )
        self.block, self.place = block, f" of {block.name}"
        # Not by train(), which would also change layers that are frozen.
        self.training = gate.training = block.module.training
        for module in gate.modules():
            module.training = self.training

    def forward(
        self,
        x: Tensor,
        z: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        return_gate: bool = False,
    ) -> Any:
        if z is None and self.forced is not None:
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            z = torch.zeros(x.shape[0], device=x.device, dtype=dtype) + self.forced
        if not self.recording:
            return super().forward(x, z, generator=generator, return_gate=return_gate)
        y, *decision = super().forward(x, z, generator=generator, return_gate=True)
        self.decision = decision[0], decision[1]
        return (y, *decision) if return_gate else y

    def __getstate__(self) -> dict[str, Any]:
        # What is part of a graph can be neither copied nor pickled, and nobody reads it there.
        return {**self.__dict__, "recording": False, "decision": None}


def gate_model(
    model: nn.Module,
    *,
    hidden: int | Literal["c/16"] = 16,
    batch_norm: bool = True,
    rate: float = 0.85,
    temperature: float = 1.0,
    soft: bool = False,
    sample: bool = False,
    always_on: Sequence[str] = (),
    mode: Literal["auto", "dense", "gather"] = "auto",
    inplace: bool = False,
    exact: bool = True,
) -> GateReport:
    """Gives the residual blocks of a network gates, each a :class:`GatedResidual` then.

    In place, and undone by :func:`ungate`. All layers stay the very same objects, with their
    weights and hooks; an optimiser that was made before trains them on, and has to be given the
    parameters of the gates. Hooks on a block itself, or on the activation behind its sum, rest
    until it is ungated. The keys of the state dict say ``branch`` and ``shortcut`` meanwhile. Where
    a projection follows the pre-activation, that runs before the gate, in ``before``. SE modules
    that :func:`patch` has taken over stay so; the sum is then that of the gated block.

    Veit, "Conditional networks", 2018, section 5.2; known blocks: :func:`residual_blocks`.

    Args:
        model: a network of torchvision, of timm or of :mod:`fastheads.models`.
        hidden: units of each gate, 16 as in the paper's text, or "c/16", a sixteenth of the
            channels of the block's input, with which its count of parameters agrees.
        batch_norm: normalise the hidden units.
        rate: share of open gates at first.
        temperature: of the softmax.
        soft: in training multiply by the softmax, not by a decision.
        sample: draw decisions in evaluation too.
        always_on: names of blocks, or what they begin with ("layer1"), that get no gate.
        mode: of the gated blocks.
        inplace: without gradients a block may write its result over its input, which saves memory
            and time, where nothing else reads what goes from block to block.
        exact: all modes give the same bits for a batch, whatever is skipped; without, up to
            rounding, and for less time. Another batch size may round otherwise, as it may without
            gates.

    Returns:
        What got a gate, and what not and why.

    Raises:
        ValueError: if the network has gates already, has no residual block that is known, is
            traced, scripted or exported, if a branch changes the shape without a projection, or if
            a name in ``always_on`` belongs to no block.

    Example::

        model = torchvision.models.resnet50(weights="DEFAULT")
        print(fastheads.nn.gate_model(model, always_on=["layer1"]))
    """
    if gates := gated_blocks(model):
        raise ValueError(f"model must have no gates yet, got {len(gates)}: ungate it first")
    if hidden != "c/16" and not isinstance(hidden, int):
        raise ValueError(f"hidden must be a number or 'c/16', got {hidden!r}")
    blocks = require_residual_blocks(model)
    for name in always_on:
        if not any(_begins(block.name, name) for block in blocks):
            names = ", ".join(block.name for block in blocks)
            raise ValueError(f"always_on must name blocks among {names}, got {name!r}")
    report = GateReport(skipped=residual_blocks(model)[1])
    gated: list[GatedBlock] = []
    for block in blocks:
        kind = original_class(block.module).__name__
        if any(_begins(block.name, name) for name in always_on):
            report.always_on.append(Entry(block.name, kind, "no gate, as asked"))
            continue
        units = max(block.channels // 16, 1) if hidden == "c/16" else hidden
        gate = Gate(
            block.channels,
            units,
            batch_norm=batch_norm,
            rate=rate,
            temperature=temperature,
            soft=soft,
            sample=sample,
        )
        weight = next(block.branch.parameters())
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        gated.append(GatedBlock(block, gate.to(weight.device, dtype), mode, inplace, exact))
        report.parameters += sum(p.numel() for p in gate.parameters())
        note = f"{block.channels} -> {units} -> 2" + (", downsampling" * block.downsampling)
        report.gated.append(Entry(block.name, kind, note))
    for gated_block in gated:
        set_module(model, gated_block.block.name, _with_before(gated_block))
    for module in model.modules():
        if type(module) is nn.Sequential:
            for one, other in pairwise(module):
                leader = _end(one, -1)
                if isinstance(leader, GatedBlock):
                    leader.leads = isinstance(_end(other, 0), GatedBlock)
    return report


def ungate(model: nn.Module) -> None:
    """Undoes :func:`gate_model`: the blocks are the same objects as before, with their weights."""
    for gated in gated_blocks(model).values():
        if isinstance(gated, GatedBlock):
            restore(model, gated.block, gated.training)
            inner = list(gated.block.module.modules())[1:]
            if all(original_class(module) is type(module) for module in inner):
                unpatch(gated.block.module)  # it was out of reach when its layers were


def gated_blocks(model: nn.Module) -> dict[str, GatedResidual]:
    """The gated blocks of a network by name, in the order in which they are registered."""
    return {name: m for name, m in model.named_modules() if isinstance(m, GatedResidual)}


def _with_before(gated: GatedBlock) -> nn.Module:
    """The gated block, behind the layer that both of its paths begin with."""
    if gated.block.before is None:
        return gated
    both = nn.Sequential(OrderedDict(before=gated.block.before, block=gated))
    both.training = gated.training
    return both


def _end(module: nn.Module, place: Literal[0, -1]) -> nn.Module:
    """What runs first (0) or last (-1) in a module."""
    while type(module) is nn.Sequential and len(module):
        module = module[place]
    return module


def _begins(name: str, start: str) -> bool:
    return name == start or name.startswith(f"{start}.")
