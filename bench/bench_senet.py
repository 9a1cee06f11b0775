"""What squeeze-excitation costs in a whole network: ours and its peers' above the plain ResNet.

All networks have the same layers and weights; the peers' blocks are written as libraries write
them, ``relu_(se(branch(x)) + shortcut)`` with the SE module of timm or torchvision. Outputs (of
training steps: the gradient of the first convolution) are checked against the same network in
float64. Besides the table: how much longer than the plain network each takes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastheads.metrics import count_bytes, count_macs
from fastheads.models import Residual, SEResidual, senet
from fastheads.nn import set_module

from .bench_model import enliven, forward, relative_error, training_step
from .harness import OURS, Case, Row, line_ups, parser, run

PLAIN = "plain"
PASSES = {"forward": forward, "training step": training_step}
LABELS = 120


def networks(
    depth: Literal[18, 34, 50, 101, 152], width: int, x: Tensor, compiled: bool
) -> dict[str, nn.Module]:
    """The contestants by name; pictures below 64 pixels have the network for small ones."""
    from timm.layers import SEModule
    from torchvision.ops import SqueezeExcitation

    options: dict[str, Any] = {"width": width, "small": x.shape[2] < 64}
    ours = senet(depth, LABELS, x.shape[1], **options)
    enliven(ours, x[:2])
    plain = senet(depth, LABELS, x.shape[1], se=False, **options)
    plain.load_state_dict({name: ours.state_dict()[name] for name in plain.state_dict()})
    found: dict[str, nn.Module] = {
        PLAIN: plain,
        OURS: ours,
        "timm": written(ours, lambda channels, hidden: SEModule(channels, rd_channels=hidden)),
        "torchvision": written(ours, SqueezeExcitation),
    }
    if compiled:
        torch.compiler.reset()
        for name in list(found):
            module = torch.compile(copy.deepcopy(found[name]), dynamic=False)
            found[f"{name} compiled"] = module
    return found


def written(network: nn.Module, make: Callable[[int, int], nn.Module]) -> nn.Module:
    """A copy whose blocks are plain ones that end in another SE module."""
    copied = copy.deepcopy(network)
    for name, block in list(copied.named_modules()):
        if isinstance(block, SEResidual):
            se = make(block.se.channels, block.se.fc1.out_channels)
            se.load_state_dict(block.se.state_dict_for())
            set_module(copied, name, Residual(nn.Sequential(block.branch, se), block.shortcut))
    return copied.to(memory_format=torch.channels_last)


def case(depth: Any, width: int, x: Tensor, pass_: str, compiled: bool) -> Case:
    """One line-up."""
    start = PASSES[pass_]
    found = {name: each.to(x.device) for name, each in networks(depth, width, x, compiled).items()}
    exact, tolerance = {}, {}
    for name in (PLAIN, "timm"):
        wide = copy.deepcopy(found[name]).double()
        exact[name] = start(wide, x.double())().detach().clone()
        eager = start(copy.deepcopy(found[name]), x)()
        tolerance[name] = 4 * max(relative_error(eager, exact[name]), 1e-6)

    def error(name: str, result: Tensor) -> float:
        return relative_error(result, exact[PLAIN if name.startswith(PLAIN) else "timm"])

    factor = 3 if pass_ == "training step" else 1  # both gradients cost a forward pass each
    form = f"senet{depth}" + (f" width {width}" if width != 64 else "")
    return Case(
        *(form, str(list(x.shape)), "float32", x.device),
        {name: start(each, x) for name, each in found.items()},
        error,
        bytes=factor * count_bytes(found[OURS], x),
        macs=factor * count_macs(found[OURS], x),
        tolerance=max(tolerance.values()),
        pass_=pass_,
    )


def overheads(rows: Sequence[Row]) -> Iterator[str]:
    """Of each case, how much longer than the plain network the others take."""
    for (op, pass_, shape, _), case_rows in line_ups(rows).items():
        time = {row["provider"]: float(row["median_us"]) for row in case_rows}
        for kind in ("", " compiled"):
            if (plain := time.get(PLAIN + kind)) is None:
                continue
            above = {n: time[n + kind] / plain - 1 for n in (OURS, "timm", "torchvision")}
            said = ", ".join(f"{name} {share:+.1%}" for name, share in above.items())
            yield f"{op} {shape} {pass_}{kind}: {plain / 1e3:.1f} ms plain; {said}"


def main(argv: list[str] | None = None) -> None:
    form = parser((__doc__ or "").splitlines()[0])
    add = form.add_argument
    add("--depths", type=int, nargs="+", default=[18], help="layers (default: 18)")
    add("--batches", type=int, nargs="+", default=[1, 8, 32], help="default: 1 8 32")
    add("--side", type=int, default=224, help="of the images (default: %(default)s)")
    add("--width", type=int, default=64, help="of the first stage (default: %(default)s)")
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES), help="default: both")
    add("--compiled", action="store_true", help="torch.compile too, which takes minutes")
    options = form.parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)

    def cases() -> Iterator[Case]:
        for depth in options.depths:
            for batch in options.batches[:1] if options.quick else options.batches:
                x = torch.randn(batch, 3, options.side, options.side)
                x = x.to(device, memory_format=torch.channels_last)
                for pass_ in options.passes:
                    yield case(depth, options.width, x, pass_, options.compiled)

    rows = run(cases(), options.out, device=device, quick=options.quick)
    print(*overheads(rows), sep="\n")


if __name__ == "__main__":
    main()
