"""sc_linear: the linear layers of many groups, against what PyTorch offers for them.

``sc_linear`` against a loop of ``F.linear`` and ``cat``, padded ``baddbmm`` and what
``torch.compile`` makes of both; the dense layer of as many labels, and the dense layer that reads
all groups with a mask, where they fit. ``sc_linear_conditional`` against evaluating every group and
against a loop over the groups that are asked for. In-place ``sc_linear_`` runs where logits are
already there. ``bytes`` count the weight, ``x`` and ``y`` once (backward: the weight twice, and its
gradient). ``--all`` adds batches 7, 16 and 1,000, and the slower layers in every dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from fastheads.ops import sc_linear, sc_linear_, sc_linear_conditional

from .harness import OURS, Case, parser, run


def zipf(groups: int, largest: int, smallest: int, labels: int) -> list[int]:
    """Sizes by Zipf's law between two limits, the last one to reach the sum."""
    sizes = [max(smallest, int(largest / (g + 1))) for g in range(groups - 1)]
    return [*sizes, labels - sum(sizes)]


# name: columns and labels of each group
LAYERS: dict[str, tuple[list[int], list[int]]] = {
    "uniform 20x5000": ([512] * 20, [5000] * 20),
    "zipf 20, 200-30000": ([512] * 20, zipf(20, 27_800, 200, 100_000)),
    "256 small": ([128] * 256, [150 + g % 97 for g in range(256)]),
    "2000 tiny": ([64] * 2000, [1 + 7 * g % 50 for g in range(2000)]),
    "SC-SC 20x512": ([512] * 20, [512] * 20),
}


class Layer:
    """One set of numbers in the form that each contestant wants."""

    def __init__(self, name: str, batch: int, dtype: torch.dtype, device: torch.device,
                 train: bool):  # fmt: skip
        self.read, self.written = LAYERS[name]
        self.ins, self.outs = ([0, *accumulate(sizes)] for sizes in (self.read, self.written))
        self.sizes = [n * k for n, k in zip(self.written, self.read, strict=True)]
        scale = self.read[0] ** -0.5

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, device=device).to(dtype)

        self.x, self.grad = draw(batch, self.ins[-1]), draw(batch, self.outs[-1])
        self.weight, self.bias = draw(sum(self.sizes)) * scale, draw(self.outs[-1])
        # The peers' weights are their own leaves, so that no gradient has to be put together.
        self.weights = [
            w.view(n, k).clone()
            for w, n, k in zip(self.weight.split(self.sizes), self.written, self.read, strict=True)
        ]
        self.biases = [b.clone() for b in self.bias.split(self.written)]
        leaves = [self.x, self.weight, self.bias, *self.weights, *self.biases]
        self.most = max(self.written)
        if self.paddable():
            more = [self.most - n for n in self.written]
            each = zip(self.weights, self.biases, more, strict=True)
            padded = [(pad(w, (0, 0, 0, m)), pad(b, (0, m))) for w, b, m in each]
            self.padded = torch.stack([w for w, _ in padded])
            self.padded_bias = torch.stack([b for _, b in padded])[:, None]
            leaves += [self.padded, self.padded_bias]
        if train:
            for leaf in leaves:
                leaf.requires_grad_()

    def paddable(self) -> bool:
        """Equal columns, and padding at most triples the weight."""
        return len(set(self.read)) == 1 and self.most * len(self.written) <= 3 * self.outs[-1]

    def ours(self) -> Tensor:
        return sc_linear(self.x, self.weight, self.bias, self.ins, self.outs)

    def loop(self) -> Tensor:
        parts = zip(self.x.split(self.read, 1), self.weights, self.biases, strict=True)
        return torch.cat([linear(x, w, b) for x, w, b in parts], 1)

    def bmm(self) -> Tensor:
        x = self.x.view(len(self.x), len(self.read), -1).transpose(0, 1)
        y = torch.baddbmm(self.padded_bias, x, self.padded.transpose(1, 2))
        if self.most * len(self.written) == self.outs[-1]:
            return y.transpose(0, 1).reshape(len(self.x), -1)
        return torch.cat([y[g, :, :n] for g, n in enumerate(self.written)], 1)

    def exact(self) -> Tensor:
        with torch.no_grad():
            parts = zip(self.x.split(self.read, 1), self.weights, self.biases, strict=True)
            each = [linear(x.double(), w.double(), b.double()) for x, w, b in parts]
            return torch.cat(each, 1)


def trained(layer: Layer, forward: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], Any]:
    """Forward, then the gradients of ``x`` and of the parameters, that of ``x`` returned."""
    return lambda: torch.autograd.grad(forward(), [layer.x, *leaves], layer.grad)[0]


def case(name: str, batch: int, dtype: torch.dtype, device: torch.device, train: bool,
         compiled: bool) -> Case:  # fmt: skip
    layer = Layer(name, batch, dtype, device, train)
    forwards = {OURS: (layer.ours, [layer.weight, layer.bias])}
    forwards["loop of linear + cat"] = (layer.loop, layer.weights + layer.biases)
    if layer.paddable():
        forwards["padded baddbmm"] = (layer.bmm, [layer.padded, layer.padded_bias])
    if compiled:
        torch._dynamo.reset()
        for peer, (call, leaves) in list(forwards.items())[1:]:
            forwards[f"compiled {peer}"] = (torch.compile(call), leaves)
    exact = layer.exact()
    if train:
        with torch.no_grad():
            grads = zip(layer.grad.double().split(layer.written, 1), layer.weights, strict=True)
            exact = torch.cat([grad @ w.double() for grad, w in grads], 1)
        providers = {p: trained(layer, *given) for p, given in forwards.items()}
    else:
        providers = {p: given[0] for p, given in forwards.items()}
        if name.startswith("uniform"):
            dense, x = layer.weight.view(-1, 512), layer.x[:, :512].contiguous()
            providers[f"{OURS} (dense as large)"] = lambda: linear(x, dense, layer.bias)

    def error(provider: str, y: Tensor) -> float:
        if "dense as large" in provider:  # another function: the same work without groups
            return 0.0
        return float((y - exact).abs().max() / exact.abs().max())

    weights, rows = layer.weight.nbytes, layer.x.nbytes + layer.grad.nbytes
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


def cases(device: torch.device, quick: bool, everything: bool) -> Iterator[Case]:
    batches = [1, 64] if quick else [1, 7, 16, 64, 256, 1000] if everything else [1, 64, 256]
    dtypes = [torch.float32, torch.bfloat16]
    names = ["SC-SC 20x512", "2000 tiny"] if quick else list(LAYERS)
    for name in names:
        first = name.startswith("uniform")
        for dtype in dtypes if everything or first else dtypes[:1]:
            for batch in batches:
                # 2,000 groups take the compiler minutes.
                compiled = not quick and len(LAYERS[name][0]) <= 20
                yield case(name, batch, dtype, device, False, compiled)
                if batch > 1 and (first or everything or batch == 64):
                    yield case(name, batch, dtype, device, True, compiled and everything)
    yield in_place_case(64, torch.float32, device)
    for batch in (1, 32):
        for each in (1, 3):
            yield conditional_case(batch, each, torch.float32, device)
    if not quick:
        yield masked_case(64, torch.float32, device)


def main(argv: list[str] | None = None) -> None:
    options = parser("Linear layers of many groups, against their peers.")
    options.add_argument("--all", action="store_true", help="every batch, layer and dtype")
    given = options.parse_args(argv)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    device = torch.device(given.device)
    listed = cases(device, given.quick, given.all)
    run(listed, given.out, device=device, quick=given.quick)


if __name__ == "__main__":
    main()
