"""What a run of Knowledge Concentration says, in sentences computed from its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastheads.report.findings import (
    Claim,
    Difference,
    Statement,
    claims,
    difference,
    listed,
)
from fastheads.report.rows import VERTICAL_METRICS, mean_and_spread, percent, row_for

MAIN = "mpvap"
STATEMENTS: tuple[Statement, ...] = (
    ("fc_fc", "generalist", "Distillation helps FC-FC"),
    ("sc_sc", "sc_sc_annotated", "Distillation helps SC-SC"),
    ("fc_sc", "fc_fc", "FC-SC beats FC-FC at the same width of the top-2 layer"),
    ("fc_sc", "sc_sc", "A shared top-1 layer is better than one a vertical"),
    ("fc_sc", "fc_sc_generic_25", "FC-SC without a generic part beats one with a quarter"),
    ("fc_sc", "fc_sc_generic_50", "FC-SC without a generic part beats one with a half"),
    ("fc_sc", "fc_sc_generic_75", "FC-SC without a generic part beats one with three quarters"),
    ("paced", "fc_sc", "Self-pacing, a factor a vertical, helps the same student"),
    ("paced", "paced_label", "A factor a vertical is better than a factor a label"),
    ("specialists", "paced", "The specialists stay above the student"),
)
# Section 4.1: which of two settings of figure 5 is better optimised, that is, has the lower loss.
LOSS_STATEMENTS: tuple[Statement, ...] = (
    ("paced", "paced_fixed", "Trained factors are better than fixed ones: (4) below (1)"),
    ("paced_10", "paced_label_10", "From 10, a factor a vertical beats one a label: (2) below (3)"),
    ("paced", "paced_label", "From √N, a factor a vertical beats one a label: (4) below (5)"),
    ("paced", "paced_10", "The start √N is better than 10: (4) below (2)"),
)
SETTINGS = {"paced_fixed": 1, "paced_10": 2, "paced_label_10": 3, "paced": 4, "paced_label": 5}
_SHARES = {"fc_sc_generic_25": "a quarter", "fc_sc_generic_50": "a half",
           "fc_sc_generic_75": "three quarters"}  # fmt: skip


def worded(key: str) -> str:
    """The row with the same setting of self-pacing as the paper words it, bias inside."""
    return key.replace("paced", "worded")


def student_of(metrics: Mapping[str, Any], named: str | None = None) -> str | None:
    """The row to hold against the specialists: ``named``, else the paper's best, else the best."""
    for key in (named, "paced", "fc_sc"):
        if key in metrics:
            return key
    students = [key for key in metrics if key not in ("generalist", "specialists")]
    return max(students, key=lambda key: metrics[key][MAIN]["mean"], default=None)


def vertical_claims(metrics: Mapping[str, Any]) -> list[Claim]:
    """The statements of the paper's tables, as far as the run holds the rows."""
    return claims(metrics, STATEMENTS, tuple(VERTICAL_METRICS))


def final_losses(curves: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each row, mean, deviation and seeds of the loss at the end: its last tenth's mean."""
    seeds: dict[str, list[float]] = {}
    for curve in curves:
        losses = [math.nan if loss is None else loss for loss in curve["loss"]]
        last = losses[-max(1, len(losses) // 10) :]
        seeds.setdefault(curve["row"], []).append(sum(last) / len(last))
    return {key: _statistics(values) for key, values in seeds.items()}


def _statistics(values: list[float]) -> dict[str, Any]:
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    return {"mean": mean, "std": math.sqrt(squares / max(1, len(values) - 1)), "seeds": values}


def compared_losses(
    losses: Mapping[str, Any], of: Sequence[Statement] = LOSS_STATEMENTS
) -> list[tuple[str, Difference, str]]:
    """Each statement on losses, by how much the second row's lies above, and whether it holds."""
    rows = {key: {"loss": loss} for key, loss in losses.items() if math.isfinite(loss["mean"])}
    verdicts = {"higher": "agrees", "lower": "contradicts"}
    found = []
    for low, high, text in of:
        if low in rows and high in rows:
            above = difference(rows, high, low, "loss")
            found.append((text, above, verdicts.get(above.verdict, "undecided")))
    return found


def ranking(losses: Mapping[str, Any]) -> list[str]:
    """The settings of figure 5 from the lowest final loss to the highest; no number is last."""
    shown = [key for key in SETTINGS if key in losses]
    ends = {key: losses[key]["mean"] for key in shown}
    return sorted(shown, key=lambda key: math.inf if math.isnan(ends[key]) else ends[key])


def headline(
    metrics: Mapping[str, Any],
    student: str | None,
    num_labels: int | None = None,
    num_verticals: int = 0,
) -> str:
    """Student, generalist and specialists in one sentence."""
    over = f" over {num_labels:,} labels" if num_labels else ""
    over += f" in {num_verticals} verticals" if num_verticals and over else ""
    if student is None:
        key = next(iter(metrics))
        return f"The row “{row_for(key).short}”{over} reaches {_reached(metrics, key)} mpvap."
    kind = row_for(student).name.split(":")[0]
    text = f"One student ({kind}){over} reaches {_reached(metrics, student)} mpvap"
    if "generalist" in metrics:
        text += f"; the generalist, from annotations alone, {_reached(metrics, 'generalist')}"
    if "specialists" in metrics:
        times = metrics["specialists"]["parameters"] / metrics[student]["parameters"]
        text += f"; the specialists, {times:.1f} times its parameters in all, "
        text += _reached(metrics, "specialists")
    return text + "."


def findings(
    metrics: Mapping[str, Any], curves: Sequence[Mapping[str, Any]], student: str | None
) -> list[str]:
    """What came out, a sentence a question, for the questions whose rows the run holds."""
    said = [
        _distillation(metrics),
        _structure(metrics),
        _generic(metrics),
        _pacing(metrics),
        _settings(final_losses(curves)),
        _worded(metrics),
        _found(metrics),
        _upper_bound(metrics, student),
        _better(metrics, student),
    ]
    seeds = [
        len(row[MAIN].get("seeds", ())) for key, row in metrics.items() if key != "specialists"
    ]
    if 1 in seeds:
        said.append(
            "There is a single seed: how far these numbers spread is not known, and only the sign "
            "of a difference counts."
        )
    return [sentence for sentence in said if sentence]


def _reached(metrics: Mapping[str, Any], key: str) -> str:
    return f"{mean_and_spread(metrics[key][MAIN])}\u00a0%"


def _change(metrics: Mapping[str, Any], after: str, before: str, of: str = "") -> str:
    """What going from one row to another does to mpvap (of what)."""
    start, end = _reached(metrics, before), _reached(metrics, after)
    return {
        "higher": f"raises mpvap{of} from {start} to {end}",
        "lower": f"lowers mpvap{of} from {start} to {end}",
        "within the spread": f"leaves mpvap{of} where it was ({start} without, {end} with it, "
        "which the spread does not tell apart)",
    }[difference(metrics, after, before, MAIN).verdict]


def _held(metrics: Mapping[str, Any], *keys: str) -> bool:
    return all(key in metrics for key in keys)


def _distillation(metrics: Mapping[str, Any]) -> str:
    pairs = (("fc_fc", "generalist", "FC-FC"), ("sc_sc", "sc_sc_annotated", "SC-SC"))
    said = [_change(metrics, after, before, f" of the same {kind} student")
            for after, before, kind in pairs if _held(metrics, after, before)]  # fmt: skip
    return f"Distillation {' and '.join(said)}." if said else ""


def _structure(metrics: Mapping[str, Any]) -> str:
    if not _held(metrics, "fc_sc", "fc_fc"):
        return ""
    text = (
        "At the same width of the top-2 layer, one such layer a vertical (FC-SC instead of FC-FC) "
        + _change(metrics, "fc_sc", "fc_fc")
    )
    if "sc_sc" in metrics:
        text += f"; a top-1 layer a vertical as well (SC-SC) {_change(metrics, 'sc_sc', 'fc_sc')}"
    return text + "."


def _generic(metrics: Mapping[str, Any]) -> str:
    shares = [key for key in _SHARES if key in metrics]
    if "fc_sc" not in metrics or not shares:
        return ""
    helping = [k for k in shares if difference(metrics, k, "fc_sc", MAIN).verdict == "higher"]
    reached = listed([f"{_reached(metrics, key)} with {_SHARES[key]}" for key in helping or shares])
    verb = "helps" if helping else "does not help"
    without = _reached(metrics, "fc_sc")
    return f"A generic part of the top-2 layer {verb}: {without} without one, {reached}."


def _pacing(metrics: Mapping[str, Any]) -> str:
    kinds = (("paced", "a factor a vertical"), ("paced_label", "a factor a label"))
    said = [f"with {kind} {_change(metrics, key, 'fc_sc', ' of the same student')}"
            for key, kind in kinds if _held(metrics, key, "fc_sc")]  # fmt: skip
    return f"Self-pacing {'; '.join(said)}." if said else ""


def _settings(losses: Mapping[str, Any]) -> str:
    order = ranking(losses)
    if len(order) < 2:
        return ""
    rows = {key: {"loss": losses[key]} for key in order}
    text = "By the loss at the end the settings of figure 5 rank "
    for before, key in zip([None, *order], order, strict=False):
        if before is not None:
            higher = difference(rows, key, before, "loss").verdict == "higher"
            text += " < " if higher or math.isnan(losses[key]["mean"]) else " ≈ "
        end = losses[key]["mean"]
        text += f"({SETTINGS[key]})\u00a0{'diverged' if math.isnan(end) else f'{end:.3g}'}"
    if len(order) == len(SETTINGS):
        same = {SETTINGS[key] for key in order[:2]} == {4, 5}
        text += ", as in the paper, where" if same else "; in the paper, other than here,"
        text += " (4) and (5) are ahead of the others"
    return text + "."


def _worded(metrics: Mapping[str, Any]) -> str:
    if not _held(metrics, "paced", "worded"):
        return ""
    verdict = difference(metrics, "paced", "worded", MAIN).verdict
    return (
        "With the bias inside the normalised logits, as the paper words it, the self-paced student "
        f"reaches {_reached(metrics, 'worded')}, with a bias after the scaling "
        f"{_reached(metrics, 'paced')}: "
        + {
            "higher": "the bias has to stand outside.",
            "lower": "the paper's form is the better one.",
            "within the spread": "the spread does not tell them apart.",
        }[verdict]
    )


def _found(metrics: Mapping[str, Any]) -> str:
    pairs = (("found", "fc_sc"), ("found_paced", "paced"))
    said = []
    for found, given in pairs:
        if _held(metrics, found, given):
            gain = difference(metrics, found, given, MAIN)
            against = {"higher": "more than", "lower": "less than"}.get(gain.verdict, "much as")
            kind = "self-paced student" if given == "paced" else "student"
            said.append(f"the {kind} reaches {_reached(metrics, found)}, {against} on the given "
                        f"ones ({_reached(metrics, given)})")  # fmt: skip
    return f"On verticals found from confusions {' and '.join(said)}." if said else ""


def _upper_bound(metrics: Mapping[str, Any], student: str | None) -> str:
    if student is None or not _held(metrics, "specialists", "generalist"):
        return ""
    over = difference(metrics, "specialists", student, MAIN)
    if over.verdict == "lower":
        return (
            "The specialists are no upper bound here: the student lies "
            f"{percent(-over.mean)} points above them."
        )
    if over.verdict != "higher":
        return "The spread does not tell the student and the specialists apart."
    ours, low, high = (metrics[key][MAIN]["mean"] for key in (student, "generalist", "specialists"))
    covered = (ours - low) / (high - low) if high > low else math.nan
    if not covered > 0:
        return (
            f"The student stays {percent(over.mean)} points below the specialists, no nearer to "
            "them than the generalist."
        )
    return (
        f"The student covers {100 * covered:.0f}\u00a0% of the way from the generalist to the "
        f"specialists and stays {percent(over.mean)} points below them."
    )


def _better(metrics: Mapping[str, Any], student: str | None) -> str:
    """That another student is ahead of the one that the page holds against the specialists."""
    keys = [key for key in metrics if key not in (student, "specialists")]
    best = max(keys, key=lambda key: metrics[key][MAIN]["mean"], default=None)
    if student is None or best is None:
        return ""
    if difference(metrics, best, student, MAIN).verdict != "higher":
        return ""
    return f"Ahead of that student is “{row_for(best).short}” with {_reached(metrics, best)}."
