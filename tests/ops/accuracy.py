"""How close a fused operator must be to the exact answer: as close as plain PyTorch, about."""

import torch
from torch import Tensor


def assert_as_accurate(ours: Tensor, eager: Tensor, exact: Tensor, roundings: int = 1) -> None:
    """The error against float64 is at most twice eager's and a few roundings of the largest value.

    A float64 result is compared with one that is no more exact: it may be 100 roundings away.
    """
    assert ours.shape == eager.shape and ours.dtype == eager.dtype
    if exact.numel() == 0:
        return
    allowed, found = ((t.double() - exact).abs().max() for t in (eager, ours))
    roundings = 100 if ours.dtype == torch.float64 else roundings
    rounding = torch.finfo(ours.dtype).eps * exact.abs().max()
    assert found <= 2 * allowed + roundings * rounding, f"{found:.3e}, eager {allowed:.3e}"
