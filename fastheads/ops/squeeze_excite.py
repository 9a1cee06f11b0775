"""squeeze_excite: every channel scaled by a gate that sees the mean of all channels.

Hu, Shen, Albanie, Sun, Wu, "Squeeze-and-Excitation Networks", 2017, arXiv:1709.01507, eq. 2-4;
Huang, "Scalable large scale visual recognition using multi-label image classification", 2019,
sections 3.2 and 3.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from .dispatch import (
    any_layout,
    call,
    once_differentiable,
    sum_dtype,
    trains_eagerly,
    written,
)

# Their places are the codes of the operator.
_INNER = {
    "relu": F.relu,
    "silu": F.silu,
    "identity": lambda h: h,
    "hard_swish": lambda h: h * (F.relu6(h + 3) / 6),
}
_GATE = {"sigmoid": torch.sigmoid, "hard_sigmoid": lambda h: F.relu6(h + 3) / 6}


def squeeze_excite_reference(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    residual: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    inner: str = "relu",
    gate: str = "sigmoid",
    relu: bool = False,
) -> Tensor:
    """:func:`squeeze_excite` in plain PyTorch."""
    u = x if scale is None else x * scale.to(x.dtype)[:, None, None]
    u = u if shift is None else u + shift.to(x.dtype)[:, None, None]
    mean = u.mean((2, 3)).to(weight1.dtype)  # squeeze, eq. 2
    hidden = _INNER[inner](F.linear(mean, weight1.flatten(1), bias1))
    s = _GATE[gate](F.linear(hidden, weight2.flatten(1), bias2))  # excitation, eq. 3
    y = s.to(x.dtype)[:, :, None, None] * u  # eq. 4
    y = y if residual is None else y + residual
    return y.relu() if relu else y


def squeeze_excite(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    residual: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    inner: str = "relu",
    gate: str = "sigmoid",
    relu: bool = False,
) -> Tensor:
    """Scales every channel by a gate that sees the mean of all channels, and adds a residual.

    With ``u = scale * x + shift`` (a folded batch norm; ``x`` without them), in one operator::

        mean = u.mean((2, 3))                                              # eq. 2
        s = gate(weight2 @ inner(weight1 @ mean + bias1) + bias2)          # eq. 3
        y = relu(s * u + residual)                                         # eq. 4

    The samples are scaled while they are still in the cache from the pooling. Hu, Shen, Albanie,
    Sun, Wu, "Squeeze-and-Excitation Networks", 2017, arXiv:1709.01507.

    Args:
        x: ``[N, C, H, W]``, float32, float64, float16 or bfloat16, CPU or CUDA; contiguous and
            channels-last are read in place.
        weight1: ``[R, C]`` or ``[R, C, 1, 1]``, in the dtype of ``x`` or float32.
        bias1: ``[R]`` or None.
        weight2: ``[C, R]`` or ``[C, R, 1, 1]``, in the dtype of ``weight1``.
        bias2: ``[C]`` or None.
        residual: shape and dtype of ``x``, or None; in any layout.
        scale: ``[C]`` or None, in the dtype of ``x`` or float32; not differentiable.
        shift: as ``scale``.
        inner: ``"relu"``, ``"silu"``, ``"identity"`` or ``"hard_swish"`` (``h relu6(h + 3) / 6``).
        gate: ``"sigmoid"`` or ``"hard_sigmoid"`` (``relu6(x + 3) / 6``).
        relu: whether y goes through a last ReLU.

    Returns:
        ``[N, C, H, W]``, dtype of ``x``, in its layout (contiguous if it has neither of the two).

    Raises:
        RuntimeError: if shapes, dtypes or devices disagree, or ``scale`` or ``shift`` needs a
            gradient.
        ValueError: if ``inner`` or ``gate`` is unknown.

    Differentiable, once, in all but ``scale`` and ``shift``. Sums run in float32 (float64 for
    float64) in an order that does not depend on the number of threads.
    """
    for name, vector in (("scale", scale), ("shift", shift)):
        if vector is not None and vector.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(f"{name} must not need a gradient, got one with requires_grad")
    codes = _code("inner", inner, _INNER), _code("gate", gate, _GATE), relu
    if trains_eagerly(x):
        return _Excite.apply(x, weight1, bias1, weight2, bias2, residual, scale, shift, *codes)
    y, _, _ = call(
        torch.ops.fastheads.squeeze_excite.default,
        *(x, weight1, bias1, weight2, bias2, residual, scale, shift, *codes),
    )
    return y


def squeeze_excite_(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    residual: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    eps: float = 1e-5,
    inner: str = "relu",
    gate: str = "sigmoid",
    relu: bool = False,
) -> Tensor:
    """:func:`squeeze_excite` that writes y over x, for inference.

    Fresh memory for y costs more than y itself where the system has to hand it out page by page.
    With statistics it begins with a batch norm, of weight ``scale`` and bias ``shift``::

        u = scale * (x - running_mean) / sqrt(running_var + eps) + shift

    Args:
        x: ``[N, C, H, W]``, as there, but contiguous or channels-last.
        weight1: as there, and so are all others.
        bias1: ``[R]`` or None.
        weight2: ``[C, R]`` or ``[C, R, 1, 1]``.
        bias2: ``[C]`` or None.
        residual: shape and dtype of ``x``, or None; may be ``x``.
        scale: ``[C]`` or None.
        shift: ``[C]`` or None.
        running_mean: ``[C]`` or None, as ``scale``.
        running_var: the same; there are both or neither.
        eps: of that norm.
        inner: as there.
        gate: as there.
        relu: as there.

    Returns:
        ``x``.

    Raises:
        RuntimeError: as there, or if gradients are recorded, or ``x`` has other strides, or
            ``residual`` overlaps it in part, or one of the statistics is missing.
        ValueError: as there.
    """
    tensors = (x, weight1, bias1, weight2, bias2, residual, scale, shift)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise RuntimeError(
            "squeeze_excite_: no input must require a gradient, since x is overwritten; use "
            "squeeze_excite, or torch.no_grad()"
        )
    call(
        torch.ops.fastheads.squeeze_excite_.default,
        *(*tensors, _code("inner", inner, _INNER), _code("gate", gate, _GATE), relu),
        *(running_mean, running_var, eps),
    )
    written(x)
    return x


def _code(name: str, key: str, names: dict[str, Any]) -> int:
    for code, known in enumerate(names):
        if known == key:
            return code
    raise ValueError(f"{name} must be one of {', '.join(names)}, got {key!r}")


def _like_output(x: Tensor) -> Tensor:
    in_place = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(x) if in_place else x.new_empty(x.shape)


@torch.library.register_fake("fastheads::squeeze_excite")
def _(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    residual: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    inner: int,
    gate: int,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    mean, s = (x.new_empty(x.shape[:2], dtype=sum_dtype(x)) for _ in range(2))
    return _like_output(x), mean, s


@torch.library.register_fake("fastheads::squeeze_excite_")
def _(x: Tensor, *_: Any) -> None:
    return None


@torch.library.register_fake("fastheads::squeeze_excite_backward")
def _(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    mean: Tensor,
    s: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    has_residual: bool,
    inner: int,
    gate: int,
) -> tuple[Tensor, ...]:
    grad_residual = _like_output(x) if has_residual else x.new_empty(0)
    parameters = (weight1, bias1, weight2, bias2)
    return (
        _like_output(x),
        grad_residual,
        *(mean.new_empty(0) if t is None else t.new_empty(t.shape) for t in parameters),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight1, bias1, weight2, bias2, _, scale, shift, inner, gate, relu = inputs
    y, mean, s = output
    ctx.mark_non_differentiable(mean, s)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        x, y if relu else None, mean, s, weight1, bias1, weight2, bias2, scale, shift
    )
    ctx.codes = inner, gate


@once_differentiable("squeeze_excite")
def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 11
    _, y, _, _, _, bias1, _, bias2, _, _ = saved = ctx.saved_tensors
    needs_residual = ctx.needs_input_grad[5]
    masked = needs_residual and y is not None  # else grad itself is the residual's
    grad_x, grad_residual, grad_weight1, grad_bias1, grad_weight2, grad_bias2 = call(
        torch.ops.fastheads.squeeze_excite_backward.default, grad, *saved, masked, *ctx.codes
    )
    return (
        grad_x,
        grad_weight1,
        None if bias1 is None else grad_bias1,
        grad_weight2,
        None if bias2 is None else grad_bias2,
        (grad_residual if masked else grad) if needs_residual else None,
        *(None,) * 5,
    )


torch.library.register_autograd("fastheads::squeeze_excite", _backward, setup_context=_save)


class _Excite(torch.autograd.Function):
    """The operator and its gradient, entered in a quarter of the time."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = call(torch.ops.fastheads.squeeze_excite.default, *inputs)
        _save(ctx, inputs, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad)


any_layout("squeeze_excite", "squeeze_excite_", "squeeze_excite_backward")


@register_flop_formula([torch.ops.fastheads.squeeze_excite, torch.ops.fastheads.squeeze_excite_])
def _(x_shape: Any, weight1_shape: Any, *_: Any, **__: Any) -> int:
    return 2 * 2 * x_shape[0] * weight1_shape[0] * weight1_shape[1]


@register_flop_formula(torch.ops.fastheads.squeeze_excite_backward)
def _(*shapes: Any, **_: Any) -> int:
    # hidden again, and the gradients of hidden, mean and both weights.
    samples, (hidden, channels, *_) = shapes[1][0], shapes[5]
    return 2 * 5 * samples * hidden * channels
