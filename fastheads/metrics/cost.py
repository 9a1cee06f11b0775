"""What a network costs: multiply-adds of one forward pass, and parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, *inputs: Any) -> int:
    """Counts the multiply-adds that ``model(*inputs)`` executes, in eval mode.

    One multiply-add is one multiplication and one addition; biases, norms and activations are not
    counted, as in the tables of the papers. What a conditional network skips for these inputs is
    not counted either. Give a batch of one for the cost of an image.

    Args:
        model: a network on the device of the inputs; left in the mode that it was in.
        inputs: the arguments of its forward.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*inputs)
    finally:
        for module, training in modes.items():
            module.training = training
    # PyTorch counts a multiply-add as two operations.
    return counter.get_total_flops() // 2


def count_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Counts the parameters of ``model``, each shared one once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def cost_ratio(macs: int, base_macs: int) -> str:
    """Cost relative to the base network, as in the paper's table 2: ``1.026x``."""
    return f"{macs / base_macs:.3f}x"
