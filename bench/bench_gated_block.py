"""Gated residual blocks of ResNet-50 at forced rates, against running every branch and by hand.

On a GPU, ``--quick`` runs what our targets there are stated for: a batch of 256, of which two
thirds run, and single images, in bfloat16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastheads.metrics import count_macs
from fastheads.nn import Gate, GatedGraphs, GatedResidual

from .harness import OURS, Case, parser, run

STAGES = {56: 256, 28: 512, 14: 1024, 7: 2048}  # side of the feature map: channels
RATES = (0.4, 0.6, 0.8, 1.0)
# Batches, dtypes and rates, where none are asked for.
WHOLE = (32, 1), ("float32", "bfloat16"), RATES
ON_A_GPU = (256, 1), ("bfloat16",), (2 / 3,)
PLAIN = "plain block"


def bottleneck(channels: int) -> nn.Sequential:
    """The branch of ResNet-50; it leaves channel 0, by which the gate decides, as it is."""
    width = channels // 4
    last = nn.BatchNorm2d(channels)
    nn.init.constant_(last.weight, 0.1)
    with torch.no_grad():
        last.weight[0] = 0
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        *(nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
        *(nn.Conv2d(width, channels, 1, bias=False), last),
    )


def first_channel_gate(channels: int) -> Gate:
    """A gate of the usual size with weights by which a mean of channel 0 above a half opens it."""
    gate = Gate(channels)
    with torch.no_grad():
        for p in (gate.fc1.weight, gate.fc2.weight, gate.fc2.bias):
            p.zero_()
        gate.fc1.weight[0, 0] = gate.fc2.weight[1, 0] = 1
        gate.fc2.bias[0] = 0.5
    return gate


def plain_gate(gate: Gate, x: Tensor) -> Tensor:
    """What people write: eq. 5.4 and 5.5 and the larger entry."""
    assert gate.norm is not None
    return gate.fc2(gate.norm(gate.fc1(x.mean((2, 3)))).relu()).argmax(1)


def block_case(
    side: int, batch: int, rate: float, dtype: torch.dtype, device: torch.device
) -> Case:
    channels = STAGES[side]
    open_gates = round(rate * batch)
    x = torch.randn(batch, channels, side, side).relu_()
    x[:, 0] = 0
    x[torch.randperm(batch)[:open_gates], 0] = 1
    x = x.to(device, dtype, memory_format=torch.channels_last)
    branch = bottleneck(channels).eval()
    gate = first_channel_gate(channels)
    block = GatedResidual(branch, gate, nonnegative=True, inplace=True).eval()
    block.to(device, dtype, memory_format=torch.channels_last)
    folded = GatedResidual(branch, gate.eval().fold(), nonnegative=True, inplace=True).eval()
    dense = GatedResidual(branch, gate, nonnegative=True, inplace=True, mode="dense").eval()

    def multiply(x: Tensor) -> Tensor:
        z = plain_gate(gate, x).to(dtype).view(-1, 1, 1, 1)
        return (x + branch(x) * z).relu_()

    def select(x: Tensor) -> Tensor:
        rows = plain_gate(gate, x).nonzero().view(-1)
        part = x.index_select(0, rows)
        return x.clone().index_copy_(0, rows, branch(part).add_(part).relu_())

    def plain(x: Tensor) -> Tensor:
        return branch(x).add_(x).relu_()

    calls: dict[str, Callable[[Tensor], Any]] = {
        OURS: block,
        "fastheads folded": folded,
        "always dense": dense,
        "multiply by gate": multiply,
        "index_select, index_copy_": select,
        PLAIN: plain,
    }
    if device.type == "cuda":
        calls |= {OURS: GatedGraphs(block, x), "fastheads eager": block}
    # To each its own input: one that several read would stay in the last-level cache.
    own = {name: x.clone() for name in calls}
    providers = {name: partial(call, own[name]) for name, call in calls.items()}
    whole = branch.double()(x.double())
    exact = (x.double() + plain_gate(gate.double(), x.double()).view(-1, 1, 1, 1) * whole).relu_()
    ungated = (x.double() + whole).relu_()
    branch.to(dtype), gate.to(dtype)

    def error(name: str, y: Tensor) -> float:
        return float((y.double() - (ungated if name == PLAIN else exact)).abs().max())

    name = str(dtype).removeprefix("torch.")
    macs = count_macs(block, x.clone())
    moved = x.nbytes + 2 * x[:open_gates].nbytes  # pooled, then what is open is added to
    tolerance = 64 * torch.finfo(dtype).eps
    shape = f"[{batch}, {channels}, {side}, {side}] {open_gates / batch:.0%}"
    return Case(
        *("gated_block", shape, name, device, providers, error, moved, macs, tolerance),
        reset=lambda: [tensor.copy_(x) for tensor in own.values()],
    )


def planned(given: argparse.Namespace) -> Iterator[Callable[..., Case]]:
    """What makes each case; nothing is made yet."""
    batches, dtypes, rates = ON_A_GPU if given.quick and given.device == "cuda" else WHOLE
    for dtype in given.dtype or dtypes:
        for batch in given.batch or batches:
            for side in given.side:
                for rate in rates if batch > 1 else (0.0, 1.0):
                    yield partial(block_case, side, batch, rate, getattr(torch, dtype))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    options = parser("Gated blocks of ResNet-50, channels-last, at forced rates.")
    options.add_argument("--side", type=int, nargs="+", choices=STAGES, default=[*STAGES])
    options.add_argument("--batch", type=int, nargs="+", help="default: 32 1 (GPU, quick: 256 1)")
    options.add_argument("--dtype", nargs="+", help="default: float32 bfloat16")
    return options.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    given = arguments(argv)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    device = torch.device(given.device)
    with torch.no_grad():
        every = (make(device=device) for make in planned(given))
        run(every, given.out, device=device, quick=given.quick)


if __name__ == "__main__":
    main()
