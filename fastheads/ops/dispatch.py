"""What operators share in how PyTorch calls and compiles them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch._C import (
    _any_requires_grad,
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
)
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.compiler import is_compiling


def call(op: Callable[..., Any], *args: Any) -> Any:
    """``op(*args)``; the autograd of an operator of ours is Python, which the dispatcher enters.

    On one sample, after a convolution has filled the caches, that is a quarter of the operator. So
    it is entered only where a gradient, a compiler or a transform needs it. There, to look up a
    name in a module takes a percent too.
    """
    if is_compiling():  # first, since what follows cannot be compiled
        return op(*args)
    if forward_ad._current_level >= 0:
        _refuse_tangents(op, args)
    if is_grad_enabled() and (_any_requires_grad(*args) or _are_functorch_transforms_active()):
        return op(*args)
    with _AutoDispatchBelowAutograd():
        return op(*args)


def _refuse_tangents(op: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """PyTorch takes them off the inputs of an operator that no gradient goes through."""
    for arg in args:
        if isinstance(arg, Tensor) and forward_ad.unpack_dual(arg).tangent is not None:
            name = getattr(op, "__name__", str(op)).partition(".")[0]
            raise RuntimeError(
                f"{name} has no forward-mode derivative, got an input with a tangent"
            )


def trains_eagerly(x: Tensor) -> bool:
    """Whether an operator may be entered by a ``torch.autograd.Function`` of its own.

    That takes a quarter of the time of what ``register_autograd`` makes, which compilers, tracers
    and transforms need. Its backward may look at values, which fakes do not have.
    """
    return (
        is_grad_enabled()
        and type(x) is Tensor
        and not is_compiling()
        and not x.is_meta
        and not torch._C._get_tracing_state()
        and not torch._C._len_torch_dispatch_stack()
        and not _are_functorch_transforms_active()
    )


def written(*tensors: Tensor) -> None:
    """Tells autograd that an operator has overwritten tensors: what it saved of them is no more.

    Below the dispatcher's autograd nobody does; compilers do it themselves.
    """
    if not is_compiling():
        increment_version(tensors)


def once_differentiable(
    op: str,
) -> Callable[[Callable[..., tuple[Any, ...]]], Callable[..., tuple[Any, ...]]]:
    """Makes the backward of an operator one whose gradients have none: to ask for them is an error.

    Without it they would silently count as constants. PyTorch's decorator of this name sees only
    gradients that flow in from behind, which of a sum are constants, and not what was saved.
    """

    def decorate(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        @functools.wraps(backward)
        def wrapper(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            if not is_grad_enabled():  # as always, but with create_graph=True
                return backward(ctx, *grads)
            inputs = [t for t in (*grads, *ctx.saved_tensors) if isinstance(t, Tensor)]
            with torch.no_grad():
                results = backward(ctx, *grads)
            found = [t for t in results if t is not None]
            marked = iter(_Final.apply(op, len(found), *found, *inputs))
            return tuple(None if t is None else next(marked) for t in results)

        return wrapper

    return decorate


class _Final(torch.autograd.Function):
    """The first ``count`` tensors as they are, with an error for their gradient in all of them."""

    @staticmethod
    def forward(ctx: Any, op: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.op = op
        return tuple(t.detach() for t in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError(f"{ctx.op} has no second derivative, got a graph that asks for it")


def not_differentiable(op: str) -> None:
    """Makes it an error to ask for the gradient of an operator that has none."""

    def backward(ctx: Any, *grads: Any) -> tuple[None, ...]:
        if all(type(g) is Tensor for g in grads):
            raise RuntimeError(f"{op} has no derivative, got a graph that asks for it")
        return (None,) * len(ctx.needs_input_grad)  # compilers trace what may never run

    torch.library.register_autograd(f"fastheads::{op}", backward)


def sum_dtype(x: Tensor) -> torch.dtype:
    """The type of sums over ``x``: float32, or float64 if it is that."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def autocast(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """The inputs of a linear layer as autocast has them on the device of ``x``."""
    if not autocasts(x):
        return x, *others
    dtype = torch.get_autocast_dtype(x.device.type)
    # As PyTorch's own casts, which leave double and what is not floating alone.
    return tuple(
        t if t is None or t.dtype == torch.float64 or not t.is_floating_point() else t.to(dtype)
        for t in (x, *others)
    )


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of ``x``; meta does not know it."""
    device = x.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def any_layout(*names: str) -> None:
    """Lets a compiler choose the layout of these operators' maps, as that of the convolutions.

    Else it would copy them to the layout of eager mode and back. Their fakes must follow the
    strides of their inputs. Here, because the stable ABI declares tags from PyTorch 2.12 on.
    """
    for name in names:
        getattr(torch.ops.fastheads, name).default.tags.append(torch.Tag.flexible_layout)
