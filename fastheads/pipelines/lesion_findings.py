"""What the measured lesions say of the three findings of paper 004, chapter 4, either way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

MILD, SEVERE = 0.1, 0.5  # damage: the part of the way from the whole network's error to chance
MONOTONE, LEAP = 0.9, 0.25  # rank correlation at least; damage of one more block at most


def findings(analysis: dict[str, Any], row: str) -> list[dict[str, Any]]:
    """One sentence of figures for each finding that ``analysis`` has the measurements of.

    Args:
        analysis: ``single``, ``chance``, ``many``, ``reorder``, ``paths``, ``effective`` and
            ``networks`` of a run.
        row: of the residual network.

    Returns:
        For each ``key``, whether it ``holds`` here, and a ``sentence``.
    """
    measures = (
        ("single_mild", "single", _single_mild),
        ("smooth_decay", "many", _smooth_decay),
        ("short_paths", "effective", _short_paths),
    )
    found = []
    for key, figure, measure in measures:
        if row in analysis[figure]:
            holds, text = False, "The whole network is no better than chance"
            if figure == "effective" or _learned(analysis, row):
                holds, text = measure(analysis, row)
            found.append({"key": key, "holds": bool(holds), "sentence": f"{text}."})
    return found


def damage(error: Any, whole: float, chance: float) -> np.ndarray:
    """Errors as parts of the way from the whole network's to chance: 0 for none, 1 for all."""
    return (np.asarray(error, dtype=np.float64) - whole) / (chance - whole)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's; 0 where one of them is constant, which no rank explains."""
    if len(set(first)) == 1 or len(set(second)) == 1:
        return 0.0
    return float(spearmanr(first, second).statistic)


def _single_mild(analysis: dict[str, Any], row: str) -> tuple[bool, str]:
    """Most single deletions cost little; in a network without shortcuts they cost most."""
    ours = _damages(analysis, row)
    down = np.array([block["downsampling"] for block in analysis["networks"][row]["blocks"]])
    median, small = float(np.median(ours)), float((ours < MILD).mean())
    holds = median < MILD
    text = (
        f"Without one of its {len(down)} blocks the residual network goes {_percent(median)} of "
        f"the way to chance in the median, and less than {_percent(MILD)} for {_percent(small)} of "
        "the blocks"
    )
    if down.any() and not down.all():
        text += (
            f"; blocks that downsample take it {_percent(float(ours[:, down].mean()))} of the way "
            f"in the mean, the others {_percent(float(ours[:, ~down].mean()))}"
        )
    if "vgg" in analysis["single"] and _learned(analysis, "vgg"):
        plain = float(np.median(_damages(analysis, "vgg")))
        holds = holds and plain > SEVERE
        text += f"; without one of its layers the VGG network goes {_percent(plain)}"
    return holds, text


def _smooth_decay(analysis: dict[str, Any], row: str) -> tuple[bool, str]:
    """The error rises with the number of deleted blocks, and with disorder, without a leap."""
    chance, whole = analysis["chance"], float(np.mean(analysis["single"][row]["whole"]))
    many = analysis["many"][row]
    counts = [0, *many["deleted"]]
    errors = [whole, *np.mean(many["error"], axis=(0, 2))]
    rises = np.diff(damage(errors, whole, chance)) / np.diff(counts)
    correlation = rank_correlation(counts, errors)
    holds = correlation >= MONOTONE and rises.max() <= LEAP
    text = (
        f"The error rises from {_percent(whole)} to {_percent(float(errors[-1]))} with "
        f"{counts[-1]} blocks deleted (rank correlation {correlation:.2f}); one block more "
        f"takes it at most {_percent(float(rises.max()))} of the way to chance"
    )
    if row in analysis["reorder"]:
        order = analysis["reorder"][row]
        with_order = rank_correlation(order["tau"], order["error"])
        holds = holds and with_order < 0
        text += f"; with blocks reordered its rank correlation to Kendall's tau is {with_order:.2f}"
    return holds, text


def _short_paths(analysis: dict[str, Any], row: str) -> tuple[bool, str]:
    """The paths that carry the gradient are shorter than most, and few."""
    effective, n = analysis["effective"][row], analysis["paths"][row]["n"]
    holds = effective["high"] < n / 2
    text = (
        f"Paths of {effective['low']} to {effective['high']} of {n} blocks carry "
        f"{_percent(effective['share_of_gradient'])} of the gradient and are "
        f"{_percent(effective['share_of_paths'], 3)} of all paths, whose mean length is {n / 2:g}"
    )
    return holds, text


def _learned(analysis: dict[str, Any], row: str) -> bool:
    return max(analysis["single"][row]["whole"]) < analysis["chance"]


def _damages(analysis: dict[str, Any], row: str) -> np.ndarray:
    """``[seeds, blocks]``."""
    single = analysis["single"][row]
    pairs: Iterable[tuple[Sequence[float], float]] = zip(
        single["error"], single["whole"], strict=True
    )
    return np.stack([damage(error, whole, analysis["chance"]) for error, whole in pairs])


def _percent(share: float, digits: int = 2) -> str:
    return f"{float(f'{100 * share:.{digits}g}'):g} %"
