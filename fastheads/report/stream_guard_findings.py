"""What a run with streamed labels says of guards, time and arrivals, beside the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report.findings import listed
from fastheads.report.rows import percent, row_for
from fastheads.report.stream_measures import (
    LIMIT,
    MAIN,
    at_least,
    every,
    guards_of,
    keeps,
    metric_of,
    paired,
    ratio_of,
    signed,
)
from fastheads.report.verdicts import Finding

_TENFOLD, _EPOCH, _SE = 10.0, 8.0, 1.055
_TESTED = {"original_top5": "base pictures", MAIN: "streamed pictures"}


def learns(row: Mapping[str, Any]) -> bool | None:
    """Whether a row knows more of the streamed pictures than before."""
    return at_least(row.get("learned"), 0.0) if "learned" in row else True


def guard_findings(rows: Mapping[str, Any], kept: str | None) -> list[Finding]:
    """Whether the kept network keeps its base accuracy as it is, and with which guards."""
    points = f"{100 * LIMIT:.0f}\u00a0points"
    alone = (f"Learning the stream without any guard leaves the base accuracy within {points}",
             "86.8 to 86.2 % (table 4, 2×/32)")  # fmt: skip
    guarded = (f"A guard keeps the base accuracy within {points} while the stream is learned",
               "no guards there")  # fmt: skip
    known = guards_of(rows, kept)
    found = [Finding(*alone), Finding(*guarded)]
    if kept in known:
        row = rows[kept]
        ours = f"{row_for(kept).short}: {_kept(row)}"
        found[0] = Finding(*alone, ours, every(keeps(row), learns(row)))
    guards = [key for key in known if key != kept]
    if guards:
        found[1] = _guarded(guarded, rows, guards)
    return found


def _learned(row: Mapping[str, Any]) -> str:
    name, what = ("streamed_all", "all labels") if "streamed_all" in row else (MAIN, "one label")
    share = percent(row[name]["mean"])
    return f"{share}\u00a0% of the streamed pictures have {what} among the best five"


def _guarded(words: tuple[str, str], rows: Mapping[str, Any], guards: Sequence[str]) -> Finding:
    verdicts = {key: every(keeps(rows[key]), learns(rows[key])) for key in guards}
    inside = [key for key in guards if verdicts[key]]
    open_ = [key for key in guards if verdicts[key] is None]
    if inside:
        best = max(inside, key=lambda key: rows[key][MAIN]["mean"])
        others = [f"“{row_for(key).short}”" for key in inside if key != best]
        ours = f"“{row_for(best).short}” learns most: {_kept(rows[best])}"
        ours += f" So do, learning less, {listed(others)}." if others else " No other guard does."
        return Finding(*words, ours, True)
    nearest = max(open_ or guards, key=lambda key: rows[key]["change"]["mean"])
    ours = f"“{row_for(nearest).short}” comes nearest: {_kept(rows[nearest])}"
    return Finding(*words, ours, None if open_ else False)


def _kept(row: Mapping[str, Any]) -> str:
    return f"{signed(row['change'])}; {_learned(row)}."


def time_findings(
    rows: Mapping[str, Any], analysis: Mapping[str, Any], kept: str | None, best: str | None
) -> list[Finding]:
    """The paper's statements on time (section 8.3), and on retraining (8.4)."""
    return [
        _retraining(rows, analysis, beside_retraining(analysis, best)),
        _ratio("An epoch on streamed pictures takes at least 8 times less than one on base "
               "pictures", "403.7 against 20.9 s (table 5), 8 times with validation",
               rows, (kept, "base_epoch_seconds"), (kept, "stream_epoch_seconds"), _EPOCH),
        _ratio("SE blocks cost about 5 % more training time", "417.2 against 395.7 s (table 5)",
               rows, ("senet", "base_epoch_seconds"), ("resnet", "base_epoch_seconds"), _SE, True),
        _ratio("4× expansion takes longer than none", "425.6 against 417.2 s (table 5)",
               rows, ("senet_4x", "base_epoch_seconds"), ("senet", "base_epoch_seconds"), 1.0),
    ]  # fmt: skip


def _ratio(
    statement: str,
    paper: str,
    rows: Mapping[str, Any],
    above: tuple[str | None, str],
    below: tuple[str | None, str],
    threshold: float,
    at_most: bool = False,
) -> Finding:
    """A statement that one time is so many times another, at least or at most."""
    first, second = (rows.get(key or "", {}).get(name) for key, name in (above, below))
    found = ratio_of(first, second) if first and second else None
    if found is None:
        return Finding(statement, paper)
    reached = at_least(found, threshold)
    ours = f"{times(found)}: {seconds(first)} against {seconds(second)} s an epoch."
    if at_most and reached is not None:
        reached = not reached
    return Finding(statement, paper, ours, reached)


def times(metric: Mapping[str, Any]) -> str:
    """A ratio with its spread: ``12.3 ± 0.4×``."""
    digits = 1 if metric["mean"] >= 3 else 3
    by = f"\u00a0±\u00a0{metric['std']:.{digits}f}" if len(metric.get("seeds", ())) != 1 else ""
    return f"{metric['mean']:.{digits}f}{by}×"


def seconds(metric: Mapping[str, Any]) -> str:
    return f"{metric['mean']:,.{2 if metric['mean'] < 100 else 0}f}"


def beside_retraining(analysis: Mapping[str, Any], best: str | None) -> str | None:
    """The row that retraining is compared with: the quickest that keeps the base accuracy."""
    return (analysis.get("retraining") or {}).get("beside", best)


def retraining_ratio(
    rows: Mapping[str, Any], analysis: Mapping[str, Any], best: str | None
) -> Mapping[str, Any] | None:
    """How many times longer retraining takes than a row's learning of the stream."""
    given = (analysis.get("retraining") or {}).get("ratio")
    if given:
        return given
    own = rows.get(best or "", {}).get("stream_seconds")
    whole = rows.get("retrained", {}).get("base_seconds")
    return ratio_of(whole, own) if own and whole else None


def _retraining(rows: Mapping[str, Any], analysis: Mapping[str, Any], best: str | None) -> Finding:
    """Time and accuracy together: ten times longer, and at most three points better."""
    statement = (
        "Retraining from scratch takes at least 10 times longer for an accuracy within "
        f"{100 * LIMIT:.0f}\u00a0points, on base and on streamed pictures"
    )
    paper = "up to 30 times, within 3 % (section 8.4)"
    ratio = retraining_ratio(rows, analysis, best)
    known = best is not None and all(
        name in rows.get(key, {}) for key in (best, "retrained") for name in _TESTED
    )
    if ratio is None or not known or best is None:
        return Finding(statement, paper)
    behind = {name: paired(rows[best][name], rows["retrained"][name]) for name in _TESTED}
    within = [at_least(change, -LIMIT) for change in behind.values()]
    against = listed([f"{signed(behind[name])} on {what}" for name, what in _TESTED.items()])
    ours = f"It takes {times(ratio)} as long. Against it “{row_for(best).short}” has {against}."
    return Finding(statement, paper, ours, every(at_least(ratio, _TENFOLD), *within))


def arrivals_sentence(
    rows: Mapping[str, Mapping[str, Any]], count: int, kept: str | None, best: str | None
) -> str:
    """How far accuracy falls over successive arrivals, as it is and with the best guard."""
    said = []
    for key in dict.fromkeys((kept, best)):
        if key and rows.get(key, {}).get("original_top5"):
            ends = [[seed[0], seed[-1]] for seed in rows[key]["original_top5"]]
            first, last = (metric_of([end[i] for end in ends]) for i in (0, 1))
            name = f"{row_for(key).short}" if key == kept else f"with “{row_for(key).short}”"
            said.append(f"{name} from {percent(first['mean'])} to {percent(last['mean'])}\u00a0% "
                        f"({signed(paired(last, first))})")  # fmt: skip
    if not said:
        return ""
    return f"Over {count} arrivals, top-5 on base pictures goes for {listed(said)}."
