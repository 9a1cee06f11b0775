"""sc_linear: the linear layers of many static groups of ragged sizes, from one flat weight.

Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN",
2017, section 3.2, Figure 3: "structurally connected" layers, SC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.flop_counter import register_flop_formula

from .dispatch import autocast, autocasts, call, once_differentiable, written
from .sc_linear_gradients import conditional_backward, save_conditional


def sc_linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
    *,
    generic: Tensor | None = None,
) -> Tensor:
    """:func:`sc_linear` in plain PyTorch: a linear layer a group, side by side."""
    shared = 0 if generic is None else generic.shape[1]
    y, begin = [x.new_empty(len(x), 0)], 0
    for g in range(len(out_offsets) - 1):
        own = x if in_offsets is None else x[:, in_offsets[g] : in_offsets[g + 1]]
        labels, width = out_offsets[g + 1] - out_offsets[g], shared + own.shape[1]
        w = weight[begin : begin + labels * width].reshape(labels, width)
        b = None if bias is None else bias[out_offsets[g] : out_offsets[g + 1]]
        y.append(linear(own if generic is None else torch.cat((generic, own), 1), w, b))
        begin += labels * width
    return torch.cat(y, 1)


def sc_linear_conditional_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor | None,
    groups: Tensor,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """:func:`sc_linear_conditional` in plain PyTorch: pair by pair."""
    chosen: list[int] = groups.tolist()
    labels = [out_offsets[g + 1] - out_offsets[g] for g in range(len(out_offsets) - 1)]
    if in_offsets is None or rows is None:  # all of a row
        own, ends = [0] * len(labels), [x.shape[1]] * len(labels)
    else:
        own, ends = list(in_offsets[:-1]), list(in_offsets[1:])
    begins = [0]
    for g, count in enumerate(labels):
        begins.append(begins[-1] + count * (ends[g] - own[g]))
    values, offsets = [x.new_empty(0)], [0]
    for p, g in enumerate(chosen):
        features = x[p if rows is None else int(rows[p]), own[g] : ends[g]]
        w = weight[begins[g] : begins[g + 1]].reshape(labels[g], ends[g] - own[g])
        b = None if bias is None else bias[out_offsets[g] : out_offsets[g + 1]]
        values.append(linear(features, w, b))
        offsets.append(offsets[-1] + labels[g])
    return torch.cat(values), torch.tensor(offsets, device=x.device)


def sc_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
    *,
    generic: Tensor | None = None,
) -> Tensor:
    """Applies a linear layer of its own to every group of columns.

    ``y[:, out_g] = concat(generic, x[:, in_g]) @ W_g.T + bias[out_g]``, where ``in_g`` and
    ``out_g`` are the columns from ``offsets[g]`` to ``offsets[g + 1]``. Groups may have any sizes,
    also 0. Nothing is padded, copied or concatenated.

    Args:
        x: ``[B, K]``, float32, float64, float16 or bfloat16, CPU or CUDA.
        weight: ``[sum_g n_g (s + k_g)]``, dtype of ``x``: ``W_g``, ``[n_g, s + k_g]`` row-major,
            one group after the other.
        bias: ``[N]`` in the dtype of ``x``, or None.
        in_offsets: ``M + 1`` numbers that ascend from 0 to K; None: every group reads all of ``x``.
        out_offsets: ``M + 1`` numbers that ascend from 0 to N.
        generic: ``[B, s]``, dtype of ``x``: columns that every group reads before its own
            (Figure 3 (d)), or None.

    Returns:
        ``[B, N]``, contiguous, dtype of ``x``.

    Raises:
        RuntimeError: if shapes, offsets, dtypes or devices disagree.

    Differentiable in ``x``, ``weight``, ``bias`` and ``generic``. Under autocast, inputs are cast
    as those of ``torch.nn.functional.linear`` are. Sums are float32 (float64 of float64); the same
    bits from run to run. On CUDA, ``torch.backends.cuda.matmul.allow_tf32`` is followed where
    cuBLAS multiplies float32: results of more than 16 rows, and gradients; up to 16 rows, and in
    :func:`sc_linear_conditional`, products are those of float32 whatever the switch.
    """
    x, weight, bias, generic = autocast(x, weight, bias, generic)
    op = torch.ops.fastheads.sc_linear.default
    return call(op, x, weight, bias, generic, in_offsets, out_offsets)


def sc_linear_(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
    *,
    generic: Tensor | None = None,
    accumulate: bool = True,
) -> Tensor:
    """Adds :func:`sc_linear` to logits in place: heads beside a dense classifier.

    Args:
        y: ``[B, N]``, dtype of ``x`` (under autocast any, such as float32 logits); columns of a
            larger matrix are written in place too.
        x: as in :func:`sc_linear`, and so are ``weight``, ``bias`` and ``generic``.
        weight: flat.
        bias: ``[N]`` or None.
        in_offsets: columns of ``x`` by group.
        out_offsets: columns of ``y`` by group.
        generic: ``[B, s]`` or None.
        accumulate: whether to add; otherwise ``y`` is overwritten, without gradients.

    Returns:
        ``y``.

    Raises:
        RuntimeError: if shapes, offsets, dtypes or devices disagree, or ``y`` overlaps what is
            read, or itself.
        ValueError: if ``accumulate`` is False where gradients are recorded.

    Differentiable in ``y``, ``x``, ``weight``, ``bias`` and ``generic``. Under autocast, inputs are
    cast as by :func:`sc_linear`, ``y`` is not. With gradients, and where autocast leaves ``y`` in
    another dtype, the product is held once beside ``y``. The same bits from run to run.
    """
    x, weight, bias, generic = autocast(x, weight, bias, generic)
    inputs = (x, weight, bias, generic)
    wanted = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (y, *inputs)
    )
    if wanted and not accumulate:
        raise ValueError("sc_linear_: accumulate must be True where gradients are wanted")
    casts = y.is_floating_point() and y.dtype != x.dtype and autocasts(y)
    if not wanted and not casts:
        torch.ops.fastheads.sc_linear_.default(y, *inputs, in_offsets, out_offsets, accumulate)
        written(y)
        return y
    product = torch.ops.fastheads.sc_linear.default(*inputs, in_offsets, out_offsets)
    if y.shape != product.shape or (y.dtype != x.dtype and not casts):
        raise RuntimeError(
            f"sc_linear_: y must be {list(product.shape)} of {x.dtype}, "
            f"got {list(y.shape)} of {y.dtype}"
        )
    return y.add_(product) if accumulate else y.copy_(product)


def sc_linear_conditional(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor | None,
    groups: Tensor,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Evaluates only the groups that each sample asks for: heads where a base network points.

    Pairs may come in any order; each weight is read once for all samples of its group.

    Args:
        x: ``[B, K]`` as in :func:`sc_linear`; without ``rows``, ``[P, k]``, row p for pair p
            (the second layer of a head), where all groups are k wide.
        weight: as in :func:`sc_linear`, flat.
        bias: ``[N]`` in the dtype of ``x``, or None.
        rows: ``[P]``, int64, the row of ``x`` of each pair, or None.
        groups: ``[P]``, int64, the group of each pair.
        in_offsets: columns of ``x`` by group; None: every group reads all of ``x``.
        out_offsets: ``M + 1`` numbers that ascend from 0 to N.

    Returns:
        ``values``, ``[V]``, dtype of ``x``, and ``offsets``, ``[P + 1]``, int64: the logits of
        pair p, ``out_offsets[g + 1] - out_offsets[g]`` of them, are
        ``values[offsets[p]:offsets[p + 1]]``.

    Raises:
        RuntimeError: if shapes, offsets, dtypes or devices disagree, or a row or a group is out of
            range.

    Differentiable in ``x``, ``weight`` and ``bias``, at the cost of the pairs alone, beside zeros
    as large as the weight. Under autocast, inputs are cast as by :func:`sc_linear`. The same bits
    from run to run, but on CUDA for the gradient of a row that has a pair more than once. There
    each call and each gradient waits for the device once, to learn how many values there are; so
    no CUDA graph can capture it.
    """
    x, weight, bias = autocast(x, weight, bias)
    op = torch.ops.fastheads.sc_linear_conditional.default
    return call(op, x, weight, bias, rows, groups, in_offsets, out_offsets)


@torch.library.register_fake("fastheads::sc_linear")
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    generic: Tensor | None,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
) -> Tensor:
    return x.new_empty(x.shape[0], out_offsets[-1])


@torch.library.register_fake("fastheads::sc_linear_")
def _(y: Tensor, *_: Any, **__: Any) -> None:
    return None


@torch.library.register_fake("fastheads::sc_linear_backward")
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    generic: Tensor | None,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    own = x.shape[0], 0 if generic is None else generic.shape[1]
    shapes = x.shape, weight.shape, (out_offsets[-1],), own
    made = [x.new_empty(s if n else 0) for s, n in zip(shapes, needed, strict=True)]
    return made[0], made[1], made[2], made[3]


@torch.library.register_fake("fastheads::sc_linear_conditional")
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor | None,
    groups: Tensor,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
) -> tuple[Tensor, Tensor]:
    values = torch.library.get_ctx().new_dynamic_size()
    return x.new_empty(values), groups.new_empty(groups.shape[0] + 1)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, generic, ctx.in_offsets, ctx.out_offsets = inputs
    ctx.save_for_backward(x, weight, generic)


@once_differentiable("sc_linear")
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, generic = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:4])
    grads = torch.ops.fastheads.sc_linear_backward.default(
        grad, x, weight, generic, ctx.in_offsets, ctx.out_offsets, needed
    )
    return *(g if wanted else None for g, wanted in zip(grads, needed, strict=True)), None, None


torch.library.register_autograd("fastheads::sc_linear", _backward, setup_context=_save)


torch.library.register_autograd(
    "fastheads::sc_linear_conditional", conditional_backward, setup_context=save_conditional
)


@register_flop_formula(torch.ops.fastheads.sc_linear)
def _(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * x[0] * weight[0]


@register_flop_formula(torch.ops.fastheads.sc_linear_)
def _(y: Any, x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * x[0] * weight[0]


@register_flop_formula(torch.ops.fastheads.sc_linear_backward)
def _(grad: Any, x: Any, weight: Any, *rest: Any, **_: Any) -> int:
    of_x, of_weight, _, of_generic = rest[-1]
    return 2 * x[0] * weight[0] * ((of_x or of_generic) + of_weight)


@register_flop_formula(torch.ops.fastheads.sc_linear_conditional)
def _(x: Any, weight: Any, *rest: Any, out_shape: Any, **_: Any) -> int:
    # Exact where all groups are as wide: N outputs have the multiply-adds of the whole weight.
    outputs = rest[-1][-1]
    return 2 * out_shape[0][0] * weight[0] // max(1, outputs)
