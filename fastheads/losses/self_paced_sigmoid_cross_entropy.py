"""Self-paced sigmoid cross-entropy of given logits, from sparse targets."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastheads.ops.sc_sigmoid_loss import check_offsets, loss_of
from fastheads.targets import SparseTargets


def self_paced_sigmoid_cross_entropy(
    logits: Tensor,
    targets: SparseTargets,
    out_offsets: Sequence[int],
    *,
    normalize: bool = True,
    gamma: Tensor | None = None,
    gamma_per_label: bool | None = None,
    label_bias: Tensor | None = None,
    label_weights: Tensor | None = None,
    reduction: str = "mean_rows",
    with_loss: bool = True,
) -> Tensor:
    """Sigmoid cross-entropy of logits that are normalised within groups and then scaled.

    ``z = gamma * l / |l|_2 + label_bias`` for the logits ``l`` of a row and a group (Gao, Guo, Li,
    Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN", 2017,
    eq. 3-4) and ``sum_j w_j (softplus(z_j) - y_j z_j)`` (eq. 1-2). To have the logits from a linear
    layer without ever holding all of them, see :func:`fastheads.ops.sc_sigmoid_loss`, which is the
    same otherwise and says more about the options.

    Args:
        logits: ``[B, N]`` in the order of the groups, floating, CPU or CUDA.
        targets: labels in the order of the groups, distinct and ascending in each row; values, if
            any, are soft targets.
        out_offsets: ``M + 1`` numbers from 0 to N: where each group begins and the last one ends.
        normalize: whether logits are divided by their norm within the group.
        gamma: ``[M]`` per group or ``[N]`` per label, ``None`` for 1.
        gamma_per_label: which of the two; ``None``: what the shape says, per group if ``M = N``.
        label_bias: ``[N]``, added after the scaling, or ``None``.
        label_weights: ``[N]``; a label of weight 0 adds no loss, but still counts in the norm.
        reduction: ``mean_rows``, ``mean`` or ``sum``.
        with_loss: without it the value is 0, and only its gradients are right.

    Returns:
        A scalar; float32, or float64 for float64 logits.

    Raises:
        ValueError: if shapes, dtypes or options disagree.
        RuntimeError: if targets are not distinct, ascending labels; on CUDA the loss is NaN then.

    Differentiable, once, in ``logits``, ``gamma`` and ``label_bias``. Deterministic.
    """
    check_offsets(out_offsets)
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(
            f"logits must be a floating [B, N] matrix, got {logits.dtype} {list(logits.shape)}"
        )
    if out_offsets[-1] != logits.shape[1]:
        raise ValueError(
            f"out_offsets must end at the {logits.shape[1]} columns of logits, "
            f"got {out_offsets[-1]}"
        )
    parameters = (gamma, label_bias, label_weights)
    settings = (gamma_per_label, normalize, reduction, None, with_loss)
    return loss_of(logits, None, None, None, targets, None, out_offsets, parameters, settings)
