"""Inputs on a device that is not that of the others, where that is found without a kernel of it."""

import pytest
import torch

from fastheads.ops import gumbel_noise, sc_sigmoid_loss
from fastheads.targets import SparseTargets


@pytest.mark.parametrize("name", ["weight", "bias", "generic"])
def test_a_layer_on_another_device(name):
    inputs = {
        "x": torch.rand(2, 4),
        "weight": torch.rand(3 * 5),
        "bias": torch.rand(3),
        "targets": SparseTargets.from_lists([[0], [1, 2]]),
        "in_offsets": None,
        "out_offsets": [0, 3],
        "generic": torch.rand(2, 1),
    }
    assert sc_sigmoid_loss(**inputs) > 0
    inputs[name] = inputs[name].to("meta")
    message = f"{name} must have dtype and device of x, torch.float32 on cpu, got torch.float32 on "
    with pytest.raises(ValueError, match=message + "meta"):
        sc_sigmoid_loss(**inputs)


def test_a_generator_on_another_device():
    assert gumbel_noise((2, 2), device="meta").is_meta
    message = "generator must be on meta, the device of the noise, got one on cpu"
    with pytest.raises(ValueError, match=message):
        gumbel_noise((2, 2), generator=torch.Generator(), device="meta")
