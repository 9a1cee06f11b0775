"""Squeeze-excitation behind a batch norm, which the operator computes too in inference."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from fastheads.nn.hooks import changed
from fastheads.ops import squeeze_excite, squeeze_excite_


def excite(
    x: Tensor,
    layers: tuple[Tensor, Tensor | None, Tensor, Tensor | None],
    residual: Tensor | None = None,
    norm: nn.Module | None = None,
    *,
    unseen: bool = False,
    **options: Any,
) -> Tensor:
    """``squeeze_excite(norm(x), *layers, residual, **options)``, of a residual in any dtype.

    The statistics and weights of the norm are read in every call, so that none are out of date.

    Args:
        x: what the norm reads.
        layers: weight and bias of both.
        residual: what is added, or None.
        norm: any layer; ``None`` for none. A batch norm in inference is folded into the operator.
        unseen: nobody but the caller holds x; without gradients it is overwritten then.
        options: of the operator.
    """
    if residual is not None and residual.dtype != x.dtype:
        residual = residual.to(x.dtype)
    if norm is None:
        return squeeze_excite(x, *layers, residual, **options)
    if not _is_constant(norm):
        return squeeze_excite(norm(x), *layers, residual, **options)
    if not (unseen and _overwrites()):
        scale, shift = _affine(norm)
        return squeeze_excite(x, *layers, residual, scale=scale, shift=shift, **options)
    return squeeze_excite_(
        x,
        *layers,
        residual,
        scale=norm.weight,
        shift=norm.bias,
        running_mean=norm.running_mean,
        running_var=norm.running_var,
        eps=norm.eps,
        **options,
    )


def _is_constant(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether it is a batch norm in inference, of constants."""
    if type(norm) is not nn.BatchNorm2d or norm.training or norm.running_var is None:
        return False
    if torch.is_grad_enabled() and any(p.requires_grad for p in norm.parameters()):
        return False
    return not changed(norm)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm in inference."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    wide = torch.promote_types(var.dtype, torch.float32)
    scale = torch.rsqrt(var.to(wide) + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
        return scale, norm.bias - mean * scale
    return scale, -mean * scale


def is_unseen(layer: nn.Module) -> bool:
    """Whether nobody but the caller holds the output of a layer, which may then be overwritten."""
    return type(layer) is nn.Conv2d and not changed(layer)


def _overwrites() -> bool:
    """Whether an operator may write over its input; transforms as ``vmap`` take none that does."""
    if torch.is_grad_enabled():
        return False
    return torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active()
