from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastheads.losses import target_rate_loss


def test_by_hand():
    """Eq. 5.8: rates 3/4 and 1/4 against a target of 1/2 are each a quarter off."""
    z = [torch.tensor([1.0, 1, 1, 0]), torch.tensor([0.0, 0, 1, 0])]
    assert target_rate_loss(z, 0.5).item() == pytest.approx(2 / 16)
    assert target_rate_loss(z, 0.5, "mean").item() == pytest.approx(1 / 16)
    assert target_rate_loss(z, [0.75, 1.0]).item() == pytest.approx(9 / 16)
    assert target_rate_loss(z, 0.5, "total").item() == 0  # half of all decisions
    assert target_rate_loss(z, [0.75, 1.0], "total").item() == pytest.approx(9 / 64)
    assert target_rate_loss([], 0.5).item() == 0


@given(st.integers(1, 6), st.integers(1, 9), st.floats(0.01, 1.0), st.integers(0, 1000))
def test_formula(gates, images, target, seed):
    """Eq. 5.8 in float64, and its gradient: 2 (rate - target) / images for each decision."""
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.rand(gates, images, generator=generator) < 0.5).double()
    z = drawn.clone().requires_grad_()
    loss = target_rate_loss(list(z), target)
    rates = drawn.mean(1)
    torch.testing.assert_close(loss, ((rates - target) ** 2).sum())
    (grad,) = torch.autograd.grad(loss, z)
    expected = (2 * (rates - target) / images)[:, None].expand_as(drawn)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize(
    "number", [np.float32, np.float64, np.array, torch.tensor, Fraction, Decimal]
)
@pytest.mark.parametrize("reduction", ["sum", "mean", "total"])
def test_any_real_number(number, reduction):
    z = [torch.tensor([1.0, 0, 0, 0]), torch.ones(2)]
    expected = target_rate_loss(z, 0.5, reduction)
    assert torch.equal(target_rate_loss(z, number(0.5), reduction), expected)
    assert torch.equal(target_rate_loss(z, [number(0.5)] * 2, reduction), expected)
    with pytest.raises(ValueError, match=r"target must be above 0 and at most 1, got 1.5"):
        target_rate_loss(z, number(1.5))


@pytest.mark.parametrize("make", [np.array, torch.tensor, tuple])
def test_any_vector(make):
    z = [torch.ones(2), torch.zeros(2)]
    assert target_rate_loss(z, make([0.5, 1.0])).item() == pytest.approx(1.25)
    with pytest.raises(ValueError, match="one for each of the 2 gates, got 1"):
        target_rate_loss(z, make([0.5]))


@pytest.mark.parametrize("target", [0.0, -0.1, 1.01, float("nan")])
def test_target_outside(target):
    with pytest.raises(ValueError, match=r"target must be above 0 and at most 1, got"):
        target_rate_loss([torch.ones(2)], target)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="one for each of the 1 gates, got 2"):
        target_rate_loss([torch.ones(2)], [0.5, 0.6])
    with pytest.raises(ValueError, match="reduction must be 'sum', 'mean' or 'total', got 'none'"):
        target_rate_loss([torch.ones(2)], 0.5, "none")
