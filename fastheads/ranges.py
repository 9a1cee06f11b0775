"""Checks that numbers among settings lie in their ranges."""

from __future__ import annotations

import operator

LARGEST_SEED = 2**32 - 1  # what scikit-learn takes
_BOUNDS = {
    "above": ("above", operator.gt),
    "least": ("at least", operator.ge),
    "below": ("below", operator.lt),
    "most": ("at most", operator.le),
}


def check_range(settings: object, *names: str, **bounds: float) -> None:
    """Sees that settings lie in a range; None passes, and of several numbers all are looked at.

    Args:
        settings: has the settings as attributes.
        names: of the settings.
        **bounds: of ``above``, ``least``, ``below`` and ``most``.

    Raises:
        ValueError: if one is out of range or not a number.
    """
    expected = " and ".join(f"{_BOUNDS[bound][0]} {limit}" for bound, limit in bounds.items())
    for name in names:
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple | list) else (value,):
            if number is not None and not all(
                _BOUNDS[bound][1](number, limit) for bound, limit in bounds.items()
            ):
                raise ValueError(f"{name} must be {expected}, got {number}")


def check_seeds(settings: object, *names: str) -> None:
    """Sees that seeds are such as every generator takes, of PyTorch, numpy and scikit-learn."""
    check_range(settings, *names, least=0, most=LARGEST_SEED)
