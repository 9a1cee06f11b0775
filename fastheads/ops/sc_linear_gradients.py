"""Gradients of sc_linear_conditional: a product for each group that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .dispatch import once_differentiable


@torch.library.custom_op("fastheads::sc_linear_conditional_backward", mutates_args=())
def _op(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    rows: Tensor | None,
    groups: Tensor,
    offsets: Tensor,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    labels = [b - a for a, b in pairwise(out_offsets)]
    if in_offsets is None or rows is None:  # all of a row
        columns = [(0, x.shape[1])] * len(labels)
    else:
        columns = list(pairwise(in_offsets))
    grad_x, grad_weight, grad_bias = _empty(x, weight, out_offsets, needed)
    for made in (grad_x, grad_weight, grad_bias):
        made.zero_()
    # The pairs of each group; CUDA waits for the device here.
    by_group = groups.argsort(stable=True).split(groups.bincount(minlength=len(labels)).tolist())
    begin = 0
    for g, (pairs, n, (first, last)) in enumerate(zip(by_group, labels, columns, strict=True)):
        end = begin + n * (last - first)
        if len(pairs):
            logits = offsets[pairs, None] + torch.arange(n, device=x.device)
            of_logits, row = grad[logits], pairs if rows is None else rows[pairs]
            if needed[0]:
                matrix = weight[begin:end].view(n, last - first)
                _add_rows(grad_x[:, first:last], row, of_logits @ matrix)
            if needed[1]:
                torch.mm(of_logits.T, x[row, first:last],
                         out=grad_weight[begin:end].view(n, last - first))  # fmt: skip
            if needed[2]:
                grad_bias[out_offsets[g] : out_offsets[g + 1]] = of_logits.sum(0)
        begin = end
    return grad_x, grad_weight, grad_bias


def _add_rows(to: Tensor, rows: Tensor, values: Tensor) -> None:
    """Adds to rows, of which some may occur again, in a fixed order."""
    if to.is_cuda:
        to.index_put_((rows,), values, accumulate=True)  # sorts; index_add_ has atomics there
    else:
        to.index_add_(0, rows, values)


def _empty(
    x: Tensor, weight: Tensor, out_offsets: Sequence[int], needed: Sequence[bool]
) -> list[Tensor]:
    shapes = x.shape, weight.shape, (out_offsets[-1],)
    return [x.new_empty(s if n else 0) for s, n in zip(shapes, needed, strict=True)]


@_op.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, grad_weight, grad_bias = _empty(x, weight, *rest[-2:])
    return grad_x, grad_weight, grad_bias


@register_flop_formula(torch.ops.fastheads.sc_linear_conditional_backward)
def _(grad: Any, x: Any, weight: Any, *rest: Any, **_: Any) -> int:
    # As of the operator: exact where all groups are as wide.
    out_offsets, (of_x, of_weight, *_) = rest[-2:]
    return 2 * grad[0] * weight[0] // max(1, out_offsets[-1]) * (of_x + of_weight)


def save_conditional(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, rows, groups, ctx.in_offsets, ctx.out_offsets = inputs
    ctx.save_for_backward(x, weight, rows, groups, output[1])


@once_differentiable("sc_linear_conditional")
def conditional_backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    needed = list(ctx.needs_input_grad[:3])
    grads = torch.ops.fastheads.sc_linear_conditional_backward.default(
        grad, *ctx.saved_tensors, ctx.in_offsets, ctx.out_offsets, needed
    )
    given = (g if wanted else None for g, wanted in zip(grads, needed, strict=True))
    return *given, None, None, None, None
