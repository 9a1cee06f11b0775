"""Layers of groups as each contestant of ``bench_sc_linear.py`` wants them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import linear, pad

from fastheads.ops import sc_linear

from .harness import OURS


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


FORCED = ("products", "streamed", "grouped")  # by the number that _sc_linear_launched takes
STREAMED_ROWS = 64  # above, each row's block reads the whole weight again


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
        if self.groupable():
            more = [-n % 8 for n in self.written]
            each = zip(self.weights, self.biases, more, strict=True)
            rounded = [(pad(w, (0, 0, 0, m)), pad(b, (0, m))) for w, b, m in each]
            self.rounded = torch.cat([w for w, _ in rounded])
            self.rounded_bias = torch.cat([b for _, b in rounded])
            self.rounded_sizes = [len(b) for _, b in rounded]
            ends = [*accumulate(self.rounded_sizes)]
            self.rounded_ends = torch.tensor(ends, dtype=torch.int32, device=device)
            leaves += [self.rounded, self.rounded_bias]
        if train:
            for leaf in leaves:
                leaf.requires_grad_()

    def paddable(self) -> bool:
        """Equal columns, and padding at most triples the weight."""
        return len(set(self.read)) == 1 and self.most * len(self.written) <= 3 * self.outs[-1]

    def groupable(self) -> bool:
        """What ``F.grouped_mm`` takes without leaving its one launch, labels rounded up to 8."""
        equal = len(set(self.read)) == 1 and self.read[0] % 8 == 0
        return hasattr(F, "grouped_mm") and equal and self.x.dtype == torch.bfloat16

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

    def grouped_mm(self) -> Tensor:
        x = self.x.view(len(self.x), len(self.read), -1).transpose(0, 1)
        y = F.grouped_mm(x, self.rounded.t(), offs=self.rounded_ends) + self.rounded_bias
        if self.rounded_sizes == self.written:
            return y
        parts = zip(y.split(self.rounded_sizes, 1), self.written, strict=True)
        return torch.cat([part[:, :n] for part, n in parts], 1)

    @torch.no_grad()
    def launched(self, kernel: int, train: bool) -> Tensor:
        """By one of our kernels on CUDA, whatever the sizes."""
        ops, places = torch.ops.fastheads, (self.ins, self.outs)
        y = ops._sc_linear_launched(self.x, self.weight, self.bias, None, *places, kernel)
        if not train:
            return y
        given = self.grad, self.x, self.weight, None, *places, [True, True, True, False]
        return ops._sc_linear_backward_launched(*given, kernel)[0]

    def exact(self) -> Tensor:
        with torch.no_grad():
            parts = zip(self.x.split(self.read, 1), self.weights, self.biases, strict=True)
            each = [linear(x.double(), w.double(), b.double()) for x, w, b in parts]
            return torch.cat(each, 1)


def forced(layer: Layer, train: bool) -> dict[str, Callable[[], Tensor]]:
    """Our kernels one by one; those of CUTLASS are left out where they were not built."""
    calls = {
        f"{OURS} {name}": partial(layer.launched, kernel, train)
        for kernel, name in enumerate(FORCED)
        if name != "streamed" or (not train and len(layer.x) <= STREAMED_ROWS)
    }
    return {name: call for name, call in calls.items() if runs(name, call, "no grouped kernel")}


def runs(name: str, call: Callable[[], Tensor], reason: str = "") -> bool:
    """False, and says so, if a contestant refuses a case for a known reason."""
    try:
        call()
    except RuntimeError as error:
        if reason not in str(error):
            raise
        print(f"left out: {name} ({str(error).splitlines()[0]})")
        return False
    return True
