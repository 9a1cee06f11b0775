"""Which gates of a network open for which picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.data import ImageDataset
from fastheads.nn.gate_record import record_gates
from fastheads.pipelines.attack import Normalize, device_of, uint8_batches
from fastheads.pipelines.frozen import channels_last


@dataclass(frozen=True)
class Decisions:
    """What the gates decided on some pictures.

    Attributes:
        names: of the gated blocks, in forward order.
        open: ``[pictures, gates]``, bool.
    """

    names: tuple[str, ...]
    open: np.ndarray

    @property
    def layers(self) -> np.ndarray:
        """``[pictures]``, int64: the blocks executed, of those with gates."""
        return self.open.sum(1)

    @property
    def rates(self) -> np.ndarray:
        """``[gates]``, float64: the share of the pictures for which each gate is open."""
        return self.open.mean(0)


def decide(network: nn.Module, inputs: Iterable[Tensor]) -> Decisions:
    """Runs a network in evaluation and keeps which gates were open.

    The mode of the network and the state of the random generators are as before afterwards, so that
    a training run may be watched by it. Gates that draw their decisions draw the same each time.

    Args:
        network: with gates, in any mode.
        inputs: ``[N, C, H, W]``, batch after batch, as the network takes them.

    Raises:
        ValueError: if the network has no gates, a logit of a gate is not a number, or there is no
            input.
    """
    opened = []
    with _evaluating(network), seeded(), torch.no_grad(), record_gates(network) as record:
        for batch in inputs:
            network(channels_last(batch))
            record.layers()  # looks for what is not a number
            opened.append((torch.stack(record.z, 1) > 0).cpu().numpy())
    if not opened:
        raise ValueError("inputs must hold at least one batch, got none")
    return Decisions(tuple(record.names), np.concatenate(opened))


def decide_on(network: nn.Module, data: ImageDataset, normalize: Normalize) -> Decisions:
    """:func:`decide` on the pictures of a data set."""
    device = device_of(network)
    return decide(network, (normalize(images.to(device)) for images, _ in uint8_batches(data)))


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """PyTorch's generators begin at ``seed`` and are afterwards where they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        # By train(), because gated blocks then forget what they measured; and parts may be frozen.
        network.train(modes[network])
        for module, training in modes.items():
            module.training = training
