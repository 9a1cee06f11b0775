"""Standardised features, against numpy."""

import copy

import numpy as np
import pytest
import torch

from fastheads.nn import Standardize


@pytest.mark.parametrize("shape", [(50, 3), (50, 3, 4), (50, 3, 2, 5)])
def test_channels_get_mean_0_and_deviation_1(shape):
    torch.manual_seed(0)
    features = torch.randn(shape, dtype=torch.float64) * 7 + torch.arange(3.0).view(
        -1, *[1] * (len(shape) - 2)
    )
    module = Standardize(3).double()
    assert torch.equal(module(features), features)  # until it is measured
    module.measure(features)
    axes = (0, *range(2, len(shape)))
    values = features.numpy()
    mean, std = values.mean(axes, keepdims=True), values.std(axes, keepdims=True, ddof=1)
    np.testing.assert_allclose(module(features).numpy(), (values - mean) / std)


def test_statistics_are_fixed():
    module = Standardize(3)
    module.measure(torch.rand(50, 3))
    x = torch.rand(4, 3)
    expected = module(x)
    module.train()(torch.rand(50, 3) * 100)
    assert torch.equal(module(x), expected)
    assert not list(module.parameters())
    again = Standardize(3)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(x), expected)


def test_constant_channel_stays_finite():
    features = torch.rand(50, 3)
    features[:, 1] = 0.5
    module = Standardize(3)
    module.measure(features)
    assert module(features).isfinite().all()
    assert (module(features)[:, 1] == 0).all()
    assert module(torch.full((1, 3), 0.6)).abs().max() < 1000
    module.measure(torch.zeros(50, 3))
    assert (module(torch.zeros(2, 3)) == 0).all()


@pytest.mark.parametrize(("shape", "values"), [((1, 3), 1), ((0, 3), 0), ((0, 3, 4, 4), 0)])
def test_too_few_values_to_measure(shape, values):
    module = Standardize(3)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=f"at least 2 values a channel, got {values}$"):
        module.measure(torch.rand(shape))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    module.measure(torch.rand(1, 3, 1, 2))  # as many as there must be
    assert module(torch.rand(4, 3, 1, 1)).isfinite().all()
