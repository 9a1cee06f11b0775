"""A module whose labels are in the order of groups inside, and in their own order outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from fastheads.labels import Grouping


class GroupOrdered(nn.Module):
    """The group order of the labels, as buffers that no state dict holds.

    They are made from the grouping again where they would be lost (``to_empty``), and are on the
    CPU while the parameters are on the meta device, so that all ways off that device work.

    Args:
        grouping: the groups of the labels.
    """

    permutation: Tensor  # [labels], int64, label at each position of the group order
    position: Tensor  # [labels], int64, position of each label in the group order

    def __init__(self, grouping: Grouping) -> None:
        super().__init__()
        self.grouping = grouping
        for name in ("permutation", "position"):
            self.register_buffer(name, None, persistent=False)
        self._order_on(torch.device("cpu"))
        self.register_load_state_dict_post_hook(_follow_parameters)

    def _order_on(self, device: torch.device) -> None:
        device = torch.device("cpu") if device.type == "meta" else device
        self.permutation = torch.tensor(self.grouping.permutation, device=device)
        self.position = self.permutation.argsort()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self.permutation
        super()._apply(fn, recurse)
        if self.permutation is not before:  # else it may be part of a CUDA graph
            self._order_on(self.permutation.device)
        return self


def _follow_parameters(module: GroupOrdered, *_: Any) -> None:
    """To where logits come out, the last parameter; assigned ones may be on another device."""
    device = module.permutation.device
    for parameter in module.parameters():
        device = parameter.device
    if device.type != "meta" and device != module.permutation.device:
        module._order_on(device)
