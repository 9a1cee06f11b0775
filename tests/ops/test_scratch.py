"""The budget of what goes through many labels in chunks."""

import pytest
import torch

from fastheads.ops.scratch import scratch_on


@pytest.mark.parametrize("kind, megabytes", [("cpu", 64), ("cuda", 256), ("xpu", 256)])
def test_every_device_has_a_default(kind, megabytes):
    device = torch.device(kind)
    assert scratch_on(device, None) == megabytes << 20
    assert scratch_on(device, 1) == 1


@pytest.mark.parametrize("given", [0, -1])
def test_rejects(given):
    with pytest.raises(ValueError, match=f"must be None or at least 1, got {given}"):
        scratch_on(torch.device("cpu"), given)
