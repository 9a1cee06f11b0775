"""What this machine allows: bandwidth of a large copy, multiply-adds a second of a large product.

Roofs for all other benchmarks. Which operands make a product "large" is found by doubling them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from .harness import Case, parser, run, stopwatch

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LARGEST, SLOW = 8192, 0.01  # operands no wider; a product of so many seconds is large enough


def copy_case(device: torch.device) -> Case:
    source, target = (torch.ones(1 << 26, device=device) for _ in range(2))
    return Case(
        *("copy", f"[{len(source)}]", "float32", device),
        providers={"torch": lambda: target.copy_(source)},
        error=lambda _, result: float((result - source).abs().max()),
        bytes=2 * source.nbytes,
    )


def product_case(dtype: torch.dtype, device: torch.device) -> Case:
    def operands(size: int) -> list[Tensor]:
        return [torch.randn(size, size, device=device).to(dtype) for _ in range(2)]

    size, seconds = 256, stopwatch(device, warm=True)
    a, b = operands(size)
    while size < LARGEST and min(seconds(partial(torch.mm, a, b)) for _ in range(3)) < SLOW:
        size *= 2
        a, b = operands(size)
    exact = a[:8].double() @ b.double()
    providers: dict[str, Callable[[], Tensor]] = {"torch": lambda: a @ b}
    if device.type == "cuda" and dtype == torch.float32:
        providers["torch tf32"] = lambda: in_tf32(a, b)
    return Case(
        *("matmul", f"[{size}, {size}]^2", str(dtype).removeprefix("torch."), device, providers),
        error=lambda _, product: float((product[:8] - exact).abs().max() / exact.abs().max()),
        bytes=3 * a.nbytes,
        macs=size**3,
        tolerance=1e-2,  # of half precision and tf32
    )


def in_tf32(a: Tensor, b: Tensor) -> Tensor:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return a @ b
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    yield copy_case(device)
    for dtype in DTYPES[: 2 if quick else None]:
        yield product_case(dtype, device)


def main(argv: list[str] | None = None) -> None:
    options = parser((__doc__ or "").splitlines()[0]).parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    run(cases(device, options.quick), options.out, device=device, quick=options.quick)


if __name__ == "__main__":
    main()
