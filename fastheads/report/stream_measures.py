"""What follows from the metrics of a run with streamed labels: forgetting, guards, ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report.findings import Difference
from fastheads.report.rows import percent, points, spread
from fastheads.report.rows_stream import GUARDS, NETWORKS
from fastheads.report.verdicts import holds

LIMIT = 0.03  # of top-5: what the paper and this page call keeping the base accuracy
MAIN = "streamed_top5"
_GUARDS = tuple(row.key for row in GUARDS)


def metric_of(seeds: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation of one value a seed."""
    std = statistics.stdev(seeds) if len(seeds) > 1 else 0.0
    return {"mean": statistics.fmean(seeds), "std": std, "seeds": list(seeds)}


def paired(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """``first - second``, seed by seed where both have the same ones, else with both spreads."""
    ours, theirs = first.get("seeds") or [], second.get("seeds") or []
    if ours and len(ours) == len(theirs):
        return metric_of([a - b for a, b in zip(ours, theirs, strict=True)])
    return {"mean": first["mean"] - second["mean"], "std": spread(first) + spread(second),
            "seeds": _of_pair(ours, theirs)}  # fmt: skip


def ratio_of(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any] | None:
    """``first / second``, seed by seed as in ``paired``; None if the second is 0."""
    ours, theirs = first.get("seeds") or [], second.get("seeds") or []
    if not (first["mean"] and second["mean"] and all(theirs)):
        return None
    if ours and len(ours) == len(theirs):
        return metric_of([a / b for a, b in zip(ours, theirs, strict=True)])
    mean = first["mean"] / second["mean"]
    std = mean * (spread(first) / first["mean"] + spread(second) / second["mean"])
    return {"mean": mean, "std": std, "seeds": _of_pair(ours, theirs)}


def _of_pair(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """One value if one of two rows has a single seed, so that the spread counts as not known."""
    return [0.0] if min(len(ours), len(theirs)) == 1 else []


def over(metric: Mapping[str, Any], threshold: float = 0.0) -> Difference:
    """How far a metric lies above a threshold; with a single seed its spread is not known."""
    single = len(metric.get("seeds", ())) == 1
    return Difference(metric["mean"] - threshold, None if single else spread(metric))


def at_least(metric: Mapping[str, Any] | None, threshold: float) -> bool | None:
    """Whether a metric reaches a threshold; None within its spread or if there is no metric."""
    return None if metric is None else holds(over(metric, threshold))


def every(*conditions: bool | None) -> bool | None:
    """False if one condition is, else None if one is not decided, else True."""
    return False if False in conditions else None if None in conditions else True


def kept_of(metrics: Mapping[str, Any], named: str | None = None) -> str | None:
    """The network that guards are tried on: ``named``, else the best balanced one."""
    if named in metrics:
        return named
    known = [row.key for row in NETWORKS if "balance" in metrics.get(row.key, {})]
    return max(known, key=lambda key: metrics[key]["balance"]["mean"], default=None)


def with_changes(metrics: Mapping[str, Any], named: str | None = None) -> dict[str, Any]:
    """Every row with what follows from it, where its metrics are known.

    ``change`` is top-5 on the base test pictures after the stream less that before; ``balance``
    the mean of top-5 on base and on streamed pictures, both after; ``learned`` what the stream
    adds to the share of the streamed pictures with all labels among the best five. Rows that start
    from the kept network take what was before from its row.
    """
    rows = {key: dict(row) for key, row in metrics.items()}
    for row in rows.values():
        _add(row, row)
    kept = kept_of(rows, named)
    for key in (*_GUARDS, "retrained"):
        if key in rows and kept is not None:
            _add(rows[key], rows[kept])
    return rows


def _add(row: dict[str, Any], before: Mapping[str, Any]) -> None:
    for name, after, first in (("change", "original_top5", "base_top5"),
                               ("learned", "streamed_all", "before_all")):  # fmt: skip
        base = row.get(first, before.get(first))
        if after in row and base is not None:
            row.setdefault(name, paired(row[after], base))
    if "original_top5" in row and MAIN in row:
        negative = {**row[MAIN], "mean": -row[MAIN]["mean"],
                    "seeds": [-seed for seed in row[MAIN].get("seeds", [])]}  # fmt: skip
        total = paired(row["original_top5"], negative)
        row["balance"] = {"mean": total["mean"] / 2, "std": total["std"] / 2,
                          "seeds": [seed / 2 for seed in total["seeds"]]}  # fmt: skip


def keeps(row: Mapping[str, Any]) -> bool | None:
    """Whether a row of ``with_changes`` stays within the limit of its base accuracy."""
    return at_least(row.get("change"), -LIMIT)


def guards_of(metrics: Mapping[str, Any], kept: str | None) -> list[str]:
    """The kept row and the guards tried on it, those that learned the stream."""
    tried = [kept, *_GUARDS] if kept else []
    return [key for key in tried if {MAIN, "change"} <= set(metrics.get(key, {}))]


def best_row(metrics: Mapping[str, Any], kept: str | None, named: str | None = None) -> str | None:
    """The way to learn the stream: ``named``, else of those within the limit the best learner."""
    if named in metrics:
        return named
    rank = {True: 2, None: 1, False: 0}

    def place(key: str) -> tuple[int, float]:
        row = metrics[key]
        kept_base = rank[keeps(row)]
        return kept_base, row[MAIN if kept_base else "change"]["mean"]

    return max(guards_of(metrics, kept), key=place, default=None)


def signed(metric: Mapping[str, Any], unit: str = " points") -> str:
    """A difference of fractions with its spread: ``−3.10 ± 0.40 points``."""
    return signed_by(over(metric), unit)


def signed_by(found: Difference, unit: str = " points") -> str:
    by = "" if found.spread is None else f"\u00a0±\u00a0{percent(found.spread)}"
    return f"{points(found.mean)}{by}{unit}"
