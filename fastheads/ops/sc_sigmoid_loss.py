"""sc_sigmoid_loss: a linear layer of groups and its self-paced sigmoid cross-entropy in one.

Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN",
2017, eq. 1-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastheads.ops.dispatch import autocast, sum_dtype, written
from fastheads.ops.sc_linear import sc_linear_reference
from fastheads.ops.sc_sigmoid_chunks import ROW_BLOCK, on_device
from fastheads.ops.sc_sigmoid_gradients import loss_with_gradients
from fastheads.ops.scratch import scratch_on
from fastheads.targets import SparseTargets, may_be_read

REDUCTIONS = ("mean_rows", "mean", "sum")


def sc_sigmoid_loss_logits_reference(
    logits: Tensor,
    targets: SparseTargets,
    out_offsets: Sequence[int],
    *,
    normalize: bool = True,
    gamma: Tensor | None = None,
    gamma_per_label: bool | None = None,
    label_bias: Tensor | None = None,
    label_weights: Tensor | None = None,
) -> Tensor:
    """The loss of each row and group, ``[B, M]``, in plain PyTorch with dense targets."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    sizes = torch.tensor(out_offsets, device=logits.device).diff()
    none = wide.new_empty(len(wide), 0)
    if normalize:
        parts = wide.split(sizes.tolist(), dim=1)
        norms = torch.cat([none, *(part.norm(dim=1, keepdim=True) for part in parts)], dim=1)
        wide = wide / norms.masked_fill(norms == 0, 1).repeat_interleave(sizes, dim=1)
    if gamma is not None:
        per_label = _per_label(gamma, gamma_per_label, len(sizes), logits.shape[1])
        wide = wide * (gamma if per_label else gamma.repeat_interleave(sizes))
    z = wide if label_bias is None else wide + label_bias
    y = torch.zeros_like(z)
    y[targets.row_indices(), targets.indices] = (
        y.new_ones(()) if targets.values is None else targets.values.to(y)
    )
    loss = torch.logaddexp(z, z.new_zeros(())) - y * z
    loss = loss if label_weights is None else loss * label_weights
    sums = (part.sum(1, keepdim=True) for part in loss.split(sizes.tolist(), dim=1))
    return torch.cat([none, *sums], dim=1)


def sc_sigmoid_loss_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: SparseTargets,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
    *,
    generic: Tensor | None = None,
    reduction: str = "mean_rows",
    **options: Any,
) -> Tensor:
    """:func:`sc_sigmoid_loss` in plain PyTorch, with all logits and dense targets."""
    logits = sc_linear_reference(x, weight, bias, in_offsets, out_offsets, generic=generic)
    rows = sc_sigmoid_loss_logits_reference(logits, targets, out_offsets, **options)
    return rows.sum() * _scale(reduction, *logits.shape)


def sc_sigmoid_loss(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: SparseTargets,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
    *,
    generic: Tensor | None = None,
    normalize: bool = True,
    gamma: Tensor | None = None,
    gamma_per_label: bool | None = None,
    label_bias: Tensor | None = None,
    label_weights: Tensor | None = None,
    reduction: str = "mean_rows",
    scratch_bytes: int | None = None,
    with_loss: bool = True,
) -> Tensor:
    """Sigmoid cross-entropy of a linear layer of groups, without ever holding all its logits.

    For a group with logits ``l = [generic | x_g] W_g^T + b_g`` it is ``z = gamma * l / |l|_2 +
    label_bias`` (eq. 3-4; ``z = gamma * l + label_bias`` without ``normalize``) and the loss
    ``sum_j w_j (softplus(z_j) - y_j z_j)`` (eq. 1-2). Logits and their gradients live in a scratch
    for some groups at a time; the gradients of everything are computed with the loss, so that
    ``backward`` only scales them. Eq. 5 is the diagonal of the derivative of the normalisation;
    here, as in automatic differentiation, it is used whole.

    Args:
        x: ``[B, K]``, float32, bfloat16, float16 or float64, CPU or CUDA.
        weight: flat ``[sum_g n_g (s + k_g)]``: the groups' ``[n_g, s + k_g]``, one after the other.
        bias: ``[N]``, inside the normalised logits, or ``None``.
        targets: labels in the order of the groups, distinct and ascending in each row; values, if
            any, are soft targets.
        in_offsets: ``M + 1`` numbers: group ``g`` reads columns ``in_offsets[g]`` to
            ``in_offsets[g + 1]`` of ``x``; ``None`` if every group reads all of it.
        out_offsets: ``M + 1`` numbers: the labels of group ``g``, likewise; from 0 to N.
        generic: ``[B, s]``, what every group reads in front of its own columns.
        normalize: whether logits are divided by their norm within the group.
        gamma: ``[M]`` per group or ``[N]`` per label, ``None`` for 1.
        gamma_per_label: which of the two; ``None``: what the shape says, per group if ``M = N``.
        label_bias: ``[N]``, added after the scaling, or ``None``.
        label_weights: ``[N]``; a label of weight 0 adds no loss, but still counts in the norm.
        reduction: ``mean_rows`` sums over labels and averages over rows, ``mean`` averages over
            both, ``sum`` sums over both. An empty batch has loss 0.
        scratch_bytes: the most that is held at a time, besides gradients of the inputs, as long as
            one row of the largest group fits; by default 64 MB on the CPU and 256 MB on CUDA. What
            sums chunks is float32: also the gradient of the weight of one group at a time, float16
            or bfloat16, whose rows do not fit; unless that takes more than all of its logits, which
            are held then.
        with_loss: without it the value is 0, and only its gradients are right: a logarithm less.

    Returns:
        A scalar; float32, or float64 for float64 inputs.

    Raises:
        ValueError: if shapes, dtypes or options disagree.
        RuntimeError: if targets are not distinct, ascending labels of the groups. CUDA does not
            wait for the device to find out: the loss is NaN.

    Differentiable, once, in ``x``, ``weight``, ``bias``, ``generic``, ``gamma`` and ``label_bias``.
    A group whose norm is 0 has ``z = label_bias``, and the gradient of its logits is 0 by
    definition. Deterministic.
    """
    x, weight, bias, generic = autocast(x, weight, bias, generic)
    _check_layer(x, weight, bias, generic, in_offsets, out_offsets)
    parameters = (gamma, label_bias, label_weights)
    settings = (gamma_per_label, normalize, reduction, scratch_bytes, with_loss)
    return loss_of(x, weight, bias, generic, targets, in_offsets, out_offsets, parameters, settings)


def loss_of(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    generic: Tensor | None,
    targets: SparseTargets,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
    parameters: tuple[Tensor | None, Tensor | None, Tensor | None],
    settings: tuple[bool | None, bool, str, int | None, bool],
) -> Tensor:
    """The loss of a layer, or of given logits ``x`` if there is no ``weight``."""
    gamma, label_bias, label_weights = parameters
    gamma_per_label, normalize, reduction, scratch_bytes, with_loss = settings
    labels, groups = out_offsets[-1], len(out_offsets) - 1
    _check_targets("logits" if weight is None else "x", x, targets)
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
    for name, tensor in [("label_bias", label_bias), ("label_weights", label_weights)]:
        if tensor is not None and tensor.shape != (labels,):
            raise ValueError(f"{name} must be [{labels}], got {list(tensor.shape)}")
    for name, tensor in zip(("gamma", "label_bias", "label_weights"), parameters, strict=True):
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating, got {tensor.dtype}")
    per_label = _per_label(gamma, gamma_per_label, groups, labels)
    differentiable = (x, weight, bias, generic, gamma, label_bias)
    grad = torch.is_grad_enabled()
    needed = [grad and t is not None and t.requires_grad for t in differentiable]
    arguments = (
        *differentiable, label_weights, targets.indices, targets.offsets, targets.values,
        None if in_offsets is None else list(in_offsets), list(out_offsets), per_label, normalize,
        _scale(reduction, x.shape[0], labels), scratch_on(x.device, scratch_bytes), with_loss,
        needed,
    )  # fmt: skip
    return loss_with_gradients(*arguments)


def sc_sigmoid_loss_logits_(
    logits: Tensor,
    targets: SparseTargets,
    out_offsets: Sequence[int],
    *,
    normalize: bool = True,
    gamma: Tensor | None = None,
    gamma_per_label: bool | None = None,
    label_bias: Tensor | None = None,
    label_weights: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Replaces logits by the gradient of their loss: the kernel of :func:`sc_sigmoid_loss`.

    Args:
        logits: ``[B, N]`` in the order of the groups, rows with unit stride; overwritten.
        targets: as in :func:`sc_sigmoid_loss`, and so are the options.
        out_offsets: ``M + 1`` numbers from 0 to N.
        normalize: whether logits are divided by their norm within the group.
        gamma: ``[M]`` or ``[N]`` in the type of sums, as are biases and weights of the labels:
            float32, or float64.
        gamma_per_label: as in :func:`sc_sigmoid_loss`.
        label_bias: ``[N]`` or ``None``.
        label_weights: ``[N]`` or ``None``.
        scale: factor of the gradient.

    Returns:
        ``[B, M]`` float64: the loss of each row and group.

    Raises:
        ValueError: if ``logits`` is no matrix of N columns, ``targets`` are not of its rows, or
            ``gamma`` has another shape.
        RuntimeError: if other shapes, dtypes or devices disagree, the targets are no distinct,
            ascending labels (on CUDA the loss is NaN instead), or gradients are recorded.

    Not differentiable. Deterministic.
    """
    check_offsets(out_offsets)
    if logits.ndim != 2 or logits.shape[1] != out_offsets[-1]:
        raise ValueError(f"logits must be [B, {out_offsets[-1]}], got {list(logits.shape)}")
    _check_targets("logits", logits, targets)
    if torch.is_grad_enabled() and logits.requires_grad:
        raise RuntimeError(
            "sc_sigmoid_loss_logits_: logits must not require a gradient, since they are "
            "overwritten; use fastheads.losses.self_paced_sigmoid_cross_entropy, or torch.no_grad()"
        )
    per_label = _per_label(gamma, gamma_per_label, len(out_offsets) - 1, logits.shape[1])
    found = torch.ops.fastheads.sc_sigmoid_loss_logits_.default(
        logits, targets.indices, targets.offsets, targets.values,
        on_device(tuple(out_offsets), logits.device), logits.shape[1], gamma, label_bias,
        label_weights, per_label, normalize, True, True, scale, False, False,
    )  # fmt: skip
    written(logits)
    return found[0][0]


def _check_targets(name: str, x: Tensor, targets: SparseTargets) -> None:
    if targets.num_rows != x.shape[0]:
        raise ValueError(
            f"targets must have one row for each of the {x.shape[0]} rows of {name}, "
            f"got {targets.num_rows}"
        )
    values = targets.values
    if values is not None and (values.shape != targets.indices.shape or values.is_complex()):
        raise ValueError(
            f"values of targets must be {list(targets.indices.shape)} numbers, "
            f"got {values.dtype} {list(values.shape)}"
        )
    offsets, entries = targets.offsets, len(targets.indices)
    if may_be_read(offsets) and (int(offsets[0]) != 0 or int(offsets[-1]) != entries):
        raise ValueError(  # the rest is seen row by row
            f"offsets of targets must ascend from 0 to the {entries} entries of indices, "
            f"got {int(offsets[0])} to {int(offsets[-1])}"
        )


def _scale(reduction: str, rows: int, labels: int) -> float:
    return {"sum": 1.0, "mean_rows": 1 / max(rows, 1), "mean": 1 / max(rows * labels, 1)}[reduction]


def _per_label(gamma: Tensor | None, given: bool | None, groups: int, labels: int) -> bool:
    """Whether gamma is one a label: what is given, or what its shape says."""
    if gamma is None:
        return False
    levels = {False: ((groups,), "group"), True: ((labels,), "label")}
    allowed = [level for key, level in levels.items() if given in (None, key)]
    if gamma.shape not in [shape for shape, _ in allowed]:
        expected = ", or ".join(f"{list(shape)}, one per {name}" for shape, name in allowed)
        raise ValueError(f"gamma must be {expected}, got {list(gamma.shape)}")
    return gamma.shape != (groups,) if given is None else given


def check_offsets(out_offsets: Sequence[int]) -> None:
    """Raises ValueError for what are no offsets of groups."""
    if not out_offsets or out_offsets[0] != 0 or any(a > b for a, b in pairwise(out_offsets)):
        raise ValueError(f"out_offsets must ascend from 0, got {list(out_offsets)[:9]}")


def _check_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    generic: Tensor | None,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
) -> None:
    check_offsets(out_offsets)
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"x must be a floating [B, K] matrix, got {x.dtype} {list(x.shape)}")
    if generic is not None and (generic.ndim != 2 or generic.shape[0] != x.shape[0]):
        raise ValueError(f"generic must be [{x.shape[0]}, s], got {list(generic.shape)}")
    if in_offsets is not None:
        if len(in_offsets) != len(out_offsets):
            raise ValueError(
                f"in_offsets must have the {len(out_offsets)} entries of out_offsets, "
                f"got {len(in_offsets)}"
            )
        ends = in_offsets[0], in_offsets[-1]
        if any(a > b for a, b in pairwise(in_offsets)) or ends != (0, x.shape[1]):
            raise ValueError(
                f"in_offsets must ascend from 0 to the {x.shape[1]} columns of x, "
                f"got {list(in_offsets)[:9]}"
            )
    shared = 0 if generic is None else generic.shape[1]
    labels = [b - a for a, b in pairwise(out_offsets)]
    widths = [b - a for a, b in pairwise(in_offsets)] if in_offsets else [x.shape[1]] * len(labels)
    size = sum(n * (shared + k) for n, k in zip(labels, widths, strict=True))
    if weight.shape != (size,):
        raise ValueError(f"weight must be [{size}], got {list(weight.shape)}")
    if bias is not None and bias.shape != (out_offsets[-1],):
        raise ValueError(f"bias must be [{out_offsets[-1]}], got {list(bias.shape)}")
    for name, tensor in [("weight", weight), ("bias", bias), ("generic", generic)]:
        if tensor is not None and (tensor.dtype, tensor.device) != (x.dtype, x.device):
            raise ValueError(
                f"{name} must have dtype and device of x, {x.dtype} on {x.device}, "
                f"got {tensor.dtype} on {tensor.device}"
            )


@torch.library.register_fake("fastheads::sc_sigmoid_loss_logits_")
def _(logits: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    (rows, columns), groups = logits.shape, arguments[3].shape[0] - 1
    blocks, dtype = -(-rows // ROW_BLOCK), sum_dtype(logits)
    gamma, bias = (
        logits.new_empty((blocks if asked else 0, columns), dtype=dtype) for asked in arguments[-2:]
    )
    return logits.new_empty((2, rows, groups), dtype=torch.float64), gamma, bias


@register_flop_formula(torch.ops.fastheads.sc_sigmoid_loss_logits_)
def _(*args: Any, **kwargs: Any) -> int:
    return 0  # no multiply-adds of a product
