"""squeeze_excite: the whole tail of a residual block, relu(s u + residual), against its peers.

The bytes are the least possible: forward x, residual and y; backward grad, y and x, and the
gradients of x and residual. A convolution before hands over x, so caches are cold for everyone.
On CUDA also each of our launches by itself, without the four small products that are the gradients
of the weights, and with ``--quick`` large batches in bfloat16: those that decide between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastheads.ops import squeeze_excite, squeeze_excite_reference

from .harness import OURS, Case, parser, run

# C, H W, R, inner, gate: the stages of SE-ResNet-50, then wide stems and EfficientNet's kind.
RESNET = [(256, 56, 16), (512, 28, 32), (1024, 14, 64), (2048, 7, 128)]
OTHERS = [
    (64, 112, 8, "relu", "sigmoid"),
    (672, 14, 28, "silu", "sigmoid"),
    (64, 56, 16, "relu", "hard_sigmoid"),
]
BATCHES = (1, 8, 32)
# Their places are the codes of the operator.
INNER = {"relu": nn.ReLU, "silu": nn.SiLU}
GATE = {"sigmoid": nn.Sigmoid, "hard_sigmoid": nn.Hardsigmoid}
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}


def providers(
    weights: list[Tensor], inner: str, gate: str, compiled: bool
) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Name to y of x and residual, all with the same weights."""
    from timm.layers import SEModule
    from torchvision.ops import SqueezeExcitation

    weight1, bias1, weight2, bias2 = weights
    hidden, channels = weight1.shape
    timm = SEModule(channels, rd_channels=hidden, act_layer=INNER[inner], gate_layer=GATE[gate])
    vision = SqueezeExcitation(
        channels, hidden, activation=INNER[inner], scale_activation=GATE[gate]
    )
    for module in (timm, vision):
        module.fc1.weight, module.fc2.weight = (
            nn.Parameter(w.detach()[:, :, None, None]) for w in (weight1, weight2)
        )
        module.fc1.bias, module.fc2.bias = bias1, bias2

    def ours(x: Tensor, residual: Tensor) -> Tensor:
        return squeeze_excite(x, *weights, residual, inner=inner, gate=gate, relu=True)

    def reference(x: Tensor, residual: Tensor) -> Tensor:
        return squeeze_excite_reference(x, *weights, residual, inner=inner, gate=gate, relu=True)

    found = {
        OURS: ours,
        "timm": lambda x, residual: F.relu(timm(x) + residual),
        "torchvision": lambda x, residual: F.relu(vision(x) + residual),
    }
    if compiled:
        torch.compiler.reset()
        found["torch.compile"] = torch.compile(reference, dynamic=False)
    return found


@torch.no_grad()
def launched(
    x: Tensor,
    residual: Tensor,
    grad: Tensor | None,
    weights: list[Tensor],
    codes: tuple[int, int],
    ticketed: bool,
) -> Tensor:
    """One of our launches on CUDA, whatever the size; with ``grad``, both passes."""
    ops, (weight1, bias1, weight2, _), norm = torch.ops.fastheads, weights, (None, None)
    y, mean, s = ops._squeeze_excite_launched(x, *weights, residual, *norm, *codes, True, ticketed)
    if grad is not None:
        ops._squeeze_excite_backward_launched(
            grad, x, y, mean, s, weight1, bias1, weight2, *norm, True, *codes, ticketed
        )
    return y


def case(
    batch: int,
    stage: tuple[int, int, int, str, str],
    dtype: torch.dtype,
    layout: torch.memory_format,
    device: torch.device,
    *,
    backward: bool,
    compiled: bool = True,
) -> Case:
    channels, side, hidden, inner, gate = stage
    maps = [torch.randn(batch, channels, side, side, device=device) for _ in range(3)]
    x, residual, grad = (t.to(dtype).contiguous(memory_format=layout) for t in maps)
    sizes = [(hidden, channels), (hidden,), (channels, hidden), (channels,)]
    weights = [
        nn.Parameter((torch.randn(s, device=device) / s[-1] ** 0.5).to(dtype)) for s in sizes
    ]
    exact = squeeze_excite_reference(
        *(t.detach().double() for t in (x, *weights, residual)), inner=inner, gate=gate, relu=True
    )
    for t in (x, residual):
        t.requires_grad_(backward)

    def forward_only(call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        @torch.no_grad()
        def timed() -> Tensor:
            return call(x, residual)

        return timed

    def both_passes(call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        def timed() -> Tensor:
            y = call(x, residual)
            y.backward(grad)
            for t in (x, residual, *weights):
                t.grad = None
            return y

        return timed

    timed = both_passes if backward else forward_only
    calls = {n: timed(call) for n, call in providers(weights, inner, gate, compiled).items()}
    if device.type == "cuda":
        codes = list(INNER).index(inner), list(GATE).index(gate)
        for n, ticketed in (("staged", False), ("ticketed", True)):
            given = x, residual, grad if backward else None, weights, codes, ticketed
            calls[f"{OURS} {n}"] = partial(launched, *given)

    def error(_: str, y: Tensor) -> float:
        return float((y.double() - exact).abs().max())

    name = f"{batch}x{channels}x{side}x{side}" + (
        " channels-last" if layout == torch.channels_last else ""
    )
    return Case(
        *("squeeze_excite", name, str(dtype).removeprefix("torch."), device, calls, error),
        bytes=(8 if backward else 3) * x.nbytes,
        macs=(7 if backward else 2) * batch * channels * hidden,
        tolerance=TOLERANCE[dtype],
        pass_="forward+backward" if backward else "forward",
    )


def planned(
    cuda: bool, quick: bool, batches: Sequence[int] = BATCHES
) -> Iterator[Callable[..., Case]]:
    """What makes each case of a device; nothing is made yet."""
    stages = [(*stage, "relu", "sigmoid") for stage in RESNET]
    if cuda and quick:
        yield from _on_a_gpu(stages)
        return
    both = (torch.contiguous_format, torch.channels_last)
    for backward in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            for layout in both:
                for batch in (8,) if quick else batches:
                    for stage in stages[::3] if quick else stages:
                        yield partial(case, batch, stage, dtype, layout, backward=backward)
                for stage in OTHERS if 8 in batches and not quick else ():
                    yield partial(case, 8, stage, dtype, layout, backward=backward)


def _on_a_gpu(stages: list[tuple[int, int, int, str, str]]) -> Iterator[Callable[..., Case]]:
    """What decides is first: time may run out, as the compiler takes seconds for a case."""
    half, last = torch.bfloat16, torch.channels_last
    for backward in (False, True):
        for batch in (256, 64):
            for stage in stages:
                # Two are compiled, below.
                if batch == 64 or backward or stage not in stages[::2]:
                    yield partial(case, batch, stage, half, last, backward=backward, compiled=False)
    for stage in stages[::2]:
        yield partial(case, 256, stage, half, last, backward=False)
    for stage in stages:
        first = torch.contiguous_format
        yield partial(case, 256, stage, half, first, backward=False, compiled=False)


def main(argv: list[str] | None = None) -> None:
    form = parser("Squeeze-excitation with residual and ReLU against its peers.")
    form.add_argument(
        "--batches", type=int, nargs="+", default=BATCHES, help="default: 1 8 32, and 8 of others"
    )
    options = form.parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    every = planned(device.type == "cuda", options.quick, options.batches)
    run((make(device=device) for make in every), options.out, device=device, quick=options.quick)


if __name__ == "__main__":
    main()
