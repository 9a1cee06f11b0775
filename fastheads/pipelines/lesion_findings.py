"""What the measured lesions say of the three findings of paper 004, chapter 4, either way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

MILD, SEVERE = 0.1, 0.9  # damage: the part of the way from the whole network's error to chance
LEARNED = 0.9  # of the error of chance: what a whole network errs on more often says nothing
MONOTONE, LEAP = 0.9, 0.25  # rank correlation at least; damage of one more block at most


def findings(analysis: dict[str, Any], row: str) -> list[dict[str, Any]]:
    """One sentence of figures for each finding that ``analysis`` has the measurements of.

    Args:
        analysis: ``single``, ``chance``, ``many``, ``reorder``, ``paths``, ``effective`` and
            ``networks`` of a run.
        row: of the residual network.

    Returns:
        For each ``key``, whether it ``holds`` here, None where the numbers do not tell, and a
        ``sentence``.
    """
    measures = (
        ("single_mild", "single", _single_mild),
        ("smooth_decay", "many", _smooth_decay),
        ("short_paths", "effective", _short_paths),
    )
    found = []
    for key, figure, measure in measures:
        if row in analysis[figure]:
            holds, text = None, "The whole network is hardly better than chance"
            if figure == "effective" or _learned(analysis, row):
                holds, text = measure(analysis, row)
            found.append({"key": key, "holds": holds, "sentence": f"{text}."})
    return found


def damage(error: Any, whole: float, chance: float) -> np.ndarray:
    """Errors as parts of the way from the whole network's to chance: 0 for none, 1 for all."""
    return (np.asarray(error, dtype=np.float64) - whole) / (chance - whole)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's; 0 where one of them is constant, which no rank explains."""
    if len(set(first)) == 1 or len(set(second)) == 1:
        return 0.0
    return float(spearmanr(first, second).statistic)


def _single_mild(analysis: dict[str, Any], row: str) -> tuple[bool | None, str]:
    """Any deletion but of a downsampling block costs little; without shortcuts, any is chance."""
    ours = _damages(analysis, row)
    down = np.array([block["downsampling"] for block in analysis["networks"][row]["blocks"]])
    others = ours[:, ~down]
    if not others.size:
        return None, "All blocks of the residual network downsample"
    worst = others.max(1)
    verdicts = [_in_all(worst < MILD)]
    text = (
        f"Without one of its {others.shape[1]} blocks that do not downsample the residual network "
        f"goes {_percent(float(np.median(others)))} of the way to chance in the median and at most "
        f"{_percent(float(worst.max()))}; all stay below {_percent(MILD)} in "
        f"{int((worst < MILD).sum())} of {len(worst)} {_seeds(worst)}"
    )
    if down.any():
        text += f"; blocks that downsample take it {_percent(float(ours[:, down].mean()))}"
    if "vgg" in analysis["single"]:
        if not _learned(analysis, "vgg"):
            return _all_of(*verdicts, None), f"{text}; the whole VGG network is near chance"
        plain = _damages(analysis, "vgg").min(1)
        verdicts.append(_in_all(plain >= SEVERE))
        text += (
            f"; without one of its layers the VGG network goes at least "
            f"{_percent(float(plain.min()))}"
        )
    return _all_of(*verdicts), text


def _smooth_decay(analysis: dict[str, Any], row: str) -> tuple[bool | None, str]:
    """The error rises with the number of deleted blocks, and with disorder, without a leap."""
    chance, whole = analysis["chance"], float(np.mean(analysis["single"][row]["whole"]))
    many = analysis["many"][row]
    counts = [0, *many["deleted"]]
    errors = [whole, *np.mean(many["error"], axis=(0, 2))]
    rises = np.diff(damage(errors, whole, chance)) / np.diff(counts)
    correlation = rank_correlation(counts, errors)
    holds = bool(correlation >= MONOTONE and rises.max() <= LEAP)
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


def _short_paths(analysis: dict[str, Any], row: str) -> tuple[bool | None, str]:
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
    return max(analysis["single"][row]["whole"]) < LEARNED * analysis["chance"]


def _in_all(seeds: np.ndarray) -> bool | None:
    """What all seeds say; None where they differ."""
    return bool(seeds[0]) if (seeds == seeds[0]).all() else None


def _all_of(*verdicts: bool | None) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _seeds(values: np.ndarray) -> str:
    return "seed" if len(values) == 1 else "seeds"


def _damages(analysis: dict[str, Any], row: str) -> np.ndarray:
    """``[seeds, blocks]``."""
    single = analysis["single"][row]
    pairs: Iterable[tuple[Sequence[float], float]] = zip(
        single["error"], single["whole"], strict=True
    )
    return np.stack([damage(error, whole, analysis["chance"]) for error, whole in pairs])


def _percent(share: float, digits: int = 2) -> str:
    return f"{float(f'{100 * share:.{digits}g}'):g} %"
