"""What a run with streamed labels says of the networks' accuracy, beside the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastheads.report.findings import difference, listed
from fastheads.report.rows import percent, row_for
from fastheads.report.rows_stream import NETWORKS
from fastheads.report.stream_measures import (
    LIMIT,
    MAIN,
    at_least,
    every,
    keeps,
    metric_of,
    signed,
    signed_by,
)
from fastheads.report.verdicts import Finding, compared, holds

BEST = "senet_2x_r32"  # the paper's choice
_KEYS = tuple(row.key for row in NETWORKS)
_RATIOS = ("senet", "senet_r8", "senet_r32", "senet_sqrt")


def accuracy_findings(rows: Mapping[str, Any], analysis: Mapping[str, Any]) -> list[Finding]:
    """The paper's statements on base training (sections 3.4 and 8.2.1).

    Args:
        rows: of ``stream_measures.with_changes``.
        analysis: the content of ``analysis.json``.
    """
    top5 = "base_top5"
    return [
        compared("SE blocks raise the accuracy of a plain ResNet",
                 "87.8 against 77.4 % (table 3), 79.7 against 75.8 % (table 1), top-5",
                 rows, "senet", "resnet", top5),
        compared("The plain ResNet is more accurate than VGG", "75.8 against 73.6 % (table 1)",
                 rows, "resnet", "vgg", top5),
        compared("For ResNet the margin loss is better than the soft-margin loss",
                 "77.4 against 69.3 % (table 2)", rows, "resnet", "resnet_soft", top5),
        compared("For SENet the margin loss is better than the soft-margin loss",
                 "87.8 against 64.7 % (table 2)", rows, "senet", "senet_soft", top5),
        compared("2× expansion before the squeeze raises the accuracy of SENet",
                 "90.3 against 87.8 % (table 3)", rows, "senet_2x", "senet", top5),
        _alike(rows),
        compared("The small Inception-ResNets stay below SENet", "76.1 against 87.8 % (table 3)",
                 rows, "senet", "inception_96", top5),
        _overfitting(analysis),
    ]  # fmt: skip


def _alike(rows: Mapping[str, Any]) -> Finding:
    statement = "The reduction ratio hardly matters for the base accuracy"
    paper = "88.6 (8), 87.8 (16), 86.4 (32), 85.9 % (√c), table 3"
    known = [key for key in _RATIOS if "base_top5" in rows.get(key, {})]
    if len(known) < 2:
        return Finding(statement, paper)
    top, low = (pick(known, key=lambda key: rows[key]["base_top5"]["mean"]) for pick in (max, min))
    found = difference(rows, top, low, "base_top5")
    ours = f"{row_for(top).short} lies {signed_by(found)} above {row_for(low).short}."
    return Finding(statement, paper, ours, holds(replace(found, mean=LIMIT - found.mean)))


def _overfitting(analysis: Mapping[str, Any]) -> Finding:
    """Whether the gap between training and validation grows over the epochs (Figure 6)."""
    statement = "Training and validation accuracy of SENet drift apart over the epochs"
    entries = [entry for entry in analysis.get("epochs") or []
               if entry["row"] == "senet" and len(entry["epoch"]) > 1]  # fmt: skip
    if not entries:
        return Finding(statement, "figure 6")
    gaps = [[entry["train_top1"][i] - entry["valid_top1"][i] for i in (0, -1)] for entry in entries]
    first, last = (metric_of([gap[i] for gap in gaps]) for i in (0, 1))
    grown = metric_of([gap[1] - gap[0] for gap in gaps])
    ours = f"Top-1 lies {signed(first)} apart after the first epoch, {signed(last)} after the last."
    return Finding(statement, "figure 6", ours, at_least(grown, 0.0))


def stream_findings(rows: Mapping[str, Any]) -> list[Finding]:
    """The paper's statements on learning the stream without the base pictures (section 8.2.2)."""
    return [
        _forgets("The plain ResNet forgets more than SENet", "−21.2 against −11.5 points (table 4)",
                 rows, "resnet", "senet"),
        compared("SENet learns the streamed pictures better than the plain ResNet",
                 "69.8 against 27.3 % (table 4)", rows, "senet", "resnet", MAIN),
        _overfits("4× expansion overfits: it learns more and forgets more than 2×",
                  "92.6 against 76.7 %; −25.4 against −6.0 points", rows, "senet_4x", "senet_2x"),
        _overfits("A reduction of 8 overfits: it learns more and forgets more than one of 32",
                  "89.3 against 71.9 %; −9.0 against −0.6 points", rows, "senet_r8", "senet_r32"),
        _compromise(rows),
        _balanced("A reduction to √c is no better than one of 32",
                  "82.3 and 71.6 % against 85.8 and 71.9 %", rows, "senet_r32", "senet_sqrt"),
        _forgets_least(rows),
        _balanced("Inception-SENet might be the best of all (proposed in section 8.4)",
                  "not tested there", rows, "inception_senet", BEST),
    ]  # fmt: skip


def _known(rows: Mapping[str, Any], keys: Sequence[str], *names: str) -> bool:
    return all(name in rows.get(key, {}) for key in keys for name in names)


def _forgets(statement: str, paper: str, rows: Mapping[str, Any], more: str, less: str) -> Finding:
    if not _known(rows, (more, less), "change"):
        return Finding(statement, paper)
    ours = f"Base top-5 changes by {_both(rows, more, less)}."
    return Finding(statement, paper, ours, holds(difference(rows, less, more, "change")))


def _both(rows: Mapping[str, Any], first: str, second: str) -> str:
    ours, theirs = (signed(rows[key]["change"], "") for key in (first, second))
    return f"{ours} against {theirs} points"


def _overfits(statement: str, paper: str, rows: Mapping[str, Any], more: str, less: str) -> Finding:
    if not _known(rows, (more, less), "change", MAIN):
        return Finding(statement, f"{paper} (table 4)")
    learns = compared("", "", rows, more, less, MAIN)
    forgets = holds(difference(rows, less, more, "change"))
    ours = f"Streamed {learns.ours} Base top-5 changes by {_both(rows, more, less)}."
    return Finding(statement, f"{paper} (table 4)", ours, every(learns.holds, forgets))


def _balanced(
    statement: str, paper: str, rows: Mapping[str, Any], above: str, below: str
) -> Finding:
    found = compared(statement, paper, rows, above, below, "balance")
    if not found.ours:
        return found
    ours = f"Mean of original and streamed top-5: {found.ours}"
    return Finding(statement, paper, ours, found.holds)


def _compromise(rows: Mapping[str, Any]) -> Finding:
    """Whether 2×/32 learns best of the networks that stay within the limit of their base."""
    statement = (
        f"2× expansion with a reduction of 32 is the best compromise: of the networks within "
        f"{100 * LIMIT:.0f}\u00a0points of their base accuracy it learns the stream best"
    )
    paper = "86.8 to 86.2 % on base pictures, 75.4 % on streamed ones (table 4)"
    known = [key for key in _KEYS if _known(rows, (key,), "change", MAIN)]
    if BEST not in known or len(known) < 2:
        return Finding(statement, paper)
    own = f"Its base top-5 changes by {signed(rows[BEST]['change'])}"
    within = [key for key in known if keeps(rows[key]) is not False]
    if BEST not in within:
        names = listed([row_for(key).short for key in within] or ["no network"])
        return Finding(statement, paper, f"{own}, beyond them; within them: {names}.", False)
    rivals = [key for key in within if key != BEST]
    if not rivals:
        ours = f"{own}; no other network stays within."
        return Finding(statement, paper, ours, keeps(rows[BEST]))
    rival = max(rivals, key=lambda key: rows[key][MAIN]["mean"])
    learns = compared("", "", rows, BEST, rival, MAIN)
    ours = f"{own}. Streamed top-5 against that of {row_for(rival).short}: {learns.ours}"
    wins = learns.holds
    if wins is False and keeps(rows[rival]) is None:
        wins = None  # the better learner may not be within the limit
    return Finding(statement, paper, ours, every(keeps(rows[BEST]), wins))


def _forgets_least(rows: Mapping[str, Any]) -> Finding:
    statement = "The narrow Inception-ResNet forgets least of all networks"
    paper = "+2.7 points, all others lose (table 4)"
    others = [key for key in _KEYS if key != "inception_48" and "change" in rows.get(key, {})]
    if not others or "change" not in rows.get("inception_48", {}):
        return Finding(statement, paper)
    rival = max(others, key=lambda key: rows[key]["change"]["mean"])
    ours = f"Base top-5 changes by {_both(rows, 'inception_48', rival)} for {row_for(rival).short}."
    return Finding(statement, paper, ours, holds(difference(rows, "inception_48", rival, "change")))


def headline(rows: Mapping[str, Any], kept: str | None, best: str | None) -> str:
    """The kept network, what the best guard makes of it, and retraining, in a few sentences."""
    if kept is None or "change" not in rows[kept]:
        return "Networks of one label a picture learn pictures of several labels, without the old."
    row = rows[kept]
    text = (
        f"{row_for(kept).short} learns pictures that carry several of its labels, without seeing "
        f"an old picture again: of the streamed test pictures {_share(row, 'streamed_all')}"
    )
    text += f" Its accuracy on the old labels changes by {signed(row['change'])} (top-5)."
    if best not in (None, kept):
        guard = rows[best]
        text += (
            f" With the guard “{row_for(best).short}” it changes by {signed(guard['change'])}, and "
            f"{_share(guard, 'streamed_all')}"
        )
    return text


def _share(row: Mapping[str, Any], name: str) -> str:
    if name in row:
        return f"{percent(row[name]['mean'])}\u00a0% have all their labels among its best five."
    return f"{percent(row[MAIN]['mean'])}\u00a0% have one of their labels among its best five."
