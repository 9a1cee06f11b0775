"""Large results on the CPU ask for large pages, where the system gives them to those who ask."""

import mmap
from pathlib import Path

import pytest
import torch

from fastheads.ops import gated_residual, squeeze_excite
from fastheads.ops.squeeze_excite import squeeze_excite_reference

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def asks_for_large_pages(tensor: torch.Tensor) -> bool:
    """Of the mapping around the tensor's middle; what it gets is up to the memory that is free."""
    address, here = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first:
            begin, end = (int(number, 16) for number in first.split("-"))
            here = begin <= address < end
        elif here and first == "VmFlags:":
            return "hg" in rest
    raise AssertionError("the tensor lies in no mapping")


@pytest.mark.skipif(
    not ENABLED.exists() or "[never]" in ENABLED.read_text(), reason="no large pages here"
)
def test_large_results_ask_for_large_pages():
    x = torch.randn(16, 256, 56, 56)
    y = gated_residual(x, x, torch.ones(16))
    assert asks_for_large_pages(y)
    # The test can tell: memory that nobody has asked for. A tensor of torch's may lie where a
    # result has been before.
    assert not asks_for_large_pages(torch.frombuffer(mmap.mmap(-1, 64 << 20), dtype=torch.uint8))
    torch.testing.assert_close(y, 2 * x)


def test_results_about_the_limit_are_right():
    """One image more, and the memory is asked for in another way."""
    torch.manual_seed(0)
    weights = (torch.randn(4, 64, 1, 1), torch.randn(4), torch.randn(64, 4, 1, 1), torch.randn(64))
    for count in (1, 3):  # 4 MiB are 1.3 images, and more than what two threads have in the cache
        x = torch.randn(count, 64, 112, 112)
        torch.testing.assert_close(
            squeeze_excite(x, *weights), squeeze_excite_reference(x, *weights)
        )
