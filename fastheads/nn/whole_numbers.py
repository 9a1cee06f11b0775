"""Sizes as whole numbers of Python, from those of anyone."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """``value`` as an ``int``; ValueError naming the argument if it is none, or below ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def whole_numbers(name: str, values: Iterable[Any]) -> tuple[int, ...]:
    """``values`` as ``int`` each; ValueError naming the argument if one of them is none."""
    try:
        return tuple(whole_number(f"{name}[{i}]", value) for i, value in enumerate(values))
    except TypeError:
        raise ValueError(f"{name} must hold whole numbers, got {values!r}") from None
