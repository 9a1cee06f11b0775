"""Which layers run, for which images, and under attack: what a run says beside the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastheads.report.findings import listed
from fastheads.report.rows import percent
from fastheads.report.verdicts import Finding

ALWAYS, NEVER = 0.99, 0.01  # a rate from which a layer counts as always, or never, executed
CHANGED = 0.05  # mean change of the rates below which an attack leaves the gates as they were
_FEW = 10  # labels or images below which a group says nothing
_ERRORS = 3.0  # standard errors that two groups have to differ by
_EPSILON = 0.047  # of the paper's figure 5.9


def gated_blocks(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The blocks with a gate, in forward order; empty if the run does not say."""
    blocks = (analysis.get("network") or {}).get("blocks") or []
    return [block for block in blocks if block.get("gated", True)]


def mean_rates(analysis: Mapping[str, Any], row: str | None) -> np.ndarray | None:
    """``[gates]``, how often each gate of a row is open, mean over the seeds."""
    rates = (analysis.get("rates") or {}).get(row)
    return np.asarray(rates["layers"], dtype=float).mean(0) if rates else None


def layer_findings(
    analysis: Mapping[str, Any], execution: np.ndarray | None, kept: str | None
) -> list[Finding]:
    """The paper's statements on which layers run for which images."""
    blocks, rates = gated_blocks(analysis), mean_rates(analysis, kept)
    if rates is not None and len(blocks) != len(rates):
        rates = None
    downsampling = [i for i, block in enumerate(blocks) if block.get("downsampling")]
    return [
        _always("Downsampling layers are executed for all images", downsampling, rates),
        _always("The last layer is executed for all images", [len(blocks) - 1], rates),
        _never(rates),
        _groups_differ(analysis),
        _groups_explain(analysis, execution),
        _late(execution, downsampling),
    ]


def _always(statement: str, which: Sequence[int], rates: np.ndarray | None) -> Finding:
    paper = "figures 5.4 and 5.5"
    if rates is None or not which:
        return Finding(statement, paper)
    found = rates[list(which)]
    others = np.delete(rates, list(which))
    said = listed([f"{100 * rate:.1f}\u00a0% (gate {i + 1})"
                   for i, rate in zip(which, found, strict=True)])  # fmt: skip
    ours = f"Executed for {said} of the images"
    if others.size:
        ours += f"; the other gates for {100 * others.mean():.1f}\u00a0% on average"
        ours += f", {(others >= ALWAYS).sum()} of {others.size} always"
    return Finding(statement, paper, ours + ".", bool((found >= ALWAYS).all()))


def _never(rates: np.ndarray | None) -> Finding:
    statement, paper = "No layer is dropped every time", "section 5.3.1"
    if rates is None:
        return Finding(statement, paper)
    never = [str(i + 1) for i, rate in enumerate(rates) if rate <= NEVER]
    ours = f"The least used gate opens for {100 * rates.min():.1f}\u00a0% of the images."
    if never:
        ours = f"Hardly ever open: gate {listed(never)}."
    return Finding(statement, paper, ours, not never)


def _groups_differ(analysis: Mapping[str, Any]) -> Finding:
    statement = "Groups of labels differ in how many layers they use"
    paper = "birds one layer less than consumer goods, of 16 (figure 5.6)"
    groups = (analysis.get("histogram") or {}).get("groups") or []
    groups = [group for group in groups if group["images"] >= _FEW]
    if len(groups) < 2:
        return Finding(statement, paper)
    few, many = (pick(groups, key=lambda group: group["mean"]) for pick in (min, max))
    error = math.sqrt(sum(group["std"] ** 2 / group["images"] for group in (few, many)))
    apart = many["mean"] - few["mean"]
    ours = (
        f"{apart:.2f} gates lie between “{few['name']}” ({few['mean']:.2f}) and "
        f"“{many['name']}” ({many['mean']:.2f}), {apart / error if error else math.inf:.0f} "
        "standard errors."
    )
    return Finding(statement, paper, ours, True if apart > _ERRORS * error else None)


def _groups_explain(analysis: Mapping[str, Any], execution: np.ndarray | None) -> Finding:
    statement = "Groups of labels use different sets of layers"
    paper = "man-made objects and animals, birds, mammals, reptiles (figure 5.4)"
    groups = (analysis.get("execution") or {}).get("groups") or []
    if execution is None or len(groups) < 2:
        return Finding(statement, paper)
    owner = np.full(len(execution), -1)
    for i, group in enumerate(groups):
        owner[group["first"] : group["last"] + 1] = i
    known = np.isfinite(execution).all(1) & (owner >= 0)
    values, owner = execution[known].astype(float), owner[known]
    sizes = np.bincount(owner, minlength=len(groups))
    sums = np.stack([np.bincount(owner, column, len(groups)) for column in values.T], 1)
    means = sums / np.maximum(sizes, 1)[:, None]
    total = ((values - values.mean(0)) ** 2).sum()
    held = (sizes > 0).sum()
    if not total or held < 2 or len(values) <= held:
        return Finding(statement, paper)
    share = (sizes[:, None] * (means - values.mean(0)) ** 2).sum() / total
    chance = (held - 1) / (len(values) - 1)
    large = np.flatnonzero(sizes >= _FEW) if (sizes >= _FEW).sum() > 1 else np.flatnonzero(sizes)
    gate = int(np.ptp(means[large], axis=0).argmax())
    low, high = (int(large[pick(means[large, gate])]) for pick in (np.argmin, np.argmax))
    ours = (
        f"Groups explain {100 * share:.1f}\u00a0% of the labels' variation of rates, "
        f"{100 * chance:.1f}\u00a0% by chance; furthest apart in gate {gate + 1}: "
        f"{100 * means[low, gate]:.0f}\u00a0% (“{groups[low]['name']}”) and "
        f"{100 * means[high, gate]:.0f}\u00a0% (“{groups[high]['name']}”)."
    )
    return Finding(statement, paper, ours, bool(share > 2 * chance))


def _late(execution: np.ndarray | None, downsampling: Sequence[int]) -> Finding:
    statement = "Labels differ mostly in the layers after the second downsampling"
    paper = "section 5.3.2, 50 layers"
    if execution is None or len(downsampling) < 2:
        return Finding(statement, paper)
    deviation = np.nanstd(execution.astype(float), axis=0)
    early, late = deviation[: downsampling[1]], deviation[downsampling[1] :]
    ours = (
        f"The labels' rates deviate by {100 * late.mean():.1f} points a gate from there on, by "
        f"{100 * early.mean():.1f} before."
    )
    return Finding(statement, paper, ours, bool(late.mean() > early.mean()))


def attack_findings(analysis: Mapping[str, Any], kept: str | None) -> list[Finding]:
    """The paper's statements on robustness."""
    attack = analysis.get("attack") or {}
    robust = "The network with gates is more robust than the plain one at every strength"
    return [
        _robust(robust, "figure 5.8", attack, "direct", kept),
        _robust(f"{robust}, with JPEG compression", "figure 5.8", attack, "jpeg", kept),
        _gates_attacked(attack, kept),
    ]


def _robust(
    statement: str, paper: str, attack: Mapping[str, Any], kind: str, kept: str | None
) -> Finding:
    rows, epsilons = attack.get("rows") or {}, np.asarray(attack.get("epsilons") or [], dtype=float)
    ours, theirs = ((rows.get(key) or {}).get(kind) for key in (kept, "plain"))
    strengths = np.flatnonzero(epsilons > 0)
    if not ours or not theirs or not strengths.size:
        return Finding(statement, paper)
    above = sum(ours[i] > theirs[i] for i in strengths)
    at = strengths[np.abs(epsilons[strengths] - _EPSILON).argmin()]
    said = (
        f"More accurate at {above} of {strengths.size} strengths; at ε = {epsilons[at]:g} "
        f"{percent(ours[at])} against {percent(theirs[at])}\u00a0%."
    )
    return Finding(statement, paper, said, above == strengths.size)


def _gates_attacked(attack: Mapping[str, Any], kept: str | None) -> Finding:
    statement = "The rates of the layers stay similar under attack"
    paper = "at ε = 0.047 birds fall from 74.62 to 11 % (figure 5.9)"
    gates = attack.get("gates") or {}
    if not gates:
        return Finding(statement, paper)
    change = np.abs(np.asarray(gates["after"], dtype=float) - gates["before"])
    ours = (
        f"At ε = {gates['epsilon']:g} a rate changes by {100 * change.mean():.1f} points on "
        f"average, at most by {100 * change.max():.1f} (gate {int(change.argmax()) + 1})."
    )
    return Finding(statement, paper, ours, bool(change.mean() <= CHANGED))
