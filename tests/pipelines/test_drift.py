"""How far a network has moved, by hand."""

import math

import pytest
import torch
from torch import nn

from fastheads.pipelines.drift import measure_drift

NONE = torch.zeros(0, 0)


def linear(*rows):
    module = nn.Linear(len(rows[0]), len(rows))
    with torch.no_grad():
        module.weight.copy_(torch.tensor(rows))
    return module


def norm(mean, var):
    module = nn.BatchNorm1d(1, affine=False)
    module.running_mean.fill_(mean)
    module.running_var.fill_(var)
    return module


def test_weights():
    """|(0, 5)| / |(3, 4)| = 1 and 0 / 2; vectors, and what was 0, tell nothing."""
    before = nn.Sequential(linear([3.0, 4.0]), linear([2.0]), linear([0.0]), nn.LayerNorm(2))
    after = nn.Sequential(linear([3.0, 9.0]), linear([2.0]), linear([7.0]), nn.LayerNorm(2))
    nn.init.constant_(after[3].weight, 9.0)
    nn.init.constant_(after[0].bias, 9.0)
    drift = measure_drift(before, after, NONE, NONE)
    assert drift.weights == pytest.approx(0.5)
    assert (drift.norms, drift.divergence, drift.top5) == (None, None, None)


def test_norms():
    """From mean 1, deviation 2 to mean 3, deviation 4: hypot(2, 2) / 2; and one stays."""
    before = nn.Sequential(norm(1.0, 4.0), norm(0.0, 1.0))
    after = nn.Sequential(norm(3.0, 16.0), norm(0.0, 1.0))
    assert measure_drift(before, after, NONE, NONE).norms == pytest.approx(2**0.5 / 2, rel=1e-4)
    assert measure_drift(before, before, NONE, NONE).norms == 0
    dead = measure_drift(norm(0.0, 0.0), norm(0.0, 0.0), NONE, NONE)  # a channel that is constant
    assert dead.norms == 0


def test_divergence():
    """Of a label with score 1/2 that falls to 1/4; the other label stays; mean of two pictures."""
    before = torch.tensor([[0.0, 3.0], [1.0, -200.0]])
    after = torch.tensor([[-math.log(3), 3.0], [1.0, -200.0]])
    expected = (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)) / 2
    drift = measure_drift(linear([1.0]), linear([1.0]), before, after)
    assert drift.divergence == pytest.approx(expected)
    assert math.isfinite(measure_drift(linear([1.0]), linear([1.0]), after, -after).divergence)


def test_agreement_of_the_best_five():
    """Labels 0 to 4 before; 1 to 5 after in one picture, and the same in the other."""
    before = torch.arange(7.0).flip(0).repeat(2, 1)
    after = before.clone()
    after[0, 0], after[0, 5] = -1, 10
    assert measure_drift(linear([1.0]), linear([1.0]), before, after).top5 == pytest.approx(0.9)
    few = torch.randn(3, 4)  # fewer than five labels are all among the best
    assert measure_drift(linear([1.0]), linear([1.0]), few, -few).top5 == 1
