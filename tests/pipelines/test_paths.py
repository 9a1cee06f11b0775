"""Path lengths of residual networks: exact counts, equation 4.8, the effective interval."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fastheads.pipelines.paths import (
    effective_interval,
    gradient_shares,
    path_shares,
    remaining_paths,
    share_between,
)


def test_path_shares_by_hand():
    """Three blocks have 1, 3, 3 and 1 paths of 0 to 3 blocks (figure 4.1)."""
    assert path_shares(3) == [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    assert path_shares(0) == [1.0]


@given(st.integers(1, 200))
def test_path_shares_are_binomial(n):
    assert path_shares(n) == pytest.approx(binom.pmf(range(n + 1), n, 0.5), rel=1e-10)


def test_numbers_of_the_paper():
    """Section 4.4.1: more than 95 % of paths of 54 modules go through 19 to 35."""
    assert share_between(54, 19, 35) == pytest.approx(0.9802, abs=5e-5)
    assert share_between(54, 5, 17) == pytest.approx(0.004537, abs=5e-7)  # section 4.4.3
    assert share_between(23, 5, 17) == pytest.approx(0.993, abs=5e-4)  # of 23 modules
    assert np.dot(path_shares(23), range(24)) == pytest.approx(11.5)
    assert sum(path_shares(66)) == pytest.approx(1)  # ResNet-200
    assert share_between(54, -3, 99) == 1


@pytest.mark.parametrize(
    ("deleted", "length", "expected"),
    [(10, 5, 0.3434), (10, 11, 0.0801), (10, 17, 0.0146), (20, 5, 0.0880)],
)
def test_equation_4_8(deleted, length, expected):
    assert remaining_paths(54, deleted)[length] == pytest.approx(expected, abs=5e-5)


@given(st.integers(0, 9), st.data())
def test_equation_4_8_counts_paths(n, data):
    """The share is that of the paths of a length that enter none of the deleted blocks."""
    d = data.draw(st.integers(0, n))
    paths = list(product([0, 1], repeat=n))
    for length, share in enumerate(remaining_paths(n, d)):
        same = [path for path in paths if sum(path) == length]
        left = [path for path in same if not any(path[:d])]
        assert share == pytest.approx(len(left) / len(same), abs=1e-12)


def test_gradient_shares_by_hand():
    """Counts 1, 3, 3, 1 times norms 8, 4, 2, 1 are 8, 12, 6, 1."""
    assert gradient_shares([8, 4, 2, 1]) == pytest.approx(np.array([8, 12, 6, 1]) / 27)
    assert gradient_shares([5.0]) == [1]


def test_gradient_shares_of_very_deep_networks():
    """The norm along the longest paths is no float any more, nor is the number of paths."""
    n = 2000
    found = gradient_shares([0.25**x for x in range(n + 1)])
    assert found.sum() == pytest.approx(1) and found[-1] == 0
    # C(n, x) q^x is binomial with q / (1 + q).
    assert found == pytest.approx(binom.pmf(range(n + 1), n, 0.2), abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(lambda v: sum(v) > 1e-3))
def test_effective_interval_is_the_shortest(values):
    shares = np.array(values) / sum(values)
    low, high = effective_interval(shares.tolist())
    assert shares[low : high + 1].sum() >= 0.95 - 1e-9
    width = high - low
    for start in range(len(shares) - width + 1):
        assert width == 0 or shares[start : start + width].sum() < 0.95 + 1e-9


def test_effective_interval_by_hand():
    assert effective_interval([0.01, 0.5, 0.45, 0.04]) == (1, 2)
    assert effective_interval([0.2, 0.2, 0.2, 0.2, 0.2]) == (0, 4)
    assert effective_interval([0.2, 0.2, 0.2, 0.2, 0.2], 0.4) == (0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: path_shares(-1), "n must be at least 0, got -1"),
        (lambda: remaining_paths(5, 6), "deleted must be 0 to the 5 blocks, got 6"),
        (lambda: gradient_shares([0, 0]), "norms must hold one above 0, got none"),
        (lambda: effective_interval([1.0], 1.5), "part must be at most 1, got 1.5"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
