"""Layers of groups as each contestant of ``bench_sc_linear.py`` wants them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import NamedTuple

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


class Form(NamedTuple):
    """Columns and labels of each group; columns that all read, before their own or instead."""

    read: list[int]
    written: list[int]
    generic: int = 0
    shared: bool = False


LAYERS = {
    "uniform 20x5000": Form([512] * 20, [5000] * 20),
    "zipf 20, 200-30000": Form([512] * 20, zipf(20, 27_800, 200, 100_000)),
    "256 small": Form([128] * 256, [150 + g % 97 for g in range(256)]),
    "2000 tiny": Form([64] * 2000, [1 + 7 * g % 50 for g in range(2000)]),
    "SC-SC 20x512": Form([512] * 20, [512] * 20),
    "FC-SC 20x512": Form([512] * 20, [512] * 20, shared=True),
    "generic 512, 20x5000": Form([512] * 20, [5000] * 20, generic=512),
    "ragged inputs, 64-1024": Form([64 + 64 * (7 * g % 16) for g in range(20)], [5000] * 20),
}


FORCED = ("products", "streamed", "grouped")  # by the number that _sc_linear_launched takes
STREAMED_ROWS = 64  # above, each row's block reads the whole weight again


class Layer:
    """One set of numbers in the form that each contestant wants."""

    def __init__(self, name: str, batch: int, dtype: torch.dtype, device: torch.device,
                 train: bool):  # fmt: skip
        self.read, self.written, generic, self.shared = LAYERS[name]
        self.ins = None if self.shared else [0, *accumulate(self.read)]
        self.outs = [0, *accumulate(self.written)]
        self.widths = [generic + k for k in self.read]
        self.sizes = [n * k for n, k in zip(self.written, self.widths, strict=True)]
        scale = self.widths[0] ** -0.5

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, device=device).to(dtype)

        columns = self.read[0] if self.shared else sum(self.read)
        self.x, self.grad = draw(batch, columns), draw(batch, self.outs[-1])
        self.generic = draw(batch, generic) if generic else None
        self.weight, self.bias = draw(sum(self.sizes)) * scale, draw(self.outs[-1])
        # The peers' weights are their own leaves, so that no gradient has to be put together.
        self.weights = [
            w.view(n, k).clone()
            for w, n, k in zip(
                self.weight.split(self.sizes), self.written, self.widths, strict=True
            )
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
        if generic:
            self.of_generic = torch.cat([w[:, :generic] for w in self.weights])
            self.of_own = torch.stack([w[:, generic:] for w in self.weights])
            leaves += [self.of_generic, self.of_own, self.generic]
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
        alone = self.generic is None and not self.shared
        dtype = self.x.dtype == torch.bfloat16
        return hasattr(F, "grouped_mm") and equal and alone and dtype

    def forwards(self) -> dict[str, tuple[Callable[[], Tensor], list[Tensor]]]:
        """Contestants, ours first, each with the parameters that it trains."""
        found = {
            OURS: (self.ours, [self.weight, self.bias]),
            "loop of linear + cat": (self.loop, self.weights + self.biases),
        }
        if self.shared:
            found["one linear"] = (self.dense, [self.weight, self.bias])
        if self.generic is not None:
            found["linear + baddbmm"] = (self.apart, [self.of_generic, self.of_own, self.bias])
        if self.paddable():
            found["padded baddbmm"] = (self.bmm, [self.padded, self.padded_bias])
        return found

    def ours(self) -> Tensor:
        given = self.x, self.weight, self.bias, self.ins, self.outs
        return sc_linear(*given, generic=self.generic)

    def inputs(self) -> list[Tensor]:
        """What each group reads."""
        own = [self.x] * len(self.read) if self.shared else list(self.x.split(self.read, 1))
        return own if self.generic is None else [torch.cat([self.generic, x], 1) for x in own]

    def loop(self) -> Tensor:
        parts = zip(self.inputs(), self.weights, self.biases, strict=True)
        return torch.cat([linear(x, w, b) for x, w, b in parts], 1)

    def dense(self) -> Tensor:
        return linear(self.x, self.weight.view(self.outs[-1], -1), self.bias)

    def apart(self) -> Tensor:
        """All labels read the generic columns as one layer, and their own as equal groups."""
        generic = linear(self.generic, self.of_generic, self.bias).view(
            len(self.x), len(self.read), -1
        )
        x = self.x.view(len(self.x), len(self.read), -1).transpose(0, 1)
        y = torch.baddbmm(generic.transpose(0, 1), x, self.of_own.transpose(1, 2))
        return y.transpose(0, 1).reshape(len(self.x), -1)

    def bmm(self) -> Tensor:
        if self.shared:
            x = self.x.expand(len(self.read), -1, -1)
        else:
            x = self.x.view(len(self.x), len(self.read), -1).transpose(0, 1)
        if self.generic is not None:
            x = torch.cat([self.generic.expand(len(self.read), -1, -1), x], 2)
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
        y = ops._sc_linear_launched(self.x, self.weight, self.bias, self.generic, *places, kernel)
        if not train:
            return y
        needed = [True, True, True, self.generic is not None]
        given = self.grad, self.x, self.weight, self.generic, *places, needed
        return ops._sc_linear_backward_launched(*given, kernel)[0]

    @torch.no_grad()
    def exact(self) -> Tensor:
        """The result, in float64."""
        parts = zip(self.inputs(), self.weights, self.biases, strict=True)
        return torch.cat([linear(x.double(), w.double(), b.double()) for x, w, b in parts], 1)

    @torch.no_grad()
    def exact_grad(self) -> Tensor:
        """The gradient of ``x``, in float64."""
        grads = zip(self.grad.double().split(self.written, 1), self.weights, self.read, strict=True)
        each = [grad @ w[:, -k:].double() for grad, w, k in grads]
        return sum(each[1:], each[0]) if self.shared else torch.cat(each, 1)


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
