"""gated_residual: relu(x + z f), new or in place, and in place for those that execute alone.

What a case may read and write is fixed: two thirds of the gates are open. Peers that list the
samples are given the list; whoever needs the means of what was written takes them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastheads.ops import (
    gated_residual,
    gated_residual_,
    gated_residual_reference,
    gated_residual_scatter_,
    gated_residual_scatter_reference,
)

from .harness import OURS, Case, parser, run

LAYOUTS = {"": torch.contiguous_format, " channels-last": torch.channels_last}


def tensors(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    x, f = (
        torch.randn(shape, device=device).to(dtype).contiguous(memory_format=LAYOUTS[layout])
        for _ in range(2)
    )
    return x, f, (torch.arange(shape[0], device=device) % 3 != 1).float()


def largest_difference(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max())


def forward_case(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: torch.device
) -> Case:
    x, f, z = tensors(shape, dtype, layout, device)
    exact = gated_residual_reference(x.double(), f.double(), z.double(), relu=True)
    gates = z.to(dtype).view(-1, 1, 1, 1)
    torch.compiler.reset()  # a case is not to recompile for the ones before
    compiled = torch.compile(lambda x, f: torch.relu(x + gates * f), dynamic=False)
    providers: dict[str, Callable[[], Any]] = {
        OURS: lambda: gated_residual(x, f, z, relu=True),
        "relu(x + z f)": lambda: torch.relu(x + gates * f),
        "addcmul, relu_": lambda: torch.addcmul(x, gates, f).relu_(),
        "torch.compile": lambda: compiled(x, f),
    }
    moved = int((2 + float(z.mean())) * x.nbytes)
    return Case(
        *("gated_residual", f"{list(shape)}{layout}", str(dtype).removeprefix("torch.")),
        *(device, providers, lambda _, y: largest_difference(y, exact), moved),
        macs=x.numel(),
        tolerance=1e-5 if dtype == torch.float32 else 0.1,
    )


def in_place_case(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: torch.device
) -> Case:
    start, f, z = tensors(shape, dtype, layout, device)
    exact = gated_residual_reference(start.double(), f.double(), z.double(), relu=True)
    x, gates = start.clone(), z.to(dtype).view(-1, 1, 1, 1)
    torch.compiler.reset()  # a case is not to recompile for the ones before
    compiled = torch.compile(lambda x, f: x.addcmul_(gates, f).relu_(), dynamic=False)
    providers: dict[str, Callable[[], Any]] = {
        OURS: lambda: gated_residual_(x, f, z, relu=True),
        "addcmul_, relu_": lambda: x.addcmul_(gates, f).relu_(),
        "x += z f, relu_": lambda: x.add_(gates * f).relu_(),
        "torch.compile": lambda: compiled(x, f),
    }
    moved = int((2 + float(z.mean())) * x.nbytes)
    return Case(
        *("gated_residual_", f"{list(shape)}{layout}", str(dtype).removeprefix("torch.")),
        *(device, providers, lambda *_: largest_difference(x, exact), moved, x.numel()),
        tolerance=1e-5 if dtype == torch.float32 else 0.1,
        reset=lambda: x.copy_(start),
    )


def backward_case(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: torch.device
) -> Case:
    x, f, z = tensors(shape, dtype, layout, device)
    gates = z.to(dtype).view(-1, 1, 1, 1)
    y, grad = gated_residual(x, f, z, relu=True), torch.randn_like(x)
    exact = ((grad * (y > 0)).double() * f.double()).sum((1, 2, 3))
    op = torch.ops.fastheads.gated_residual_backward.default

    def eager(grad: Tensor, y: Tensor, f: Tensor) -> tuple[Tensor, ...]:
        g = torch.ops.aten.threshold_backward(grad, y, 0)
        return g, g * gates, (g * f).sum((1, 2, 3), dtype=torch.float32)

    torch.compiler.reset()  # a case is not to recompile for the ones before
    compiled = torch.compile(eager, dynamic=False)
    providers: dict[str, Callable[[], Any]] = {
        OURS: lambda: op(grad, y, f, z),
        "eager": lambda: eager(grad, y, f),
        "torch.compile": lambda: compiled(grad, y, f),
    }
    return Case(
        *("gated_residual", f"{list(shape)}{layout}", str(dtype).removeprefix("torch.")),
        *(device, providers, lambda _, out: largest_difference(out[2], exact), 5 * x.nbytes),
        macs=x.numel(),
        tolerance=0.05 if dtype == torch.float32 else 20.0,
        pass_="backward",
    )


def scatter_case(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: torch.device
) -> Case:
    start, f, z = tensors(shape, dtype, layout, device)
    active = z.nonzero()[:, 0]
    f = f[active].contiguous(memory_format=LAYOUTS[layout])
    x, mean = start.clone(), torch.zeros(shape[:2], device=device)
    exact, exact_mean = start.double(), mean.double()
    gated_residual_scatter_reference(exact, f.double(), active, exact_mean, relu=True)

    def copy() -> None:
        y = (x.index_select(0, active) + f).relu_()
        x.index_copy_(0, active, y)
        mean.index_copy_(0, active, y.mean((2, 3), dtype=torch.float32))

    def add() -> None:
        x.index_add_(0, active, f).relu_()
        torch.mean(x, (2, 3), dtype=torch.float32, out=mean)

    providers: dict[str, Callable[[], Any]] = {
        OURS: lambda: gated_residual_scatter_(x, f, active, mean, relu=True),
        "index_select, index_copy_": copy,
        "index_add_, relu_": add,
    }

    def error(name: str, _: Any) -> float:
        means = largest_difference(mean[active], exact_mean[active])
        return max(means, largest_difference(x[active], exact[active]))

    def reset() -> None:
        x.copy_(start)

    return Case(
        *("gated_residual_scatter_", f"{list(shape)}{layout}", str(dtype).removeprefix("torch.")),
        *(device, providers, error, 3 * f.nbytes),
        tolerance=1e-5 if dtype == torch.float32 else 0.1,
        reset=reset,
    )


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    batch = 256 if device.type == "cuda" else 16
    stages = [(256, 28, 28), (1024, 14, 14), (2048, 7, 7)]
    for stage in stages[1:] if quick else stages:
        for dtype in (torch.float32, torch.bfloat16):
            yield forward_case((batch, *stage), dtype, "", device)
            yield in_place_case((batch, *stage), dtype, "", device)
            yield backward_case((batch, *stage), dtype, "", device)
            for layout in LAYOUTS:
                yield scatter_case((batch, *stage), dtype, layout, device)
    for case in (forward_case, in_place_case):
        yield case((1, 1024, 14, 14), torch.float32, "", device)


def main(argv: list[str] | None = None) -> None:
    options = parser("Gated residual branches against their peers.").parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(cases(device, options.quick), options.out, device=device, quick=options.quick)


if __name__ == "__main__":
    main()
