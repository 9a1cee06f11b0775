"""Multi-label soft margin loss from sparse targets: the mean of one logistic loss a label."""

from __future__ import annotations

from torch import Tensor

from fastheads.losses.self_paced_sigmoid_cross_entropy import self_paced_sigmoid_cross_entropy
from fastheads.losses.sparse import check
from fastheads.targets import SparseTargets

PIECE = 8192  # labels that the kernel takes at a time: their sigmoids stay in the nearest cache


def multilabel_soft_margin(logits: Tensor, targets: SparseTargets) -> Tensor:
    """Averages over labels and rows the cross-entropy of one logistic unit a label.

    ``-1 / L sum_i (y_i log sigmoid(x_i) + (1 - y_i) log sigmoid(-x_i))``, as
    ``torch.nn.MultiLabelSoftMarginLoss`` on the dense targets, which are never formed. Huang,
    "Scalable large scale visual recognition using multi-label image classification", 2019, section
    4.4.2. It is the kernel of ``self_paced_sigmoid_cross_entropy`` on logits as they are.

    Args:
        logits: ``[N, L]``, floating, CPU or CUDA; float16 and bfloat16 are accumulated in float32.
        targets: the labels of the ``N`` rows, distinct and ascending in each row; values, if any,
            are soft targets.

    Returns:
        A scalar; float32, or float64 for float64 logits; 0 for an empty batch.

    Raises:
        ValueError: if the logits are no matrix, or targets are not distinct, ascending labels of
            their rows; on CUDA, where :meth:`SparseTargets.check` reads no numbers, the loss is NaN
            then.

    Differentiable in ``logits``, once. Deterministic.
    """
    check(logits, targets, "mean")
    labels = logits.shape[1]
    pieces = [*range(0, labels, PIECE), labels]
    return self_paced_sigmoid_cross_entropy(
        logits, targets, pieces, normalize=False, reduction="mean"
    )
