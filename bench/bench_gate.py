"""gate: pooling, two small layers and the decision, against the modules that do it one by one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastheads.ops import active_samples, active_samples_reference, gate, gate_reference

from .harness import OURS, Case, parser, run

HIDDEN = 16
LAYOUTS = {"": torch.contiguous_format, " channels-last": torch.channels_last}


def gate_case(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: torch.device
) -> Case:
    channels = shape[1]
    x = torch.randn(shape, device=device).to(dtype)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    sizes = [(HIDDEN, channels), (HIDDEN,), (2, HIDDEN), (2,)]
    weights = [torch.randn(size, device=device).to(dtype) / size[-1] ** 0.5 for size in sizes]
    exact = gate_reference(x.double(), *(w.double() for w in weights))[1]

    def modules(x: Tensor) -> tuple[Tensor, Tensor]:
        means = torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        hidden = torch.nn.functional.linear(means, weights[0], weights[1]).relu()
        beta = torch.nn.functional.linear(hidden, weights[2], weights[3])
        return beta.softmax(1)[:, 1], beta.argmax(1)

    torch.compiler.reset()  # a case is not to recompile for the ones before
    compiled = torch.compile(modules, dynamic=False)
    providers: dict[str, Callable[[], Any]] = {
        OURS: lambda: gate(x, *weights)[1],
        "modules": lambda: modules(x)[0],
        "torch.compile": lambda: compiled(x)[0],
    }

    def error(name: str, probability: Tensor) -> float:
        return float((probability.double() - exact).abs().max())

    name = str(dtype).removeprefix("torch.")
    return Case(
        *("gate", f"{list(shape)}{layout}", name, device, providers, error, x.nbytes),
        macs=shape[0] * HIDDEN * (channels + 2),
        tolerance=1e-4 if dtype == torch.float32 else 2e-2,
    )


def active_case(samples: int, device: torch.device) -> Case:
    z = (torch.rand(samples, device=device) < 0.67).float()
    wanted = active_samples_reference(z)[0]
    providers: dict[str, Callable[[], Any]] = {
        OURS: lambda: active_samples(z)[0],
        "stable sort": lambda: active_samples_reference(z)[0],
        "nonzero (waits)": lambda: torch.cat((z.nonzero()[:, 0], (z == 0).nonzero()[:, 0])),
    }

    def error(name: str, active: Tensor) -> float:
        return float((active != wanted).sum())

    return Case("active_samples", f"[{samples}]", "float32", device, providers, error, 12 * samples)


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    batch = 256 if device.type == "cuda" else 16
    stages = [(256, 56, 56), (1024, 14, 14), (2048, 7, 7)]
    for stage in stages[1:] if quick else stages:
        for dtype in (torch.float32, torch.bfloat16):
            for layout in LAYOUTS:
                yield gate_case((batch, *stage), dtype, layout, device)
    yield gate_case((1, 1024, 14, 14), torch.float32, "", device)
    yield active_case(256, device)
    yield active_case(65_536, device)


def main(argv: list[str] | None = None) -> None:
    options = parser("The gate and its list of samples against their peers.").parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(cases(device, options.quick), options.out, device=device, quick=options.quick)


if __name__ == "__main__":
    main()
