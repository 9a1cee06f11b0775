"""Trunks below all heads: which there are, and that the scaffold above them is thrown away."""

from dataclasses import replace

import pytest
import torch
from tiny import STEPS
from torch import nn

from fastheads.data import Augmentation
from fastheads.models import InceptionV2, feature_shape
from fastheads.pipelines.trunk import TrunkConfig, build_trunk, fit_trunk


@pytest.mark.parametrize(
    ("kind", "size", "shape"),
    [
        ("small", 32, (16, 8, 8)),
        ("inception_v2", 65, (1024, 3, 3)),
        ("inception_v2_mixed_3", 32, (256, 1, 1)),
    ],
)
def test_kinds(kind, size, shape):
    trunk = build_trunk(TrunkConfig(kind, channels=(8, 16)), 1)
    assert feature_shape(trunk, (1, size, size)) == shape
    assert isinstance(trunk, InceptionV2) == (kind != "small")


def test_is_trained_in_place(data, tmp_path):
    torch.manual_seed(0)
    trunk = build_trunk(TrunkConfig(channels=(4, 8)), 1)
    before = [p.clone() for p in trunk.parameters()]
    names = [name for name, _ in trunk.named_parameters()]
    training = replace(STEPS, epochs=1, lr=4e-3)
    assert fit_trunk(trunk, data, 16, training, Augmentation(), tmp_path, seed=0) > 0
    assert [name for name, _ in trunk.named_parameters()] == names
    assert all(not torch.equal(a, b) for a, b in zip(before, trunk.parameters(), strict=True))
    assert isinstance(trunk, nn.Sequential) and not trunk.training


@pytest.mark.parametrize("changes", [{"channels": ()}, {"channels": (8, 0)}, {"width": 0}])
def test_config_rejects(changes):
    with pytest.raises(ValueError, match="channels and width must be above 0, got"):
        TrunkConfig(**changes)
