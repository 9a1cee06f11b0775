"""sc_linear: the linear layers of many groups, against what PyTorch offers for them.

``sc_linear`` against a loop of ``F.linear`` and ``cat``, padded ``baddbmm``, one ``F.linear`` where
groups share their input, what ``torch.compile`` makes of each, and ``F.grouped_mm`` in bfloat16;
the dense layer of as many labels, and the dense layer that reads all groups with a mask, where they
fit. On CUDA also each of our kernels by itself, and other cases with ``--quick``: those between
which kernels change. ``sc_linear_conditional`` against evaluating every group and against a loop
over the groups that are asked for. In-place ``sc_linear_`` runs where logits are already there.
``bytes`` count the weight, ``x`` and ``y`` once (backward: the weight twice, and its gradient).
``--all`` adds batches 7, 16 and 1,000, and the slower layers in every dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from fastheads.ops import sc_linear_, sc_linear_conditional

from .harness import OURS, Case, parser, run
from .sc_layers import LAYERS, Layer, forced, runs


def trained(layer: Layer, forward: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], Any]:
    """Forward, then the gradients of ``x`` and of the parameters, that of ``x`` returned."""
    inputs = [layer.x] if layer.generic is None else [layer.x, layer.generic]
    return lambda: torch.autograd.grad(forward(), inputs + leaves, layer.grad)[0]


def case(name: str, batch: int, dtype: torch.dtype, device: torch.device, train: bool,
         compiled: bool) -> Case:  # fmt: skip
    layer = Layer(name, batch, dtype, device, train)
    forwards = layer.forwards()
    if compiled:
        torch._dynamo.reset()
        for peer, (call, leaves) in list(forwards.items())[1:]:
            forwards[f"compiled {peer}"] = (torch.compile(call), leaves)
    if layer.groupable():
        forwards["F.grouped_mm"] = (layer.grouped_mm, [layer.rounded, layer.rounded_bias])
    exact = layer.exact_grad() if train else layer.exact()
    if train:
        providers = {p: trained(layer, *given) for p, given in forwards.items()}
    else:
        providers = {p: given[0] for p, given in forwards.items()}
        if name.startswith("uniform"):
            dense, x = layer.weight.view(-1, 512), layer.x[:, :512].contiguous()
            providers[f"{OURS} (dense as large)"] = lambda: linear(x, dense, layer.bias)
    peer = "F.grouped_mm"  # strict about addresses, by device and version
    if peer in providers and not runs(peer, providers[peer]):
        del providers[peer]
    if device.type == "cuda":
        providers |= forced(layer, train)

    def error(provider: str, y: Tensor) -> float:
        if "dense as large" in provider:  # another function: the same work without groups
            return 0.0
        return float((y - exact).abs().max() / exact.abs().max())

    inputs = [layer.x, layer.grad, *([] if layer.generic is None else [layer.generic])]
    weights, rows = layer.weight.nbytes, sum(t.nbytes for t in inputs)
    moved = 3 * weights + 3 * rows if train else weights + rows
    macs = batch * layer.weight.numel() * (3 if train else 1)
    return Case(
        "sc_linear", f"{name} B={batch}", str(dtype).removeprefix("torch."), device, providers,
        error, moved, macs, 16 * torch.finfo(dtype).eps, "forward+backward" if train else "forward",
    )  # fmt: skip


def masked_case(batch: int, dtype: torch.dtype, device: torch.device) -> Case:
    """20 groups of 100,000 labels as one dense layer of 10,240 columns whose weight is masked."""
    layer = Layer("uniform 20x5000", batch, dtype, device, False)
    dense = torch.zeros(layer.outs[-1], layer.ins[-1], dtype=dtype, device=device)
    for g, w in enumerate(layer.weights):
        dense[layer.outs[g] : layer.outs[g + 1], layer.ins[g] : layer.ins[g + 1]] = w
    exact = layer.exact()
    providers = {
        OURS: layer.ours,
        "masked dense": lambda: linear(layer.x, dense, layer.bias),
    }

    def error(_: str, y: Tensor) -> float:
        return float((y - exact).abs().max() / exact.abs().max())

    moved = layer.weight.nbytes + layer.x.nbytes + layer.grad.nbytes
    return Case(
        "sc_linear", f"10240 -> 100000 masked B={batch}", str(dtype).removeprefix("torch."), device,
        providers, error, moved, batch * layer.weight.numel(), 64 * torch.finfo(dtype).eps,
    )  # fmt: skip


def in_place_case(batch: int, dtype: torch.dtype, device: torch.device) -> Case:
    """Heads that add to the logits of a dense classifier."""
    layer = Layer("uniform 20x5000", batch, dtype, device, False)
    exact = layer.exact()

    def added(y: Tensor) -> Tensor:
        return sc_linear_(y, layer.x, layer.weight, layer.bias, layer.ins, layer.outs)

    logits = torch.zeros_like(layer.grad)
    providers = {
        OURS: lambda: added(logits),
        "loop of linear + cat, add_": lambda: logits.add_(layer.loop()),
        "loop of narrow().add_": lambda: add_each(layer, logits),
    }

    def error(_: str, y: Tensor) -> float:
        return float((y - exact).abs().max() / exact.abs().max())

    moved = layer.weight.nbytes + layer.x.nbytes + 2 * layer.grad.nbytes
    return Case(
        "sc_linear_", f"uniform 20x5000 B={batch}", str(dtype).removeprefix("torch."), device,
        providers, error, moved, batch * layer.weight.numel(), 16 * torch.finfo(dtype).eps,
        "forward", lambda: logits.zero_(),
    )  # fmt: skip


def add_each(layer: Layer, logits: Tensor) -> Tensor:
    for g, (w, b) in enumerate(zip(layer.weights, layer.biases, strict=True)):
        x = layer.x[:, layer.ins[g] : layer.ins[g + 1]]
        logits.narrow(1, layer.outs[g], layer.written[g]).add_(linear(x, w, b))
    return logits


def conditional_case(batch: int, each: int, dtype: torch.dtype, device: torch.device) -> Case:
    """``each`` of 20 groups for every sample."""
    layer = Layer("uniform 20x5000", batch, dtype, device, False)
    groups = torch.rand(batch, 20, device=device).argsort(1)[:, :each].flatten()
    rows = torch.arange(batch, device=device).repeat_interleave(each)
    dense = layer.exact().view(batch, 20, 5000)
    exact = dense[rows, groups].flatten()

    def ours() -> Tensor:
        given = layer.x, layer.weight, layer.bias, rows, groups, layer.ins, layer.outs
        return sc_linear_conditional(*given)[0]

    def everything() -> Tensor:
        return layer.ours().view(batch, 20, 5000)[rows, groups].flatten()

    def loop() -> Tensor:
        values = layer.x.new_empty(len(groups), 5000)
        for g in groups.unique().tolist():
            at = (groups == g).nonzero().flatten()
            x = layer.x[rows[at], layer.ins[g] : layer.ins[g + 1]]
            values[at] = linear(x, layer.weights[g], layer.biases[g])
        return values.flatten()

    def error(_: str, values: Tensor) -> float:
        return float((values - exact).abs().max() / exact.abs().max())

    read = len(groups.unique()) * 5000 * 513 * layer.x.element_size()
    return Case(
        "sc_linear_conditional", f"{each} of 20x5000 B={batch}",
        str(dtype).removeprefix("torch."), device,
        {OURS: ours, "every group, then picked": everything, "loop over groups": loop},
        error, read, len(groups) * 5000 * 512, 16 * torch.finfo(dtype).eps,
    )  # fmt: skip


def planned(cuda: bool, quick: bool, everything: bool) -> Iterator[Callable[..., Case]]:
    """What makes each case of a device; nothing is made yet."""
    if cuda and quick:
        yield from _on_a_gpu()
        return
    batches = [1, 64] if quick else [1, 7, 16, 64, 256, 1000] if everything else [1, 64, 256]
    dtypes = [torch.float32, torch.bfloat16]
    names = ["SC-SC 20x512", "2000 tiny"] if quick else list(LAYERS)
    for name in names:
        first = name.startswith("uniform")
        for dtype in dtypes if everything or first else dtypes[:1]:
            for batch in batches:
                # 2,000 groups take the compiler minutes.
                compiled = not quick and len(LAYERS[name].read) <= 20
                yield partial(case, name, batch, dtype, train=False, compiled=compiled)
                if batch > 1 and (first or everything or batch == 64):
                    yield partial(case, name, batch, dtype, train=True, compiled=compiled)
    yield partial(in_place_case, 64, torch.float32)
    for batch in (1, 32):
        for each in (1, 3):
            yield partial(conditional_case, batch, each, torch.float32)
    if not quick:
        yield partial(masked_case, 64, torch.float32)


def _on_a_gpu() -> Iterator[Callable[..., Case]]:
    """The batches between which kernels change; what matters most is first: time may run out."""
    half = torch.bfloat16
    uniform, zipfian = list(LAYERS)[:2]
    for name, few in ((uniform, [16, 32]), (zipfian, [])):
        for batch in (64, 1024, 256, 4096, 1):
            yield partial(case, name, batch, half, train=False, compiled=False)
            if batch > 1:
                yield partial(case, name, batch, half, train=True, compiled=False)
        for batch in few:
            yield partial(case, name, batch, half, train=False, compiled=False)
    yield partial(case, uniform, 64, torch.float32, train=False, compiled=False)
    yield partial(in_place_case, 4096, half)
    yield partial(conditional_case, 32, 3, half)
    yield partial(masked_case, 64, half)
    yield partial(case, "2000 tiny", 64, half, train=False, compiled=False)


def main(argv: list[str] | None = None) -> None:
    options = parser("Linear layers of many groups, against their peers.")
    options.add_argument("--all", action="store_true", help="every batch, layer and dtype")
    given = options.parse_args(argv)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    device = torch.device(given.device)
    listed = planned(device.type == "cuda", given.quick, given.all)
    run((make(device=device) for make in listed), given.out, device=device, quick=given.quick)


if __name__ == "__main__":
    main()
