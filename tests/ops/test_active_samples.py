"""The lists of samples that execute, and the noise of gates."""

import math

import pytest
import torch
from gated import DTYPES
from gpu import is_gpu
from hypothesis import given
from hypothesis import strategies as st

from fastheads.ops import active_samples, active_samples_reference, gumbel_noise


def test_noise_is_gumbel(device):
    """exp(-exp(-g)) is uniform by a chi-square test over 50 bins, 0.1 %; so are its tails."""
    generator = torch.Generator(device).manual_seed(1)
    noise = gumbel_noise((200_000,), generator=generator, device=device, dtype=torch.float64)
    uniform = (-(-noise).exp()).exp()
    counts = torch.histc(uniform, 50, 0, 1)
    assert float(((counts - 4000) ** 2 / 4000).sum()) < 85.4
    for tail in (uniform < 1e-3, uniform > 1 - 1e-3):
        assert abs(int(tail.sum()) - 200) < 60


def test_noise_is_finite_at_the_ends_of_the_uniform(monkeypatch):
    ends = torch.tensor([0.0, 2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *args, **options: ends.clone())
    for dtype in DTYPES:
        noise = gumbel_noise((3,), dtype=dtype)
        assert noise.isfinite().all() and noise.dtype == dtype
        torch.testing.assert_close(
            noise.double(), torch.tensor([-3.604, -3.604, 36.737]).double(), rtol=1e-2, atol=0
        )


def test_seeded_noise_is_repeatable(device):
    first, second, other = (
        gumbel_noise((9, 2), generator=torch.Generator(device).manual_seed(s), device=device)
        for s in (7, 7, 8)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_noise_rejects_a_generator_of_another_device():
    with pytest.raises(ValueError, match=r"generator must be on cuda.*got one on cpu"):
        gumbel_noise((2,), generator=torch.Generator(), device="cuda")


def test_active_samples_by_hand(device):
    z = torch.tensor([0.0, 1.0, 0.0, 0.25, -1.0, 1.0], device=device)
    active, count = active_samples(z)
    assert active.tolist() == [1, 3, 5, 0, 2, 4] and count.tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_active_samples_of_a_nan(dtype, device):
    """On the CPU an error; CUDA, which nothing waits for, skips the sample."""
    z = torch.ones(70, dtype=dtype, device=device)
    z[[0, 5]] = torch.tensor([0.0, math.inf], dtype=dtype, device=device)
    assert active_samples(z)[1].tolist() == [69]
    z[[33, 69]] = float("nan")
    if not is_gpu(device):
        with pytest.raises(RuntimeError, match="z must be a number, got nan for sample 33"):
            active_samples(z)
    else:
        assert active_samples(z)[1].tolist() == [67]


@given(st.lists(st.booleans(), max_size=80))
def test_active_samples_equal_the_reference(open_):
    z = torch.tensor(open_, dtype=torch.float64)
    for ours, wanted in zip(active_samples(z), active_samples_reference(z), strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("samples", [0, 1, 31, 1024, 1025, 70_001])
def test_active_samples_of_any_size(samples, device):
    for kind in (torch.rand(samples) - 0.5, torch.zeros(samples), torch.ones(samples)):
        z = kind.to(device)
        for ours, wanted in zip(active_samples(z), active_samples_reference(z), strict=True):
            assert torch.equal(ours, wanted)
