from types import SimpleNamespace

import pytest

from fastheads.ranges import check_range, check_seeds


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (0, {"above": 0}, "above 0"),
        (-1, {"least": 0}, "at least 0"),
        (90.0, {"least": 0, "below": 90}, "at least 0 and below 90"),
        ((0.5, 1.5), {"above": 0, "most": 1}, "above 0 and at most 1"),
        ([None, -1], {"least": 0}, "at least 0"),
        (float("nan"), {"least": 0}, "at least 0"),
    ],
)
def test_out_of_range(value, bounds, expected):
    found = value[-1] if isinstance(value, tuple | list) else value
    with pytest.raises(ValueError, match="x must be") as error:
        check_range(SimpleNamespace(y=None, x=value), "y", "x", **bounds)
    assert str(error.value) == f"x must be {expected}, got {found}"


def test_in_range():
    settings = SimpleNamespace(a=0, b=None, c=(0.5, None, 1), d=(), seed=2**32 - 1)
    check_range(settings, "a", "b", "c", "d", least=0, most=1)
    check_seeds(settings, "seed")
    with pytest.raises(ValueError, match="seed must be at least 0 and at most 4294967295, got"):
        check_seeds(SimpleNamespace(seed=2**32), "seed")
