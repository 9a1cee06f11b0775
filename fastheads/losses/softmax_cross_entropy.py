"""Softmax cross-entropy against a distribution over each row's labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastheads.losses.sparse import check, reduce_rows, values_of, wide
from fastheads.ops.dispatch import once_differentiable
from fastheads.targets import SparseTargets


def softmax_cross_entropy(
    logits: Tensor, targets: SparseTargets, reduction: str = "mean_rows"
) -> Tensor:
    """Cross-entropy of ``softmax(logits)`` against the distribution over the row's labels.

    ``logsumexp(z) - sum_j p_j z_j``, where ``p`` is uniform over the labels of the row, or
    proportional to their values. Equals ``F.cross_entropy`` on the dense distribution, which is
    never formed. A row without labels adds 0.

    Args:
        logits: ``[N, L]``, floating; float16 and bfloat16 are accumulated in float32.
        targets: the labels of the ``N`` rows, distinct in each row, in any order; values, if any,
            are at least 0.
        reduction: ``mean_rows`` averages over rows (also over those without labels), ``mean``
            divides that by ``L``, ``sum`` sums, ``none`` leaves one number a row.

    Returns:
        A scalar, or ``[N]``; float32, or float64 for float64 logits.

    Raises:
        ValueError: if the logits are no matrix, the reduction is unknown, or targets are not
            distinct labels of their rows, of which :meth:`SparseTargets.check` reads the numbers
            on the CPU only.

    Differentiable in ``logits``, once.
    """
    check(logits, targets, reduction, ordered=False)
    values, rows = values_of(targets, wide(logits)), targets.row_indices()
    mass = values.new_zeros(targets.num_rows).index_add_(0, rows, values)
    values = values / mass.clamp(min=torch.finfo(mass.dtype).tiny)[rows]
    loss = _SoftmaxCrossEntropy.apply(logits, rows, targets.indices, values, mass > 0)
    return reduce_rows(loss, reduction, logits.shape[1])


class _SoftmaxCrossEntropy(torch.autograd.Function):
    # By hand because autograd would gather through a second dense [N, L] gradient.

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: Tensor, labels: Tensor, values: Tensor, labelled: Tensor
    ) -> Tensor:
        ctx.save_for_backward(logits, rows, labels, values, labelled)
        z = wide(logits)
        loss = torch.logsumexp(z, 1).masked_fill(~labelled, 0)
        return loss.index_add_(0, rows, z[rows, labels] * values, alpha=-1)

    @staticmethod
    @once_differentiable("softmax_cross_entropy")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, rows, labels, values, labelled = ctx.saved_tensors
        out = torch.softmax(wide(logits), 1)
        out.index_put_((rows, labels), -values, accumulate=True)
        return out.mul_((grad * labelled)[:, None]).to(logits.dtype), None, None, None, None
