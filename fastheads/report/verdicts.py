"""Statements of a paper beside what a run found, each with its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastheads.report.findings import Difference, difference
from fastheads.report.page import Content, Html, notice, table, tag
from fastheads.report.rows import percent, points


@dataclass(frozen=True)
class Finding:
    """A statement of a paper and what was found.

    Attributes:
        statement: of the paper, a whole sentence without its full stop.
        paper: its numbers, or where it is said.
        ours: what was found, a whole sentence; empty if it was not measured.
        holds: whether the statement holds here; None if the numbers do not tell.
    """

    statement: str
    paper: str
    ours: str = ""
    holds: bool | None = None

    @property
    def verdict(self) -> str:
        """``agrees``, ``contradicts``, ``undecided`` or ``not measured``."""
        if not self.ours:
            return "not measured"
        return {True: "agrees", False: "contradicts", None: "undecided"}[self.holds]


def holds(found: Difference) -> bool | None:
    """Whether a difference that should be positive is; None within the spread."""
    return {"higher": True, "lower": False}.get(found.verdict)


def compared(
    statement: str, paper: str, metrics: Mapping[str, Any], above: str, below: str, metric: str
) -> Finding:
    """A statement that one row lies above another; not measured if one of them is missing."""
    if any(metric not in metrics.get(key, {}) for key in (above, below)):
        return Finding(statement, paper)
    found = difference(metrics, above, below, metric)
    by = "" if found.spread is None else f"\u00a0±\u00a0{percent(found.spread)}"
    high, low = (percent(metrics[key][metric]["mean"]) for key in (above, below))
    ours = f"{points(found.mean)}{by} points ({high} against {low}\u00a0%)."
    return Finding(statement, paper, ours, holds(found))


def verdict_table(found: Sequence[Finding], caption: str) -> Html:
    """Statement, verdict, what was found, and what the paper says."""
    rows: list[list[Content]] = [
        [
            one.statement + ".",
            tag("span", one.verdict, class_=one.verdict.replace(" ", "-")),
            one.ours or "–",
            tag("span", one.paper, class_="paper"),
        ]
        for one in found
    ]
    return table(["the paper's statement", "verdict", "here", "paper"], rows, caption, "llll")


def verdict_item(one: Finding) -> Html:
    """One entry of a list: statement, verdict, and what was found."""
    verdict = tag("span", one.verdict, class_=one.verdict.replace(" ", "-"))
    return tag("li", f"{one.statement}: ", verdict, f". {one.ours}")


def verdict_notice(found: Sequence[Finding]) -> Html | None:
    """A remark at the top that names the statements of the paper which do not hold here."""
    measured = [one for one in found if one.ours]
    against = [one for one in measured if one.verdict == "contradicts"]
    if against:
        title = f"Contradicts the paper in {len(against)} of {len(measured)} statements."
        return notice(title, "Not so here: ", "; ".join(one.statement for one in against), ".",
                      kind="warning")  # fmt: skip
    agreed = sum(one.verdict == "agrees" for one in measured)
    if not measured or agreed < len(measured):
        return None
    return notice("Agrees with the paper.", f"All {agreed} statements hold here.", kind="good")
