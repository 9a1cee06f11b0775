"""Whether a call of a module is more than its forward, which one operator would then pass over."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)


def hooks_on_all() -> bool:
    """Whether there are hooks on all modules, as those of ``register_module_forward_hook``."""
    return bool(
        _global_forward_hooks
        or _global_forward_pre_hooks
        or _global_backward_hooks
        or _global_backward_pre_hooks
    )


def changed(*modules: nn.Module) -> str:
    """Why a module does more than its class says, or nothing."""
    if hooks_on_all():
        return "all modules have hooks"
    for m in modules:
        if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks:
            return "it has hooks"
        if "forward" in m.__dict__:
            return "it has a forward of its own"
    return ""
