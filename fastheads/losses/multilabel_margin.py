"""Multi-label margin loss from sparse targets: labels should lie 1 above all that are none."""

from __future__ import annotations

from torch import Tensor

from fastheads.losses.sparse import check
from fastheads.ops import multilabel_margin as sum_of_hinges
from fastheads.targets import SparseTargets


def multilabel_margin(logits: Tensor, targets: SparseTargets) -> Tensor:
    """Averages the hinge over rows and labels, summed over the labels of the row.

    The mean over rows of ``1 / L sum_j sum_i max(0, 1 - (x_j - x_i))``, where ``j`` runs over the
    labels of the row and ``i`` over all others. Equals ``torch.nn.MultiLabelMarginLoss`` on the
    padded matrix of labels, which is never formed. Huang, "Scalable large scale visual recognition
    using multi-label image classification", 2019, section 4.4.1, whose sum is read as PyTorch has
    it. A row without labels adds 0.

    Args:
        logits: ``[N, L]``, floating, CPU or CUDA; float16 and bfloat16 are accumulated in float32.
        targets: the labels of the ``N`` rows, distinct and ascending in each row; without values.

    Returns:
        A scalar; float32, or float64 for float64 logits; 0 for an empty batch.

    Raises:
        ValueError: if the logits are no matrix, targets have values, or targets are not distinct,
            ascending labels of their rows; on CUDA, where :meth:`SparseTargets.check` reads no
            numbers, the loss is NaN then.

    Differentiable in ``logits``, once; at the corner of a hinge its gradient is 0. Deterministic.
    """
    check(logits, targets, "mean")
    return sum_of_hinges(logits, targets, scale=1 / max(logits.numel(), 1))
