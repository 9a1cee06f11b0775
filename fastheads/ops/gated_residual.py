"""gated_residual: a residual branch that some samples do without.

Veit, Belongie, "Convolutional networks with adaptive computation graphs", 2018, eq. 5.3 of Veit's
thesis.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .dispatch import any_layout, call, once_differentiable, written

_OP = torch.ops.fastheads.gated_residual.default  # found once: see call


def gated_residual_reference(x: Tensor, f: Tensor, z: Tensor, *, relu: bool = False) -> Tensor:
    """:func:`gated_residual` in plain PyTorch."""
    y = x + z.to(x.dtype).reshape(-1, *(1 for _ in x.shape[1:])) * f
    return y.relu() if relu else y


def gated_residual_scatter_reference(
    x: Tensor,
    f: Tensor,
    active: Tensor,
    mean: Tensor | None = None,
    *,
    count: Tensor | None = None,
    relu: bool = False,
) -> None:
    """:func:`gated_residual_scatter_` in plain PyTorch."""
    rows = active[: len(f) if count is None else min(len(f), int(count))]
    y = x[rows] + f[: len(rows)]
    x[rows] = y.relu() if relu else y
    if mean is not None:
        mean[rows] = x[rows].mean((2, 3), dtype=mean.dtype)


def gated_residual(x: Tensor, f: Tensor, z: Tensor, *, relu: bool = False) -> Tensor:
    """Adds the branch ``f`` of a block to ``x`` where the gate is open (eq. 5.3).

    ``y[n] = act(x[n] + z[n] f[n])``, ``act`` the ReLU or nothing, in one pass. Where ``z[n] = 0``,
    ``f[n]`` is not read (and may be anything, NaN included); where ``z[n] = 1``, ``y`` is to the
    last bit that of the addition.

    Args:
        x: ``[N, ...]``, float32, float64, float16 or bfloat16, CPU or CUDA, contiguous or
            channels-last (anything else is copied).
        f: shape, dtype and device of ``x``; copied if its layout is not that of ``x``.
        z: ``[N]``, float32 (float64 with float64 ``x``), as of :func:`gate`.
        relu: whether a ReLU follows.

    Returns:
        Shape, dtype and layout of ``x`` (contiguous where ``x`` had to be copied).

    Raises:
        RuntimeError: if shapes, dtypes or devices disagree.

    Differentiable, once, in ``x``, ``f`` and ``z``. Deterministic.
    """
    return call(_OP, x, f, z, relu)


def gated_residual_(x: Tensor, f: Tensor, z: Tensor, *, relu: bool = False) -> None:
    """:func:`gated_residual` in place of ``x``, for inference: no memory is asked for.

    Without ``relu``, samples with ``z[n] = 0`` are neither read nor written.

    Args:
        x: ``[N, ...]``, float32, float64, float16 or bfloat16, CPU or CUDA, contiguous or
            channels-last.
        f: shape, dtype and device of ``x``, or ``x`` itself; copied if its layout is another.
        z: ``[N]``, float32 (float64 with float64 ``x``).
        relu: whether a ReLU follows.

    Raises:
        RuntimeError: if shapes, dtypes or devices disagree, if ``f`` overlaps ``x`` in part, or if
            gradients are recorded (use :func:`gated_residual`).

    Not differentiable. Deterministic.
    """
    _check_no_gradient("gated_residual_", x, f, z)
    torch.ops.fastheads.gated_residual_.default(x, f, z, relu)
    written(x)


def gated_residual_scatter_(
    x: Tensor,
    f: Tensor,
    active: Tensor,
    mean: Tensor | None = None,
    *,
    count: Tensor | None = None,
    relu: bool = False,
) -> None:
    """Adds in place the branch that was computed for the listed samples alone.

    ``x[active[i]] = act(x[active[i]] + f[i])`` for ``i`` below ``B``, or below ``count`` if that is
    less. Samples that are not listed are neither read nor written.

    Args:
        x: ``[N, ...]``, float32, float64, float16 or bfloat16, CPU or CUDA, contiguous or
            channels-last.
        f: ``[B, ...]``, dtype, device and sample shape of ``x``; copied if its layout is not that
            of ``x``.
        active: ``[B or more]``, int64, distinct rows of ``x``, as of :func:`active_samples`.
        mean: ``[N, C]``, float32 (float64 with float64 ``x``), contiguous, or None: its listed rows
            receive the means over H and W of what is written, from the same pass: the input of the
            next gate. ``x`` is ``[N, C, H, W]`` then.
        count: ``[1]``, int64, on the device of ``x``, or None: lets ``f`` be padded to a size that
            the host knows.
        relu: whether a ReLU follows.

    Raises:
        RuntimeError: if shapes, dtypes or devices disagree, if ``f`` overlaps ``x``, if gradients
            are recorded (use :func:`gated_residual`), or on the CPU if a row is outside 0 to N - 1
            (nothing is written then). On CUDA, where nothing waits for the device, such a row is
            left out.

    Not differentiable. Deterministic.
    """
    outputs = (x,) if mean is None else (x, mean)
    _check_no_gradient("gated_residual_scatter_", f, *outputs)
    torch.ops.fastheads.gated_residual_scatter_.default(x, f, active, count, mean, relu)
    written(*outputs)


def _check_no_gradient(op: str, *tensors: Tensor) -> None:
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        raise RuntimeError(
            f"{op}: no input must require a gradient, since x is overwritten; use gated_residual, "
            "or torch.no_grad()"
        )


def _empty_dense_like(x: Tensor) -> Tensor:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(x) if last or x.is_contiguous() else x.new_empty(x.shape)


@torch.library.register_fake("fastheads::gated_residual")
def _(x: Tensor, f: Tensor, z: Tensor, relu: bool) -> Tensor:
    return _empty_dense_like(x)


@torch.library.register_fake("fastheads::gated_residual_")
def _(x: Tensor, f: Tensor, z: Tensor, relu: bool) -> None:
    return None


@torch.library.register_fake("fastheads::gated_residual_backward")
def _(grad: Tensor, y: Tensor | None, f: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    like = next(t for t in (y, f, grad) if t is not None)  # whose layout the gradients take
    grad_x = grad.new_empty(0) if y is None else _empty_dense_like(like)
    return grad_x, _empty_dense_like(like), z.new_empty(0 if f is None else z.shape[0])


@torch.library.register_fake("fastheads::gated_residual_scatter_")
def _(
    x: Tensor,
    f: Tensor,
    active: Tensor,
    count: Tensor | None,
    mean: Tensor | None,
    relu: bool,
) -> None:
    return None


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, f, z, relu = inputs
    ctx.save_for_backward(output if relu else None, f if z.requires_grad else None, z)


@once_differentiable("gated_residual")
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    y, f, z = ctx.saved_tensors
    op = torch.ops.fastheads.gated_residual_backward.default
    grad_x, grad_f, grad_z = op(grad, y, f, z)
    return grad if y is None else grad_x, grad_f, None if f is None else grad_z, None


torch.library.register_autograd("fastheads::gated_residual", _backward, setup_context=_save)
any_layout("gated_residual", "gated_residual_backward")


@register_flop_formula([torch.ops.fastheads.gated_residual, torch.ops.fastheads.gated_residual_])
def _(x_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * prod(x_shape)


@register_flop_formula(torch.ops.fastheads.gated_residual_backward)
def _(grad_shape: Sequence[int], y_shape: Any, f_shape: Any, *args: Any, **kwargs: Any) -> int:
    # <g, f>; the products z g are not added to anything.
    return 0 if f_shape is None else 2 * prod(grad_shape)


@register_flop_formula(torch.ops.fastheads.gated_residual_scatter_)
def _(*args: Any, **kwargs: Any) -> int:
    return 0  # additions alone
