"""How many paths of each length a residual network has, and which of them carry the gradient.

A path enters or skips each of ``n`` blocks; its length is the number of blocks that it enters, so
there are ``C(n, x)`` paths of length ``x`` (paper 004, sections 4.2, 4.4 and 4.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

ROUNDING = 1e-12


def path_shares(n: int) -> list[float]:
    """``C(n, x) / 2^n`` for ``x = 0..n``: the share of paths of each length (figure 4.6a).

    Args:
        n: blocks, at least 0. The integers are exact, however many blocks there are.
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    return [float(Fraction(math.comb(n, x), 1 << n)) for x in range(n + 1)]


def share_between(n: int, low: int, high: int) -> float:
    """The share of all paths whose length is ``low`` to ``high``, both included."""
    paths = sum(math.comb(n, x) for x in range(max(low, 0), min(high, n) + 1))
    return float(Fraction(paths, 1 << n))


def remaining_paths(n: int, deleted: int) -> list[float]:
    """``C(n - d, x) / C(n, x)`` for ``x = 0..n``: the share that is left (equation 4.8).

    Args:
        n: blocks.
        deleted: ``d``, of them, 0 to ``n``.
    """
    if not 0 <= deleted <= n:
        raise ValueError(f"deleted must be 0 to the {n} blocks, got {deleted}")
    return [
        float(Fraction(math.comb(n - deleted, x), math.comb(n, x))) for x in range(n + 1)
    ]  # comb is 0 where x exceeds what is left


def gradient_shares(norms: Sequence[float]) -> np.ndarray:
    """The share of the gradient that all paths of each length carry together (figure 4.6c).

    The number of paths times the mean norm of the gradient along one, normalised.

    Args:
        norms: for each length ``0..n`` the mean over sampled paths, at least 0.

    Returns:
        ``[n + 1]``, float64, of sum 1.

    Raises:
        ValueError: if no norm is above 0.
    """
    if not max(norms, default=0) > 0:
        raise ValueError("norms must hold one above 0, got none")
    n = len(norms) - 1
    with np.errstate(divide="ignore"):  # the gradient along very long paths may be 0
        log = np.log(np.asarray(norms, dtype=np.float64))
    log += [math.log(math.comb(n, x)) for x in range(n + 1)]  # C(2000, 1000) is no float64
    product = np.exp(log - log.max())
    return product / product.sum()


def effective_interval(shares: Sequence[float], part: float = 0.95) -> tuple[int, int]:
    """The shortest ``low..high`` that holds ``part`` of the shares; of several the fullest.

    The paper's effective paths (section 4.4.3): "almost all" of the gradient, here 95 %.
    """
    total = np.concatenate([[0.0], np.cumsum(shares)])
    wanted = part * total[-1]
    for width in range(1, len(shares) + 1):
        inside = total[width:] - total[:-width]
        # The slack is rounding: shares of sum 1 - 1e-16 hold all of themselves.
        if inside.max() >= wanted - ROUNDING:
            low = int(np.argmax(inside >= inside.max() - ROUNDING))
            return low, low + width - 1
    raise ValueError(f"part must be at most 1, got {part}")
