"""Sigmoid cross-entropy from sparse targets: ``sum_j softplus(z_j) - sum_j y_j z_j``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastheads.losses.sparse import check, reduce_rows, values_of, wide
from fastheads.ops.dispatch import once_differentiable
from fastheads.targets import SparseTargets


def sigmoid_cross_entropy(
    logits: Tensor, targets: SparseTargets, reduction: str = "mean_rows"
) -> Tensor:
    """Sums over labels the cross-entropy of one logistic unit a label.

    Equals ``F.binary_cross_entropy_with_logits`` on the dense targets, which are never formed:
    the dense part needs the logits alone, and the targets enter through their nonzeros, before
    the sum over labels: a large logit of a target takes no digits from the others.
    Warde-Farley, Rabinovich, Anguelov, "Self-informed neural network structure learning", 2015,
    section 4: the output layer consists of logistic units, one per label.

    Args:
        logits: ``[N, L]``, floating; float16 and bfloat16 are accumulated in float32.
        targets: the labels of the ``N`` rows, distinct in each row, in any order; values, if any,
            are soft targets.
        reduction: ``mean_rows`` sums over labels and averages over rows, ``mean`` averages over
            both, ``sum`` sums over both, ``none`` leaves one number a row.

    Returns:
        A scalar, or ``[N]``; float32, or float64 for float64 logits.

    Raises:
        ValueError: if the logits are no matrix, the reduction is unknown, or targets are not
            distinct labels of their rows, of which :meth:`SparseTargets.check` reads the numbers
            on the CPU only.

    Differentiable in ``logits``, once.
    """
    check(logits, targets, reduction, ordered=False)
    values = values_of(targets, wide(logits))
    rows = _SigmoidCrossEntropy.apply(logits, targets.row_indices(), targets.indices, values)
    return reduce_rows(rows, reduction, logits.shape[1])


class _SigmoidCrossEntropy(torch.autograd.Function):
    # By hand because autograd would gather through a second dense [N, L] gradient, and because
    # softplus is logaddexp(z, 0): exact everywhere, and not slow as log1p sometimes is on a CPU.

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, labels: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(logits, rows, labels, values)
        z = wide(logits)
        zero, own = z.new_zeros(()), z[rows, labels]
        loss = torch.logaddexp(z, zero)
        # softplus(z) - y z without its cancellation.
        loss[rows, labels] = torch.logaddexp(own, zero).lerp(torch.logaddexp(-own, zero), values)
        return loss.sum(1)

    @staticmethod
    @once_differentiable("sigmoid_cross_entropy")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, rows, labels, values = ctx.saved_tensors
        out = torch.sigmoid(wide(logits))
        out.index_put_((rows, labels), -values, accumulate=True)
        return out.mul_(grad[:, None]).to(logits.dtype), None, None, None
