"""A whole gated ResNet-50 at trained-like rates, against it ungated, masked and compiled.

Of 16 blocks 10.8 run for an image on average: those that change the size and the last one always,
the others as drawn for each image. The gates run, and their decisions are replaced; for a batch of
one ours are led to decide so. Such a batch goes over several images in turn, which differ in their
blocks; beside it the same blocks without gates, as if all was decided before: the bound. All are
checked against the same network in float64. Besides the table: how much of the saved multiply-adds
is saved time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from fastheads.metrics import count_bytes, count_macs
from fastheads.nn import (
    Gate,
    GatedResidual,
    gate_model,
    gated_blocks,
    residual_blocks,
    set_module,
)
from fastheads.nn.gated_cost import cost_key

from .bench_gated_block import plain_gate
from .bench_model import enliven, relative_error
from .harness import OURS, Case, Row, line_ups, parser, run

PLAIN, MASKED, SKIP, COMPILED = "plain", "masked", "if, batch of one", "compiled plain"
BOUND = f"{OURS} without gates"  # no peer
EXECUTED = 10.8  # blocks an image
SINGLE = 8  # images, each a batch of one
CHECKED = 2  # images
TOLERANCE = 1e-3  # float32; one other decision is off by more than 1e-2


class Turns:
    """Decisions of images, one after the other, and from the beginning again."""

    def __init__(self, z: Tensor) -> None:
        self.z, self.turn = z, 0

    def take(self, count: int) -> Tensor:
        z = self.z[self.turn : self.turn + count]
        self.turn = (self.turn + count) % len(self.z)
        return z


class Decided(Gate):
    """A gate that runs, and in whose place others decide."""

    def __init__(self, gate: Gate, z: Tensor) -> None:
        super().__init__(gate.fc1.in_features, gate.fc1.out_features)
        self.load_state_dict(gate.state_dict())
        self.turns = Turns(z)

    def decide(
        self, x: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        _, probability, means = super().decide(x, generator)
        return self.turns.take(len(x)), probability, means


class PlainDecided(nn.Module):
    """The same of a gate as people write it."""

    def __init__(self, gate: Gate, z: Tensor) -> None:
        super().__init__()
        self.gate, self.turns = gate, Turns(z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        probability = plain_gate(self.gate, x)
        return self.turns.take(len(x)), probability


class Multiplied(nn.Module):
    """Eq. 5.3 as people write it: every branch runs."""

    def __init__(self, block: GatedResidual) -> None:
        super().__init__()
        self.branch, self.gate = block.branch, block.gate

    def forward(self, x: Tensor) -> Tensor:
        z, _ = self.gate(x)
        return (x + self.branch(x) * z.to(x.dtype).view(-1, 1, 1, 1)).relu_()


class Skipped(Multiplied):
    """What people write for one image."""

    def forward(self, x: Tensor) -> Tensor:
        z, _ = self.gate(x)
        return self.branch(x).add_(x).relu_() if z.item() else x


class Known(Multiplied):
    """One image and no gate."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.gate.turns.take(len(x))
        return self.branch(x).add_(x).relu_() if z.item() else x


def decisions(images: int, gates: int, executed: float) -> Tensor:
    """``[gates, images]`` with ``executed`` open gates for an image on average, at random."""
    z = torch.zeros(gates * images)
    z[torch.randperm(len(z))[: round(executed * images)]] = 1
    return z.view(gates, images)


def lead(block: GatedResidual, z: Tensor) -> None:
    """Makes the gate decide ``z``, one image after the other, in turns: by its last bias."""
    last, turns = block.gate.fc2, cycle(z.tolist())
    with torch.no_grad():
        last.weight.zero_()

    def set_bias(_: nn.Module, inputs: tuple[Tensor]) -> None:
        last.bias.data[1] = 1.0 if next(turns) else -1.0

    block.register_forward_pre_hook(set_bias)


def gated(
    network: nn.Module, z: Tensor, always_on: Sequence[str], form: Any = None, one: bool = False
) -> nn.Module:
    """A copy with gates, and ``form`` in place of the gated blocks of the package if given.

    ``one``: for batches of one image.
    """
    copied = copy.deepcopy(network)
    gate_model(copied, always_on=always_on, inplace=True, exact=False)
    for (name, block), decided in zip(gated_blocks(copied).items(), z, strict=True):
        if form is not None:
            block.gate = PlainDecided(block.gate, decided)
            set_module(copied, name, form(block))
        elif one:
            lead(block, decided)
        else:
            block.gate = Decided(block.gate, decided).to(decided.device)
    return copied.eval()


def calibrate(network: nn.Module, x: Tensor, batch: int) -> None:
    """Blocks of one shape cost the same: the first one is timed."""
    costs: dict[str, Any] = {}

    def share(block: GatedResidual, inputs: tuple[Tensor]) -> None:
        key = cost_key(inputs[0])
        if key not in costs:
            block.calibrate(inputs[0])
            costs[key] = block.calibration()
        block.set_calibration(costs[key])

    with ExitStack() as stack:
        for block in gated_blocks(network).values():
            stack.enter_context(block.register_forward_pre_hook(share))
        in_turns(network, x, batch)()


def in_turns(network: nn.Module, x: Tensor, batch: int) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return torch.cat([network(part) for part in x.split(batch)])

    return call


def case(
    network: nn.Module, x: Tensor, batch: int, compiled: bool, executed: float = EXECUTED
) -> Case:
    """One line-up: ``x`` in batches of ``batch``, ``executed`` blocks for an image."""
    blocks = residual_blocks(network)[0]
    always_on = [block.name for block in blocks if block.downsampling] + [blocks[-1].name]
    z = decisions(len(x), len(blocks) - len(always_on), executed - len(always_on)).to(x.device)
    networks: dict[str, Any] = {
        OURS: gated(network, z, always_on, one=batch == 1),
        PLAIN: network,
        MASKED: gated(network, z, always_on, Multiplied),
    }
    if batch == 1:
        networks[SKIP] = gated(network, z, always_on, Skipped)
        networks[BOUND] = gated(network, z, always_on, Known)
    else:
        calibrate(networks[OURS], x, batch)
    if compiled:
        networks[COMPILED] = torch.compile(copy.deepcopy(network))
    providers = {name: in_turns(module, x, batch) for name, module in networks.items()}
    one = x.split(1)  # what each image needs, however many are padded to in a batch
    plain, macs = (sum(count_macs(networks[name], i) for i in one) for name in (PLAIN, OURS))
    wanted = {}
    for name in (PLAIN, MASKED):
        exact = copy.deepcopy(networks[name]).double()
        wanted[name] = in_turns(exact, x[:CHECKED].double(), 1)()

    def error(name: str, logits: Tensor) -> float:
        kind = PLAIN if name in (PLAIN, COMPILED) else MASKED
        return relative_error(logits[:CHECKED], wanted[kind])

    images = f"{len(x) // batch} x " if batch < len(x) else ""
    shape = f"{images}{[batch, *x.shape[1:]]} {macs / plain:.1%} of MACs"
    moved = sum(count_bytes(networks[OURS], part) for part in x.split(batch))
    return Case(
        *("adaptive", shape, "float32", x.device, providers, error),
        *(moved, macs, TOLERANCE),
    )


def saved(rows: Sequence[Row]) -> Iterator[str]:
    """Of each case, the share of the saved multiply-adds that is saved time."""
    for (_, _, shape, _), case_rows in line_ups(rows).items():
        time = {row["provider"]: float(row["median_us"]) for row in case_rows}
        macs = 1 - float(shape.split()[-3].rstrip("%")) / 100
        for name in (OURS, MASKED, SKIP, BOUND):
            if name in time:
                gain = 1 - time[name] / time[PLAIN]
                yield f"{shape}: {name} saves {gain:.1%} of time, {gain / macs:.0%} of {macs:.1%}"


def cases(
    device: torch.device, batches: Sequence[int], side: int, compiled: bool
) -> Iterator[Case]:
    import torchvision

    network = torchvision.models.resnet50()
    images = torch.randn(max(*batches, SINGLE), 3, side, side)
    enliven(network, images[:2])
    layout = torch.channels_last
    network = network.eval().to(device, memory_format=layout)
    for batch in batches:
        some = images[: batch if batch > 1 else SINGLE]
        yield case(network, some.to(device, memory_format=layout), batch, compiled)


def main(argv: list[str] | None = None) -> None:
    form = parser((__doc__ or "").splitlines()[0])
    form.add_argument("--batches", type=int, nargs="+", default=[32, 1], help="default: 32 1")
    form.add_argument("--side", type=int, default=224, help="of the images (default: %(default)s)")
    form.add_argument(
        "--eager", action="store_true", help="without torch.compile, which takes a minute"
    )
    options = form.parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    every = cases(device, options.batches, options.side, not options.eager)
    rows = run(every, options.out, device=device, quick=options.quick)
    print(*saved(rows), sep="\n")


if __name__ == "__main__":
    main()
