"""What a run of networks that skip layers says of accuracy and cost, beside the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from fastheads.report.findings import difference, listed
from fastheads.report.rows import mean_and_spread, percent, points, row_for
from fastheads.report.rows_adaptive import target_rate
from fastheads.report.verdicts import Finding, compared, holds

MAIN = "top1"
TIMES = {"ms_1": "batch 1", "ms_32": "batch 32"}
_SHARE = 0.8  # of the plain network's time: what a network that skips layers should stay below
_SLACK = 1.0005  # a rate that executes as much as a lower one is no exception


def rates_of(metrics: Mapping[str, Any]) -> list[str]:
    """The rows of the target rates, from the lowest."""
    rates = {key: target_rate(key) for key in metrics}
    return sorted((key for key in metrics if rates[key]), key=lambda key: rates[key] or 0.0)


def kept_of(metrics: Mapping[str, Any], named: str | None = None) -> str | None:
    """The row that the page is about: ``named``, else the target rate of the best accuracy."""
    if named in metrics:
        return named
    return max(rates_of(metrics), key=lambda key: metrics[key][MAIN]["mean"], default=None)


def value_of(row: Mapping[str, Any], name: str) -> float | None:
    """A number of a row, or the mean of its seeds; None if the row does not hold it."""
    value = row.get(name)
    return value["mean"] if isinstance(value, Mapping) else value


def share_of(metrics: Mapping[str, Any], key: str, name: str, base: str = "plain") -> float | None:
    """What a row costs as a share of what another costs; None if one is not known."""
    ours, theirs = (value_of(metrics.get(row, {}), name) for row in (key, base))
    return None if ours is None or not theirs else ours / theirs


def headline(metrics: Mapping[str, Any], kept: str | None, num_blocks: int | None) -> str:
    """The kept network beside the plain one, in a sentence or two."""
    if kept is None:
        key = next(iter(metrics))
        return f"The row “{row_for(key).short}” reaches {_reached(metrics, key)} top-1."
    layers, rate = value_of(metrics[kept], "layers"), target_rate(kept)
    executed = "" if layers is None else f" executes {layers:.1f}"
    executed += f" of {num_blocks} layers an image and" if executed and num_blocks else (
        " layers an image and" if executed else "")  # fmt: skip
    at = f", trained towards a rate of {100 * rate:.0f}\u00a0%," if rate else ""
    text = f"A residual network whose gates choose its layers for every image{at}{executed} "
    text += f"reaches {_reached(metrics, kept)} top-1"
    if "plain" in metrics:
        text += f"; the plain network reaches {_reached(metrics, 'plain')}"
    if said := _times(metrics, kept):
        text += f". It needs {said} of the plain network's measured time"
    return text + "."


def cost_findings(metrics: Mapping[str, Any], kept: str | None) -> list[Finding]:
    """The paper's statements on accuracy and cost."""
    best, scaled = kept_of(metrics) or "", f"{kept}_all"
    return [
        compared("The best network with gates is more accurate than the plain one trained as long",
                 "94.24 against 93.39 % (CIFAR-10), 76.60 against 76.13 % (ImageNet, 50 layers)",
                 metrics, best, fair_base(metrics), MAIN),
        _time(metrics),
        _order(metrics),
        _peak(metrics),
        compared("Executing all layers, scaled by their rates (*), is more accurate than skipping",
                 "94.86 against 94.24 %", metrics, scaled, kept or "", MAIN),
        compared("All layers, scaled (*), are more accurate than stochastic depth",
                 "94.86 against 94.75 %",
                 metrics, scaled, "stochastic_depth", MAIN),
        compared("Skipping layers is more accurate than stochastic depth on many classes",
                 "76.18 against 72.25 % (ImageNet, 50 layers)",
                 metrics, kept or "", "stochastic_depth", MAIN),
        compared("Straight-through gates are more accurate than soft ones", "section 5.2.2, no "
                 "numbers", metrics, kept or "", f"{kept}_soft", MAIN),
    ]  # fmt: skip


def fair_base(metrics: Mapping[str, Any]) -> str:
    """The plain network that was trained as long as those with gates, if there is one."""
    return "plain_continued" if "plain_continued" in metrics else "plain"


def _time(metrics: Mapping[str, Any]) -> Finding:
    """Whether a rate is as accurate as the plain network and takes at most 80 % of its time."""
    statement = (
        f"A network with gates matches the plain one in at most {100 * _SHARE:.0f} % of its cost"
    )
    paper = "0.82 of the layers (CIFAR-10), 0.80 and 0.67 of the multiply-adds (ImageNet); no times"
    timed = [key for key in rates_of(metrics)
             if all(share_of(metrics, key, name) for name in TIMES)]  # fmt: skip
    if not timed:
        return Finding(statement, paper)
    base = fair_base(metrics)
    if key := _fast(metrics, timed, base):
        over = difference(metrics, key, base, MAIN).verdict
        end = "." if over == "higher" else ", within the spread over seeds."
        return Finding(statement, paper, f"So does the {_point(metrics, key, base)}{end}", True)
    key = min(timed, key=lambda key: (_below(metrics, key, base), _slowest(metrics, key)))
    said = f"No rate does; nearest is the {_point(metrics, key, base)}."
    if base != "plain" and (key := _fast(metrics, timed, "plain") or ""):
        said += f" The plain network with less training is matched by the {_point(metrics, key)}."
    return Finding(statement, paper, said, False)


def _below(metrics: Mapping[str, Any], key: str, base: str) -> bool:
    return difference(metrics, key, base, MAIN).verdict == "lower"


def _fast(metrics: Mapping[str, Any], timed: Sequence[str], base: str) -> str | None:
    """The most accurate of the rows that match ``base`` and are fast enough."""
    found = [key for key in timed
             if _slowest(metrics, key) <= _SHARE and not _below(metrics, key, base)]  # fmt: skip
    return max(found, key=lambda key: metrics[key][MAIN]["mean"], default=None)


def _slowest(metrics: Mapping[str, Any], key: str) -> float:
    return max(share_of(metrics, key, name) or 0.0 for name in TIMES)


def _point(metrics: Mapping[str, Any], key: str, base: str = "plain") -> str:
    """A target rate, how far it lies above the plain network, and its shares of time."""
    gain = points(metrics[key][MAIN]["mean"] - metrics[base][MAIN]["mean"])
    over = " trained as long" if base != "plain" else ""
    rate = f"target rate {100 * (target_rate(key) or 0):.0f}\u00a0%"
    return (
        f"{rate}: {gain} points against the plain network{over}, {_times(metrics, key)} of its time"
    )


def _times(metrics: Mapping[str, Any], key: str) -> str:
    shares = {TIMES[name]: share_of(metrics, key, name) for name in TIMES}
    return listed([f"{100 * share:.0f}\u00a0% (at {size})" for size, share in shares.items()
                   if share is not None] or [""])  # fmt: skip


def _order(metrics: Mapping[str, Any]) -> Finding:
    """Whether lower targets execute less."""
    statement = "A lower target rate costs less"
    paper = "2.56 to 3.49 G from 40 to 80 % (ImageNet, 50 layers)"
    rates = rates_of(metrics)
    if len(rates) < 2:
        return Finding(statement, paper)
    macs = [metrics[key]["macs"] for key in rates]
    rising = all(low <= high * _SLACK for low, high in pairwise(macs))
    shares = [share_of(metrics, key, "macs") for key in (rates[0], rates[-1])]
    ends = " to ".join(f"{share:.2f}" for share in shares if share)
    of = f", {ends} of the plain network's multiply-adds" if ends else ""
    first, last = (row_for(key).short.removeprefix("adaptive ") for key in (rates[0], rates[-1]))
    start = "The cost rises with the rate" if rising else "The cost does not rise with every rate"
    return Finding(statement, paper, f"{start} from {first} to {last}{of}.", rising)


def _peak(metrics: Mapping[str, Any]) -> Finding:
    """Whether some limit on layers helps, and a tight one costs accuracy."""
    statement = "A limit on the layers first raises the accuracy, a tighter one then lowers it"
    paper = "76.13 % without, 76.60 at 80 %, 75.25 at 40 % (ImageNet, 50 layers)"
    rates = rates_of(metrics)
    if len(rates) < 2 or "plain" not in metrics:
        return Finding(statement, paper)
    best, base = kept_of(metrics) or rates[-1], fair_base(metrics)
    first = holds(difference(metrics, best, base, MAIN))
    then = holds(difference(metrics, best, rates[0], MAIN)) if best != rates[0] else False
    verdict = False if False in (first, then) else None if None in (first, then) else True
    keys = dict.fromkeys([base, best, rates[0]])
    said = listed([f"{_reached(metrics, key)} ({row_for(key).short})" for key in keys])
    return Finding(statement, paper, f"{said}.", verdict)


def controls(metrics: Mapping[str, Any], kept: str | None) -> list[str]:
    """What the rows say that the paper does not have: trained on, closed at random, single seed."""
    said = []
    rows = (("plain_continued", _trained_on), (_random_of(kept), _random),
            (f"{kept}_worded", _worded))  # fmt: skip
    for key, reads in rows:
        if kept is not None and kept in metrics and key in metrics:
            said.append(reads(_reached(metrics, key), difference(metrics, kept, key, MAIN).verdict))
    if any(
        len(row[MAIN].get("seeds", ())) == 1
        for key, row in metrics.items()
        if not key.startswith("budget_")
    ):
        said.append("Rows with a single seed: how far these numbers spread is not known, and only "
                    "the sign of a difference counts.")  # fmt: skip
    return said


def _random_of(kept: str | None) -> str:
    return (kept or "").replace("adaptive", "random")


def _trained_on(reached: str, verdict: str) -> str:
    end = {
        "higher": "so the gates gain more than longer training does",
        "lower": "more than with gates: part of any gain over the plain network is due to "
        "longer training",
        "within the spread": "which the spread does not tell apart",
    }
    return f"The plain network, trained as long again as those with gates, reaches {reached}, " + (
        end[verdict] + "."
    )  # fmt: skip


def _random(reached: str, verdict: str) -> str:
    end = {
        "higher": "it matters which layers an image skips",
        "lower": "here the gates choose worse than chance",
        "within the spread": "the spread does not tell the gates' choice from chance",
    }
    return f"With layers closed at random at the same rates, {reached}: {end[verdict]}."


def _worded(reached: str, verdict: str) -> str:
    end = {"higher": "less", "lower": "more", "within the spread": "the same within the spread"}
    return f"With each gate held at the rate by itself, as worded, {reached}: {end[verdict]}."


def _reached(metrics: Mapping[str, Any], key: str) -> str:
    return f"{mean_and_spread(metrics[key][MAIN])}\u00a0%"


def budget_sentence(budget: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any],
                    kept: str | None) -> str:  # fmt: skip
    """The lowest number of layers at which a fixed budget reaches the kept network's accuracy."""
    if not budget or kept is None or kept not in metrics:
        return ""
    aim = metrics[kept][MAIN]["mean"]
    reached = sorted((entry for entry in budget if (value_of(entry, MAIN) or 0.0) >= aim),
                     key=lambda entry: entry["k"])  # fmt: skip
    if reached:
        first = reached[0]
        return (f"With a budget of {first['k']} open gates for every image it reaches "
                f"{percent(value_of(first, MAIN))}\u00a0%, no less than with a free "
                f"choice ({percent(aim)}\u00a0%).")  # fmt: skip
    best = max(budget, key=lambda entry: value_of(entry, MAIN) or 0.0)
    return (f"A fixed number of open gates stays below a free choice ({percent(aim)}\u00a0%): "
            f"{percent(value_of(best, MAIN))}\u00a0% with {best['k']}.")  # fmt: skip
