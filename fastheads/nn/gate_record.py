"""What the gates of a network decide: to record it, or to decide in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastheads.nn.gate_model import GatedBlock, gated_blocks


class GateRecord:
    """The decisions of the gates in the last forward of a network; made by :func:`record_gates`.

    Attributes:
        names: of the gated blocks, in the order of the network.
    """

    def __init__(self, blocks: Mapping[str, GatedBlock]) -> None:
        self.names = list(blocks)
        self._blocks = list(blocks.values())
        self._last: list[tuple[Tensor, Tensor] | None] | None = None

    @property
    def z(self) -> list[Tensor]:
        """Decisions ``[N]`` of each gate; gradients flow through them."""
        return [z for z, _ in self._decisions()]

    @property
    def probability(self) -> list[Tensor]:
        """Probabilities ``[N]`` of opening; in training they have the noise in them."""
        return [probability for _, probability in self._decisions()]

    def layers(self) -> Tensor:
        """Open gates of each image, ``[N]``.

        Raises:
            ValueError: if a logit of a gate is NaN; it is named.
        """
        return self._checked().sum(0)

    def rates(self) -> Tensor:
        """Share of the images for which each gate is open, ``[gates]``.

        Raises:
            ValueError: if a logit of a gate is NaN; it is named.
        """
        return self._checked().mean(1)

    def close(self) -> None:
        """Keeps the last decisions, whatever the network does from now on."""
        self._last = [block.decision for block in self._blocks]

    def _decisions(self) -> list[tuple[Tensor, Tensor]]:
        last = self._last or [block.decision for block in self._blocks]
        decisions = [decision for decision in last if decision is not None]
        if len(decisions) < len(last):
            name = self.names[last.index(None)]
            raise ValueError(f"the gate of {name} must have decided, got no forward of the network")
        return decisions

    def _checked(self) -> Tensor:
        bad = torch.stack([p.detach().isnan().any() for p in self.probability]).tolist()
        if any(bad):
            raise ValueError(f"the logits of the gate of {self.names[bad.index(True)]} are NaN")
        return torch.stack(self.z)


@contextmanager
def record_gates(model: nn.Module) -> Iterator[GateRecord]:
    """Records the decisions of all gates in the last forward, also of a compiled network.

    Args:
        model: a network of :func:`gate_model`.

    Yields:
        The record, which stays as it is afterwards.

    Raises:
        ValueError: if there are no gates.

    Example::

        with record_gates(model) as record:
            loss = cross_entropy(model(images), target) + target_rate_loss(record.z, 0.7)
    """
    blocks = _require_gates(model)
    record = GateRecord(blocks)
    nested = any(block.recording for block in blocks.values())
    for block in blocks.values():
        block.recording = True
    try:
        yield record
    finally:
        record.close()
        for block in blocks.values() if not nested else ():
            block.recording, block.decision = False, None


@contextmanager
def force_gates(
    model: nn.Module, z: Mapping[str, float | Tensor] | float | Tensor
) -> Iterator[None]:
    """Uses these values in place of what the gates decide; all branches run meanwhile.

    With the expected rates of the gates as values all layers run, scaled: the ``*`` of table 5.1
    in "Conditional networks". With 1 the network is the one without gates.

    Args:
        model: a network of :func:`gate_model`.
        z: for each gated block a number, or ``[N]`` of them; or the same for all.

    Raises:
        ValueError: if there are no gates, or the names are not those of the gated blocks.
    """
    blocks = _require_gates(model)
    values = z if isinstance(z, Mapping) else dict.fromkeys(blocks, z)
    if set(values) != set(blocks):
        raise ValueError(
            f"z must have a value for each of {', '.join(blocks)}, got {', '.join(values)}"
        )
    before = {name: block.forced for name, block in blocks.items()}
    try:
        for name, block in blocks.items():
            block.forced = values[name]
        yield
    finally:
        for name, block in blocks.items():
            block.forced = before[name]


def _require_gates(model: nn.Module) -> dict[str, GatedBlock]:
    blocks = {name: b for name, b in gated_blocks(model).items() if isinstance(b, GatedBlock)}
    if not blocks:
        raise ValueError(f"model must have gates, got {type(model).__name__} without any")
    return blocks
