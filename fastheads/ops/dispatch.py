"""What operators share in how PyTorch calls and compiles them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def call(op: Callable[..., Any], *args: Any) -> Any:
    """``op(*args)``; the autograd of an operator of ours is Python, which the dispatcher enters.

    On one sample, after a convolution has filled the caches, that is a quarter of the operator.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return op(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def trains_eagerly(x: Tensor) -> bool:
    """Whether an operator may be entered by a ``torch.autograd.Function`` of its own.

    That takes a quarter of the time of what ``register_autograd`` makes, which compilers, tracers
    and transforms need.
    """
    return (
        torch.is_grad_enabled()
        and type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._get_tracing_state()
        and not torch._C._are_functorch_transforms_active()
    )


def autocast(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """The inputs of a linear layer as autocast has them on the device of ``x``."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return x, *others
    dtype = torch.get_autocast_dtype(device)
    # As PyTorch's own casts, which leave double alone.
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in (x, *others))


def any_layout(*names: str) -> None:
    """Lets a compiler choose the layout of these operators' maps, as that of the convolutions.

    Else it would copy them to the layout of eager mode and back. Their fakes must follow the
    strides of their inputs. Here, because the stable ABI declares tags from PyTorch 2.12 on.
    """
    for name in names:
        getattr(torch.ops.fastheads, name).default.tags.append(torch.Tag.flexible_layout)
