"""sc_sigmoid_loss as an operator: the loss of a layer of groups, its gradients computed with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastheads.memory import new_empty
from fastheads.ops.dispatch import once_differentiable, sum_dtype, trains_eagerly
from fastheads.ops.sc_sigmoid_chunks import Chunk, Kernel, Layer, chunks

SCHEMA = """(Tensor x, Tensor? weight, Tensor? bias, Tensor? generic, Tensor? gamma,
Tensor? label_bias, Tensor? label_weights, Tensor indices, Tensor offsets, Tensor? values,
int[]? in_offsets, int[] out_offsets, bool gamma_per_label, bool normalize, float scale,
int scratch_bytes, bool with_loss, bool[] needed) -> (Tensor loss, Tensor grad_x,
Tensor grad_weight, Tensor grad_bias, Tensor grad_generic, Tensor grad_gamma,
Tensor grad_label_bias)"""
DIFFERENTIABLE = 6  # the first arguments
SCALE = 14  # the position of scale among the arguments


def _scales(x: Tensor, scale: float) -> tuple[float, float]:
    """What ``scale`` is split into: the factor of what the operator returns, and the rest.

    All of it at once, but for float16: there 1 / (B N) would round gradients to 0 before the factor
    of a GradScaler meets it in ``backward``. Near 1 they lie in the middle of the range; those of
    the weight add up over the rows, of which therefore 1024 count in full.
    """
    if x.dtype != torch.float16:
        return scale, 1.0
    early = min(1.0, 1024 / max(x.shape[0], 1))
    return early, scale / early


@torch.library.custom_op("fastheads::sc_sigmoid_loss", mutates_args=(), schema=SCHEMA)
def _op(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    generic: Tensor | None,
    gamma: Tensor | None,
    label_bias: Tensor | None,
    label_weights: Tensor | None,
    indices: Tensor,
    offsets: Tensor,
    values: Tensor | None,
    in_offsets: list[int] | None,
    out_offsets: list[int],
    gamma_per_label: bool,
    normalize: bool,
    scale: float,
    scratch_bytes: int,
    with_loss: bool,
    needed: list[bool],
) -> tuple[Tensor, ...]:
    rows, with_grad = x.shape[0], any(needed)
    kernel = Kernel(
        x, (indices, offsets, values), (gamma, label_bias, label_weights), out_offsets,
        gamma_per_label, normalize, _scales(x, scale)[0], with_loss, with_grad, needed[4:],
    )  # fmt: skip
    grads: list[Tensor | None]
    if weight is None:  # x are the logits: the copy that becomes their gradient is the scratch
        logits = new_empty(x, x.shape).copy_(x) if with_grad else x.contiguous()
        groups, labels = slice(0, len(out_offsets) - 1), slice(0, out_offsets[-1])
        kernel(Chunk(groups, labels, slice(0, rows)), logits)
        grads = [logits if needed[0] else None, None, None, None]
    else:
        room = 0 if x.dtype == sum_dtype(x) else scratch_bytes // 16
        layer = Layer(x, weight, bias, generic, in_offsets, out_offsets, needed, room)
        sums = [
            kernel.grad_gamma is not None and gamma_per_label,
            kernel.grad_label_bias is not None,
        ]
        column_bytes = sum(sums) * sum_dtype(x).itemsize
        item, budget = x.element_size(), scratch_bytes - room
        plan = chunks(out_offsets, rows, item, column_bytes, budget, layer.weight_bytes())
        largest = max((chunk.shape[0] * chunk.shape[1] for chunk in plan), default=0)
        held = largest * item + layer.whole_bytes()
        whole = len(plan) == 1 and held <= scratch_bytes
        if not whole:
            layer.begin_parts()
        scratch = new_empty(x, [largest])
        for chunk in plan:
            logits = scratch[: chunk.shape[0] * chunk.shape[1]].view(chunk.shape)
            layer.forward(chunk, logits)
            kernel(chunk, logits)
            if with_grad and whole:
                layer.backward_whole(logits)
            elif with_grad:
                layer.backward(chunk, logits)
        grads = [layer.grad_x, layer.grad_weight, layer.grad_bias, layer.grad_generic]
    grads += [kernel.grad_gamma, kernel.grad_label_bias]
    tensors = (x, weight, bias, generic, gamma, label_bias)
    typed = (
        x.new_empty(0) if grad is None or t is None else grad.to(t.dtype)
        for grad, t in zip(grads, tensors, strict=True)
    )
    return (kernel.loss * scale).to(sum_dtype(x)), *typed


@_op.register_fake
def _(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    tensors, needed = (x, *arguments[: DIFFERENTIABLE - 1]), arguments[-1]
    grads = (
        t.new_empty(t.shape) if need else x.new_empty(0)
        for t, need in zip(tensors, needed, strict=True)
    )
    return x.new_empty((), dtype=sum_dtype(x)), *grads


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.needed = inputs[-1]
    ctx.rest = _scales(inputs[0], inputs[SCALE])[1]
    ctx.save_for_backward(*output[1:])


@once_differentiable("sc_sigmoid_loss")
def _scale_gradients(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    factor = grad * ctx.rest
    scaled = (
        (g * factor.expand_as(g)).to(g.dtype) if need else None  # in float32, as below
        for g, need in zip(ctx.saved_tensors, ctx.needed, strict=True)
    )
    return *scaled, *[None] * 12


_op.register_autograd(_scale_gradients, setup_context=_keep_gradients)


class _Loss(torch.autograd.Function):
    # The same outside of a graph, where the gradients need no copy: the first backward scales and
    # hands over those that there are, another one (retain_graph) computes them again.

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        loss, *ctx.grads = torch.ops.fastheads.sc_sigmoid_loss.default(*arguments)
        tensors = [a if isinstance(a, Tensor) else None for a in arguments]
        ctx.save_for_backward(*tensors)
        ctx.rest = _scales(arguments[0], arguments[SCALE])[1]
        ctx.others = [None if isinstance(a, Tensor) else a for a in arguments]
        return loss

    @staticmethod
    @once_differentiable("sc_sigmoid_loss")
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            pairs = zip(ctx.saved_tensors, ctx.others, strict=True)
            arguments = [other if tensor is None else tensor for tensor, other in pairs]
            _, *grads = torch.ops.fastheads.sc_sigmoid_loss.default(*arguments)
        factor = grad if ctx.rest == 1 else grad * ctx.rest
        if grad.is_cuda:  # which would round a factor without dimensions to the type of g
            for g in grads:
                g.mul_(factor.expand_as(g))
        elif factor != 1:
            for g in grads:
                g.mul_(factor)
        needed = ctx.others[-1]
        return *(g if n else None for g, n in zip(grads, needed, strict=True)), *[None] * 12


def loss_with_gradients(*arguments: Any) -> Tensor:
    """The loss of the operator's arguments, as a function that autograd knows."""
    if trains_eagerly(arguments[0]):
        return _Loss.apply(*arguments)
    return torch.ops.fastheads.sc_sigmoid_loss.default(*arguments)[0]


@register_flop_formula(torch.ops.fastheads.sc_sigmoid_loss)
def _flops(x: Any, weight: Any, *arguments: Any, **kwargs: Any) -> int:
    """Two for each weight and row: the logits, and if needed the gradients of x and of weight."""
    if weight is None:
        return 0
    needed = arguments[-1]
    return 2 * x[0] * weight[0] * (1 + (needed[0] or needed[3]) + needed[1])
