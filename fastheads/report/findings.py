"""What the numbers of a run say, in sentences: they are computed, whichever way they come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastheads.report.rows import METRICS, mean_and_spread, percent, row_for, spread

MAIN = "map50_per_label"
Statement = tuple[str, str, str]  # the row above, the row below, in words
_CLAIMS: tuple[Statement, ...] = (
    ("confusions", "base", "Heads over confused groups beat the base network"),
    ("confusions", "randomized_confusions", "Confused groups beat random groups of the same sizes"),
    ("base", "randomized_confusions", "Random groups leave the network worse than it was"),
    ("co_detections", "base", "Heads over co-detected groups beat the base network"),
    ("co_detections", "randomized_co_detections",
     "Co-detected groups beat random groups of the same sizes"),
    ("base", "randomized_co_detections", "Random groups of co-detection sizes leave it worse"),
    ("confusions", "co_detections", "Confusions, which use the annotation, beat co-detections"),
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """How far one row lies above another.

    Attributes:
        mean: difference of the means, a fraction.
        spread: sum of both standard deviations, the bar that a difference has to pass; None if
            one of the rows has a single seed, then only the sign counts.
    """

    mean: float
    spread: float | None

    @property
    def verdict(self) -> str:
        """``higher``, ``lower`` or ``within the spread``."""
        if abs(self.mean) <= (self.spread or 0.0):
            return "within the spread"
        return "higher" if self.mean > 0 else "lower"


@dataclass(frozen=True)
class Claim:
    """A statement of the paper (its row ``above`` lies above its row ``below``) and what we found.

    Attributes:
        published: difference in the paper's table, a fraction.
        ours: our difference in each metric, the main one first.
    """

    text: str
    above: str
    below: str
    published: float
    ours: dict[str, Difference]

    @property
    def main(self) -> Difference:
        """Our difference in the main metric."""
        return next(iter(self.ours.values()))

    def verdict(self, metric: str | None = None) -> str:
        """``agrees``, ``contradicts`` or ``undecided`` (the difference is within the spread)."""
        verdicts = {"higher": "agrees", "lower": "contradicts"}
        found = self.main if metric is None else self.ours[metric]
        return verdicts.get(found.verdict, "undecided")


def difference(metrics: Mapping[str, Any], above: str, below: str, metric: str) -> Difference:
    """How far ``above`` lies over ``below`` in ``metric``."""
    high, low = metrics[above][metric], metrics[below][metric]
    known = len(high.get("seeds", ())) != 1 and len(low.get("seeds", ())) != 1
    return Difference(high["mean"] - low["mean"], spread(high) + spread(low) if known else None)


def claims(
    metrics: Mapping[str, Any],
    statements: Sequence[Statement] = _CLAIMS,
    names: Sequence[str] = tuple(METRICS),
) -> list[Claim]:
    """The paper's order of rows, as far as the run holds the rows, in each of the metrics."""
    found = []
    for above, below, text in statements:
        high, low = row_for(above).paper, row_for(below).paper
        if above in metrics and below in metrics and high and low:
            ours = {
                name: difference(metrics, above, below, name)
                for name in names
                if name in metrics[above] and name in metrics[below]
            }
            found.append(Claim(text, above, below, high[0] - low[0], ours))
    return found


def summary(metrics: Mapping[str, Any], num_groups: int | None = None) -> list[str]:
    """The main result in a few sentences.

    Args:
        metrics: the content of ``metrics.json``.
        num_groups: how many heads the row ``confusions`` has, if known.
    """
    base = mean_and_spread(metrics["base"][MAIN])
    if "confusions" not in metrics:
        return [f"The base network reaches {base}\u00a0% mAP@50 per label."]
    heads = metrics["confusions"]
    reached = mean_and_spread(heads[MAIN])
    cost = f"{heads['macs'] / metrics['base']['macs']:.3f}×"
    who = f"{num_groups} specialist heads" if num_groups else "Specialist heads"
    over_base = difference(metrics, "confusions", "base", MAIN).verdict
    change = {
        "higher": f"raise mAP@50 per label from {base}\u00a0% to {reached}\u00a0%",
        "lower": f"lower mAP@50 per label from {base}\u00a0% to {reached}\u00a0%",
        "within the spread": f"leave mAP@50 per label where it was: {base}\u00a0% before, "
        f"{reached}\u00a0% after, a difference within the spread over seeds",
    }[over_base]
    found = [
        f"{who}, each wired only to a group of labels that the base network confuses, {change}, "
        f"for {cost} the multiply-adds."
    ]
    if "retrained" in metrics:
        found.append(_against_retrained(metrics, over_base))
    if "randomized_confusions" in metrics:
        found.append(_against_random(metrics))
    if difference(metrics, "confusions", "base", MAIN).spread is None:
        found.append("This is a single seed: how far these numbers spread is not known.")
    return found


def _against_retrained(metrics: Mapping[str, Any], over_base: str) -> str:
    retrained = mean_and_spread(metrics["retrained"][MAIN])
    over = difference(metrics, "confusions", "retrained", MAIN)
    if over.verdict == "higher":
        return (
            f"The same network with nothing but its classifier retrained equally long reaches "
            f"{retrained}\u00a0%, so {percent(over.mean)} points are due to the heads."
        )
    if over.verdict == "lower":
        return (
            f"They do not win: the classifier retrained equally long, without any head, "
            f"reaches more, {retrained}\u00a0%."
        )
    start = "What is gained is gained by training longer" if over_base == "higher" else "No gain"
    return (
        f"{start}: the classifier retrained equally long, without any head, reaches "
        f"{retrained}\u00a0%, which the spread does not tell apart."
    )


def _against_random(metrics: Mapping[str, Any]) -> str:
    reached = mean_and_spread(metrics["randomized_confusions"][MAIN])
    verdict = difference(metrics, "confusions", "randomized_confusions", MAIN).verdict
    if verdict == "higher":
        return (
            f"Heads of the same sizes over randomly drawn groups reach {reached}\u00a0%: "
            f"it matters which labels share a head."
        )
    if verdict == "lower":
        return (
            f"Heads of the same sizes over randomly drawn groups reach more, {reached}\u00a0%: "
            f"here the confusions are no good guide to which labels should share a head."
        )
    return (
        f"Heads of the same sizes over randomly drawn groups reach {reached}\u00a0%, which the "
        "spread does not tell apart: this run does not show that it matters which labels share "
        "a head."
    )


def where_it_pays(points: list[Mapping[str, Any]]) -> str:
    """At which bottleneck widths the heads beat the equally long retrained classifier."""
    verdicts: dict[str, list[str]] = {}
    single = False
    for point in sorted(points, key=lambda point: point["bottleneck"]):
        rows = point["rows"]
        control = "retrained" if "retrained" in rows else "base"
        if "confusions" in rows and control in rows:
            found = difference(rows, "confusions", control, MAIN)
            verdicts.setdefault(found.verdict, []).append(str(point["bottleneck"]))
            single = single or found.spread is None
    said = {
        "higher": "The heads gain more than the spread at a bottleneck of {}.",
        "within the spread": "The difference stays within the spread at {}.",
        "lower": "The heads lose at {}.",
    }
    if single:
        said["higher"] = "The heads gain at a bottleneck of {}."
    text = [
        said[verdict].format(listed(verdicts[verdict])) for verdict in said if verdict in verdicts
    ]
    if single:
        text.append("Some widths have a single seed; how far these spread is not known.")
    return " ".join(text)


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
