"""multilabel_margin: the hinge over all pairs of a label of a row and one that is none of its.

Huang, "Scalable large scale visual recognition using multi-label image classification", 2019,
section 4.4.1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastheads.ops.dispatch import call, once_differentiable, sum_dtype, trains_eagerly
from fastheads.targets import SparseTargets


def multilabel_margin_reference(
    logits: Tensor, targets: SparseTargets, scale: float = 1.0
) -> Tensor:
    """:func:`multilabel_margin` in plain PyTorch, with all hinges ``[nonzeros, L]``."""
    x, rows = logits.to(sum_dtype(logits)), targets.row_indices()
    others = x.index_put((rows, targets.indices), x.new_full((), -torch.inf))
    hinges = 1 - x[rows, targets.indices][:, None] + others[rows]
    return hinges.relu().sum() * scale


def multilabel_margin(logits: Tensor, targets: SparseTargets, scale: float = 1.0) -> Tensor:
    """Sums the hinge over all pairs of a label of the row and one that is not.

    ``scale sum_n sum_j sum_i max(0, 1 - (x_nj - x_ni))``, where ``j`` runs over the labels of row
    ``n`` and ``i`` over all others. With ``scale = 1 / (N L)`` it is the mean that
    ``torch.nn.MultiLabelMarginLoss`` takes. Logits are read once. On the CPU their gradient is
    written in the same pass, as if the gradient of the result were 1; if it turns out to be
    another, as with scaled gradients, they are read again. On CUDA, where to look would be to wait
    for the device, ``backward`` reads them again.

    Args:
        logits: ``[N, L]``, float32, bfloat16, float16 or float64, CPU or CUDA; rows with unit
            stride are read in place. Sums are float32 within a row, float64 over rows.
        targets: the labels of the ``N`` rows, distinct and ascending in each row; without values.
            A row without labels adds 0.
        scale: factor of the sum.

    Returns:
        A scalar; float32, or float64 for float64 logits.

    Raises:
        ValueError: if targets have values.
        RuntimeError: if shapes, dtypes or devices disagree, or targets are not distinct, ascending
            labels. CUDA does not wait for the device to find out: the loss is NaN.

    Differentiable, once, in ``logits``; at the corner of a hinge its gradient is 0. Deterministic.
    """
    if targets.values is not None:
        raise ValueError(
            "targets must have no values, since a margin knows no soft targets, "
            f"got {targets.values.numel()}"
        )
    arguments = logits, targets.indices, targets.offsets
    if logits.requires_grad and logits.is_cpu and trains_eagerly(logits):
        return _InOnePass.apply(*arguments, scale)
    return _total(call(torch.ops.fastheads.multilabel_margin.default, *arguments), scale, logits)


def _total(rows: Tensor, scale: float, logits: Tensor) -> Tensor:
    return (rows.sum() * scale).to(sum_dtype(logits))


class _InOnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, indices: Tensor, offsets: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(logits, indices, offsets)
        ctx.factors = logits.new_full((len(logits),), scale, dtype=torch.float64)
        op = torch.ops.fastheads.multilabel_margin_backward.default
        rows, ctx.grad = op(ctx.factors, logits, indices, offsets)
        return _total(rows, scale, logits)

    @staticmethod
    @once_differentiable("multilabel_margin")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        found, ctx.grad = ctx.grad, None
        if found is None or grad != 1:  # None: another backward has handed it over
            op = torch.ops.fastheads.multilabel_margin_backward.default
            _, found = op(ctx.factors * grad, *ctx.saved_tensors)
        return found, None, None, None


@torch.library.register_fake("fastheads::multilabel_margin")
def _(logits: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.float64)


@torch.library.register_fake("fastheads::multilabel_margin_backward")
def _(grad: Tensor, logits: Tensor, indices: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    loss = logits.new_empty(logits.shape[0], dtype=torch.float64)
    return loss, logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


@once_differentiable("multilabel_margin")
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    op = torch.ops.fastheads.multilabel_margin_backward.default
    return op(grad, *ctx.saved_tensors)[1], None, None


torch.library.register_autograd("fastheads::multilabel_margin", _backward, setup_context=_save)


@register_flop_formula(
    [torch.ops.fastheads.multilabel_margin, torch.ops.fastheads.multilabel_margin_backward]
)
def _(*args: Any, **kwargs: Any) -> int:
    return 0  # comparisons and additions
