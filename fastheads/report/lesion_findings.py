"""What a lesion study says beside the paper, in sentences computed from its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fastheads.report.findings import difference
from fastheads.report.rows import mean_and_spread, percent, points
from fastheads.report.verdicts import Finding

_LEARNED = 0.9  # of the error of chance: a whole network that errs more often tells nothing
_CHANCE = 0.9  # of the way from the whole network's error to chance: as good as chance
_STRAIGHT = 0.9  # R² of a line through logarithms, from which a decay counts as exponential
_ORDERED = -0.5  # rank correlation of error and order, below which the error rises with disorder


def main_row(analysis: Mapping[str, Any]) -> str | None:
    """The residual network that the page is about."""
    rows = analysis.get("single") or analysis.get("networks") or {}
    return next((key for key in ("resnet", "network", *rows) if key in rows), None)


def downsampling_blocks(analysis: Mapping[str, Any], row: str) -> list[int]:
    """Numbers, from 0, of the blocks of a row that change the size."""
    blocks = ((analysis.get("networks") or {}).get(row) or {}).get("blocks") or []
    return [i for i, block in enumerate(blocks) if block.get("downsampling")]


def rises(analysis: Mapping[str, Any], row: str | None) -> np.ndarray | None:
    """``[blocks]``, by how much the error rises without each block, mean over the seeds."""
    single = (analysis.get("single") or {}).get(row)
    if not single:
        return None
    errors, whole = (np.asarray(single[name], dtype=float) for name in ("error", "whole"))
    return (errors - whole[:, None]).mean(0)


def headline(analysis: Mapping[str, Any]) -> str:
    """One deletion, VGG and the effective paths, in a sentence or two."""
    row = main_row(analysis)
    single = (analysis.get("single") or {}).get(row)
    if row is None or not single:
        return "Which layers and paths of a residual network matter."
    errors = np.asarray(single["error"], dtype=float).mean(0)
    whole = float(np.mean(single["whole"]))
    text = (
        f"Without one of its {errors.size} blocks, a residual network errs on "
        f"{percent(float(np.median(errors)))}\u00a0% of the test images in the median and on "
        f"{percent(float(errors.max()))}\u00a0% at worst; whole, on {percent(whole)}\u00a0%"
    )
    if vgg := (analysis.get("single") or {}).get("vgg"):
        plain = np.asarray(vgg["error"], dtype=float).mean(0)
        text += (f". A network without shortcuts errs on {percent(float(np.median(plain)))}\u00a0% "
                 f"without one of its {plain.size} layers")  # fmt: skip
    return text + "."


def findings(analysis: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Finding]:
    """The paper's statements, in its order."""
    row = main_row(analysis)
    single = _given(
        analysis, "single_mild", "Deleting a block that does not downsample has little effect, "
        "unlike a layer of a network without shortcuts", "figure 4.3"
    )  # fmt: skip
    smooth = _given(analysis, "smooth_decay", "The error rises smoothly with the number of deleted "
                    "blocks", "figure 4.5")  # fmt: skip
    return [
        _if_learned(analysis, row, single),
        _if_learned(analysis, "vgg", _vgg(analysis)),
        _if_learned(analysis, row, _downsampling(analysis, row)),
        _if_learned(analysis, row, smooth),
        _if_learned(analysis, row, _ten_and_twenty(analysis, row)),
        _if_learned(analysis, row, _reordering(analysis, row)),
        _lengths(analysis, row),
        _exponential(analysis, row),
        _given(analysis, "short_paths", "Short paths carry the gradient",
               "5 to 17 of 54 blocks, 0.45 % of all paths"),
        _effective(metrics),
        _stochastic_depth(analysis),
    ]  # fmt: skip


def _if_learned(analysis: Mapping[str, Any], row: str | None, finding: Finding) -> Finding:
    """The finding, undecided if the network whose error is to rise has learned nothing."""
    single, chance = (analysis.get("single") or {}).get(row), analysis.get("chance")
    if not single or chance is None or max(single["whole"]) < _LEARNED * chance:
        return finding
    if finding.verdict == "not measured":
        return finding
    return replace(finding, ours="The whole network is hardly better than chance.", holds=None)


def _given(analysis: Mapping[str, Any], key: str, statement: str, paper: str) -> Finding:
    """A finding that the run itself holds."""
    for one in analysis.get("findings") or []:
        if one["key"] == key:
            return Finding(statement, paper, str(one["sentence"]), one["holds"])
    return Finding(statement, paper)


def _vgg(analysis: Mapping[str, Any]) -> Finding:
    statement = "Deleting any layer of a network without shortcuts leaves it at chance"
    paper = "figure 4.3, VGG"
    rise, chance = rises(analysis, "vgg"), analysis.get("chance")
    if rise is None or chance is None:
        return Finding(statement, paper)
    whole = float(np.mean(analysis["single"]["vgg"]["whole"]))
    way = rise / max(chance - whole, 1e-12)
    lost = int((way >= _CHANCE).sum())
    ours = (
        f"{lost} of {way.size} deletions take the error at least {100 * _CHANCE:.0f}\u00a0% of the "
        f"way to chance ({percent(chance)}\u00a0%), the mildest {100 * way.min():.0f}\u00a0%."
    )
    return Finding(statement, paper, ours, lost == way.size)


def _downsampling(analysis: Mapping[str, Any], row: str | None) -> Finding:
    statement = "Deleting blocks that downsample has a higher impact"
    paper = "figures 4.3 and 4.4"
    rise, down = rises(analysis, row), downsampling_blocks(analysis, row or "")
    if rise is None or not down or len(down) == rise.size:
        return Finding(statement, paper)
    others = np.delete(rise, down)
    ours = (
        f"The error changes by {points(rise[down].mean())} points without one of them, by "
        f"{points(others.mean())} without one of the others."
    )
    return Finding(statement, paper, ours, bool(rise[down].mean() > others.mean()))


def _ten_and_twenty(analysis: Mapping[str, Any], row: str | None) -> Finding:
    statement = "Ten of 54 deletions cost little, twenty much"
    paper = "an error of about 20 % with 10 blocks deleted, a severe drop with 20"
    many, rise = (analysis.get("many") or {}).get(row), rises(analysis, row)
    if not many or rise is None:
        return Finding(statement, paper)
    counts = np.asarray(many["deleted"])
    errors = np.asarray(many["error"], dtype=float).mean((0, 2))
    whole = float(np.mean(analysis["single"][row]["whole"]))
    at = [int(np.abs(counts - share * rise.size / 54).argmin()) for share in (10, 20)]
    if at[0] == at[1]:
        return Finding(statement, paper)
    few, lot = (errors[i] - whole for i in at)
    ours = (
        f"The error is {percent(errors[at[0]])}\u00a0% without {counts[at[0]]} and "
        f"{percent(errors[at[1]])}\u00a0% without {counts[at[1]]} of {rise.size} blocks; whole, "
        f"{percent(whole)}\u00a0%."
    )
    return Finding(statement, paper, ours, bool(few < lot / 2))


def _reordering(analysis: Mapping[str, Any], row: str | None) -> Finding:
    statement = "The error rises smoothly as blocks are reordered"
    paper = "figure 4.5b"
    reorder = (analysis.get("reorder") or {}).get(row)
    if not reorder or len(reorder["tau"]) < 3:
        return Finding(statement, paper)
    tau, error = (_ranks(np.asarray(reorder[name], dtype=float)) for name in ("tau", "error"))
    if not np.ptp(tau) or not np.ptp(error):
        return Finding(statement, paper)
    correlation = float(np.corrcoef(tau, error)[0, 1])
    worst = int(np.argmin(reorder["tau"]))
    ours = (
        f"Error and Kendall's τ have a rank correlation of {correlation:.2f}".replace("-", "−")
        + f"; the furthest order (τ = {reorder['tau'][worst]:.2f}) errs on "
        f"{percent(reorder['error'][worst])}\u00a0%."
    )
    return Finding(statement, paper, ours, correlation <= _ORDERED)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values with their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]


def _lengths(analysis: Mapping[str, Any], row: str | None) -> Finding:
    statement = "More than 95 % of the paths of 54 blocks are 19 to 35 blocks long"
    paper = "figure 4.6a"
    paths = (analysis.get("paths") or {}).get(row)
    if not paths or paths["n"] != 54:
        return Finding(statement, paper)
    share = math.fsum(paths["counts"][19:36])
    return Finding(statement, paper, f"{100 * share:.2f}\u00a0%, exactly.", share > 0.95)


def _exponential(analysis: Mapping[str, Any], row: str | None) -> Finding:
    statement = "The gradient of a path decays exponentially with its length"
    paper = "figure 4.6b"
    gradients = (analysis.get("gradients") or {}).get(row)
    if not gradients:
        return Finding(statement, paper)
    means = np.array([np.mean(norms) for norms in gradients["norm"]], dtype=float)
    lengths = np.asarray(gradients["lengths"], dtype=float)[means > 0]
    if lengths.size < 3:
        return Finding(statement, paper)
    logs = np.log(means[means > 0])
    slope, _ = np.polyfit(lengths, logs, 1)
    straight = float(np.corrcoef(lengths, logs)[0, 1] ** 2) if np.ptp(logs) else 0.0
    ours = (
        f"Each block more multiplies its norm by {math.exp(slope):.3g} (a line through the "
        f"logarithms, R² = {straight:.2f})."
    )
    return Finding(statement, paper, ours, bool(slope < 0 and straight >= _STRAIGHT))


def _effective(metrics: Mapping[str, Any]) -> Finding:
    statement = "A network trained on its effective paths only is no worse"
    paper = "5.96 % error, trained whole 6.10 %, not significant"
    if not {"effective_paths", "resnet"} <= set(metrics):
        return Finding(statement, paper)
    over = difference(metrics, "effective_paths", "resnet", "top1")
    errors = [
        mean_and_spread({**metrics[key]["top1"], "mean": 1 - metrics[key]["top1"]["mean"]})
        for key in ("effective_paths", "resnet")
    ]
    ours = f"{errors[0]}\u00a0% error, trained whole {errors[1]}\u00a0%."
    if over.verdict != "lower":
        return Finding(statement, paper, ours, True)
    return Finding(statement, paper, ours, None if over.spread is None else False)


def _stochastic_depth(analysis: Mapping[str, Any]) -> Finding:
    statement = "Stochastic depth makes a network slightly more resilient"
    paper = "figure 4.8"
    plain, dropped = rises(analysis, "resnet"), rises(analysis, "stochastic_depth")
    if plain is None or dropped is None:
        return Finding(statement, paper)
    ours = (
        f"One deletion changes the error by {points(dropped.mean())} points on average, without "
        f"stochastic depth by {points(plain.mean())}; the worst by {points(dropped.max())} and "
        f"{points(plain.max())}."
    )
    return Finding(statement, paper, ours, bool(dropped.mean() < plain.mean()))
