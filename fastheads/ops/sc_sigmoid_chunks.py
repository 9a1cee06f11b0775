"""How sc_sigmoid_loss goes through the groups: some at a time, as many as its scratch holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from fastheads.memory import new_empty

from .dispatch import sum_dtype

ROW_BLOCK = 16  # kRowBlock: rows that share a sum of the gradients of gamma and label_bias


class Span(NamedTuple):
    """What a group owns: labels, columns of ``x``, and its part of the flat weight."""

    labels: slice
    inputs: slice
    weight: slice


@lru_cache(maxsize=64)
def spans(
    in_offsets: tuple[int, ...] | None, out_offsets: tuple[int, ...], width: int, shared: int
) -> tuple[Span, ...]:
    """The groups of a layer on ``[B, shared]`` and ``[B, width]``."""
    inputs = list(pairwise(in_offsets)) if in_offsets else [(0, width)] * (len(out_offsets) - 1)
    found, begin = [], 0
    for (a, b), (i, j) in zip(pairwise(out_offsets), inputs, strict=True):
        end = begin + (b - a) * (shared + j - i)
        found.append(Span(slice(a, b), slice(i, j), slice(begin, end)))
        begin = end
    return tuple(found)


class Chunk(NamedTuple):
    """Groups, and rows of the batch, whose logits are in the scratch at the same time."""

    groups: slice
    labels: slice
    rows: slice

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.labels.stop - self.labels.start


def chunks(
    out_offsets: Sequence[int],
    rows: int,
    logit_bytes: int,
    column_bytes: int,
    budget: int,
    weight_bytes: Sequence[int] | None = None,
) -> list[Chunk]:
    """As many groups as ``budget`` bytes hold; of a group that is too large alone, some rows.

    ``column_bytes`` is what a block of rows needs for the sums over its columns, a label;
    ``weight_bytes``, by group, what parts of its rows need for the gradient of its weight, a label.
    Where all logits take no more than that, they are not divided.
    """

    def fits(first: int, last: int, rows: int) -> bool:
        labels = out_offsets[last] - out_offsets[first]
        blocks = -(-rows // ROW_BLOCK)
        sums = 16 * rows * (last - first)  # loss and gradient of gamma, a row and group
        return labels * (rows * logit_bytes + blocks * column_bytes) + sums <= budget

    found: list[Chunk] = []
    first = 0
    while first < len(out_offsets) - 1:
        last, step = first + 1, max(rows, 1)
        while last < len(out_offsets) - 1 and fits(first, last + 1, rows):
            last += 1
        divided = weight_bytes is None or rows * logit_bytes > weight_bytes[first]
        while divided and step > 1 and not fits(first, last, step):
            step = -(-step // 2)
        labels = slice(out_offsets[first], out_offsets[last])
        for row in range(0, rows, step):
            found.append(Chunk(slice(first, last), labels, slice(row, min(row + step, rows))))
        first = last
    return found


def on_device(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    """The offsets as a tensor; kept, because a copy to a GPU waits and no graph can hold it."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return _as_tensor(offsets, device)  # it may be a fake
    return _kept(offsets, device)


def _as_tensor(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(offsets, dtype=torch.int64, device=device)


_kept = lru_cache(maxsize=64)(_as_tensor)


class Layer:
    """The linear part: logits of a chunk, and from their gradients those of all inputs.

    Gradients are in the type of sums, but for ``grad_weight``, of which every number is written
    once; if the rows of a group come in parts, its sums lie beside until the last of them.
    """

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        generic: Tensor | None,
        in_offsets: Sequence[int] | None,
        out_offsets: Sequence[int],
        needed: Sequence[bool],
        room: int,
    ) -> None:
        self.x, self.weight, self.bias, self.generic = x, weight.contiguous(), bias, generic
        self.room = room  # bytes of what is added to sums of a wider type
        self.shared = 0 if generic is None else generic.shape[1]
        self.in_offsets, self.out_offsets, self.needed = in_offsets, out_offsets, list(needed[:4])
        own = None if in_offsets is None else tuple(in_offsets)
        self.spans = spans(own, tuple(out_offsets), x.shape[1], self.shared)
        self.grad_x: Tensor | None = None
        self.grad_weight: Tensor | None = None
        self.grad_bias: Tensor | None = None
        self.grad_generic: Tensor | None = None
        self.sums: Tensor | None = None  # of the weight of a group whose rows come in parts

    def begin_parts(self) -> None:
        """Makes room for gradients that come from several chunks."""
        of_x, of_weight, of_bias, of_generic = self.needed
        self.grad_x = wide_zeros(self.x) if of_x else None
        self.grad_bias = wide_zeros(self.bias) if of_bias and self.bias is not None else None
        if of_generic and self.generic is not None:
            self.grad_generic = wide_zeros(self.generic)
        if of_weight:
            self.grad_weight = new_empty(self.weight, self.weight.shape)
            if not self.x.shape[0]:
                self.grad_weight.zero_()

    def weight_bytes(self) -> list[int]:
        """What the sums of a label's weights take beside their gradient, by group."""
        wide = sum_dtype(self.x)
        item = wide.itemsize if self.needed[1] and wide != self.x.dtype else 0
        return [item * (self.shared + s.inputs.stop - s.inputs.start) for s in self.spans]

    def whole_bytes(self) -> int:
        """What sc_linear_backward holds at most: parts of the gradients of its inputs, by runs."""
        if not (self.needed[0] or self.needed[3]):
            return 0
        widest = max((span.inputs.stop - span.inputs.start for span in self.spans), default=0)
        runs = min(64, -(-self.out_offsets[-1] // 512)) + len(self.spans)
        rows = min(self.x.shape[0], 256)
        return rows * (self.shared + widest) * runs * sum_dtype(self.x).itemsize

    def backward_whole(self, grad: Tensor) -> None:
        """The gradients from those of all logits at once."""
        found = torch.ops.fastheads.sc_linear_backward.default(
            grad, self.x, self.weight, self.generic, self.in_offsets, self.out_offsets, self.needed
        )
        self.grad_x, self.grad_weight, self.grad_bias, self.grad_generic = (
            t if need else None for t, need in zip(found, self.needed, strict=True)
        )

    def products(self, chunk: Chunk) -> list[Span]:
        """The groups of a chunk; where they share their input, all of them as one matrix."""
        groups = self.spans[chunk.groups]
        if self.in_offsets is not None:
            return list(groups)
        weight = slice(groups[0].weight.start, groups[-1].weight.stop)
        return [Span(chunk.labels, groups[0].inputs, weight)] if chunk.shape[1] else []

    def matrix(self, span: Span, weight: Tensor) -> Tensor:
        """A group of ``weight``: what it multiplies ``generic`` with, then what its own inputs."""
        width = self.shared + span.inputs.stop - span.inputs.start
        return weight[span.weight].view(span.labels.stop - span.labels.start, width)

    def forward(self, chunk: Chunk, logits: Tensor) -> None:
        products = self.products(chunk)
        if not products:
            return
        inputs = slice(products[0].inputs.start, products[-1].inputs.stop)
        starts = [span.inputs.start - inputs.start for span in products]
        torch.ops.fastheads.sc_linear_.default(
            logits,
            self.x[chunk.rows, inputs],
            self.weight[products[0].weight.start : products[-1].weight.stop],
            None if self.bias is None else self.bias[chunk.labels],
            None if self.generic is None else self.generic[chunk.rows],
            None if self.in_offsets is None else [*starts, inputs.stop - inputs.start],
            [span.labels.start - chunk.labels.start for span in products] + [chunk.shape[1]],
            False,
        )

    def backward(self, chunk: Chunk, grad: Tensor) -> None:
        for span in self.products(chunk):
            weight = self.matrix(span, self.weight)
            generic, own = weight[:, : self.shared], weight[:, self.shared :]
            g, x = columns(grad, chunk, span), self.x[chunk.rows, span.inputs]
            if self.grad_x is not None:
                add_product(self.grad_x[chunk.rows, span.inputs], g, own, self.room)
            if self.grad_generic is not None:
                add_product(self.grad_generic[chunk.rows], g, generic, self.room)
            if self.grad_weight is not None:
                inputs = [x] if self.generic is None else [self.generic[chunk.rows], x]
                self.add_to_weight(self.matrix(span, self.grad_weight), chunk, g, inputs)
        if self.grad_bias is not None:
            add_column_sums(self.grad_bias[chunk.labels], grad, self.room)

    def add_to_weight(
        self, grad: Tensor, chunk: Chunk, g: Tensor, inputs: Sequence[Tensor]
    ) -> None:
        """Adds what a chunk contributes to the gradient of a group's weight."""
        first, last = chunk.rows.start == 0, chunk.rows.stop == len(self.x)
        if first and not last and grad.dtype != sum_dtype(grad):
            self.sums = wide_zeros(grad)
        total = grad if self.sums is None else self.sums
        for part, x in zip(total.split([x.shape[1] for x in inputs], 1), inputs, strict=True):
            if self.sums is None:
                write_product(part, g.T, x, self.room, add=not first)
            else:
                add_product(part, g.T, x, self.room)
        if last and self.sums is not None:
            grad.copy_(self.sums)
            self.sums = None


def columns(logits: Tensor, chunk: Chunk, span: Span) -> Tensor:
    begin = chunk.labels.start
    return logits[:, span.labels.start - begin : span.labels.stop - begin]


def wide_zeros(x: Tensor) -> Tensor:
    return x.new_zeros(x.shape, dtype=sum_dtype(x))


def add_product(total: Tensor, a: Tensor, b: Tensor, room: int) -> None:
    """``total += a @ b``, the product in pieces of about ``room`` bytes where types differ.

    Each piece is rounded to the type of ``a``, once; what they add up to is not.
    """
    if total.dtype == a.dtype:
        total.addmm_(a, b)
        return
    rows = piece_rows(total, room)
    for part, of_a in zip(total.split(rows), a.split(rows), strict=True):
        part += of_a @ b


def write_product(out: Tensor, a: Tensor, b: Tensor, room: int, *, add: bool) -> None:
    """``out = a @ b``, or added to it, all of one type.

    Of 16 bits in pieces: where a processor has no such products, PyTorch widens all of ``out``.
    """
    rows = len(out) if sum_dtype(out) == out.dtype else piece_rows(out, room)
    for part, of_a in zip(out.split(rows), a.split(rows), strict=True):
        torch.addmm(part, of_a, b, beta=int(add), out=part)


def piece_rows(out: Tensor, room: int) -> int:
    """Rows of a product that take about ``room`` bytes with a copy in the wider type."""
    return max(512, room // max(1, 8 * out.shape[1]))


def add_column_sums(total: Tensor, x: Tensor, room: int) -> None:
    """``total += x.sum(0)``, in pieces of about ``room`` bytes where types differ."""
    if total.dtype == x.dtype:
        total += x.sum(0)
        return
    columns = max(512, room // (4 * len(x)))  # a sum on the CPU copies to the wider type
    for part, of_x in zip(total.split(columns), x.split(columns, 1), strict=True):
        part += of_x.sum(0, dtype=total.dtype)


class Kernel:
    """The part of the formula after the logits: its inputs, and sums over chunks."""

    def __init__(
        self,
        x: Tensor,
        targets: tuple[Tensor, Tensor, Tensor | None],
        parameters: tuple[Tensor | None, Tensor | None, Tensor | None],
        out_offsets: Sequence[int],
        gamma_per_label: bool,
        normalize: bool,
        scale: float,
        with_loss: bool,
        with_grad: bool,
        needed: Sequence[bool],
    ) -> None:
        wide = sum_dtype(x)
        self.indices, self.offsets, values = targets
        cast = [t if t is None else t.detach().to(wide) for t in (values, *parameters)]
        self.values, self.gamma, self.label_bias, self.label_weights = cast
        self.groups = on_device(tuple(out_offsets), x.device)
        self.labels = out_offsets[-1]
        self.gamma_per_label, self.normalize, self.scale = gamma_per_label, normalize, scale
        self.with_loss, self.with_grad, self.needed = with_loss, with_grad, needed
        self.loss = x.new_zeros((), dtype=torch.float64)
        self.grad_gamma, self.grad_label_bias = (
            torch.zeros_like(t) if t is not None and need else None
            for t, need in zip((self.gamma, self.label_bias), needed, strict=True)
        )

    def __call__(self, chunk: Chunk, logits: Tensor) -> None:
        """Replaces the logits of a chunk by their gradients."""
        labels = [
            None if t is None else t[chunk.labels] for t in (self.label_bias, self.label_weights)
        ]
        of_gamma = chunk.labels if self.gamma_per_label else chunk.groups
        gamma = None if self.gamma is None else self.gamma[of_gamma]
        per_label = self.gamma_per_label and self.grad_gamma is not None
        (loss, group_gamma), label_gamma, label_bias = (
            torch.ops.fastheads.sc_sigmoid_loss_logits_.default(
                logits, self.indices, self.offsets[chunk.rows.start : chunk.rows.stop + 1],
                self.values, self.groups[chunk.groups.start : chunk.groups.stop + 1], self.labels,
                gamma, *labels, self.gamma_per_label, self.normalize, self.with_loss,
                self.with_grad, self.scale, per_label, self.grad_label_bias is not None,
            )
        )  # fmt: skip
        self.loss += loss.sum()
        if self.grad_gamma is not None:
            self.grad_gamma[of_gamma] += (label_gamma if per_label else group_gamma).sum(0)
        if self.grad_label_bias is not None:
            self.grad_label_bias[chunk.labels] += label_bias.sum(0)
