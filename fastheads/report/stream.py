"""The report of a run with streamed labels: one HTML page from the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report import stream_pictures, stream_sections, stream_tables
from fastheads.report.blocks import data_line, legend, reproduction_section, tile_list
from fastheads.report.figures import training_curves
from fastheads.report.page import Content, Html, Page, figure, paragraph, side_by_side, tag
from fastheads.report.rows import percent, row_for
from fastheads.report.run import Run
from fastheads.report.stream_findings import accuracy_findings, headline, stream_findings
from fastheads.report.stream_guard_findings import (
    beside_retraining,
    guard_findings,
    retraining_ratio,
    time_findings,
    times,
)
from fastheads.report.stream_measures import MAIN, best_row, kept_of, signed, with_changes
from fastheads.report.verdicts import Finding, verdict_item, verdict_notice, verdict_table

_PAPER = (
    "A. R. Huang, “Scalable large scale visual recognition using multi-label image "
    "classification” (thesis), MIT, 2019"
)
_DATA = {"labels": "labels", "train": "base training images", "holdout": "hold-out images",
         "test": "base test images", "kinds": "kinds of streamed pictures",
         "streamed_train": "streamed training images",
         "streamed_holdout": "streamed held-out images", "streamed_test": "streamed test images",
         "faces": "faces"}  # fmt: skip
_LOST = {"skipped": "files that could not be read were skipped",
         "dropped": "labels with too few drawings were left out"}  # fmt: skip
_STAGES = {"base": "Base training", "stream": "Learning the stream", "retrain": "Retraining"}
_TERMS = (
    ("base, original", "Pictures of one label each, which the network is first trained on. "
     "“Base” is the accuracy on their test pictures after that, “original” the accuracy on the "
     "same pictures after the stream."),
    ("stream, kind, arrival", "New pictures that carry several of the base labels each. All "
     "pictures of a kind (a puggle; é) carry the same labels; an arrival is the kinds that come "
     "at one time. The old pictures are not used again."),
    ("guard", "A measure against forgetting while the stream is learned."),
    ("top-1, top-5", "Share of the test pictures for which a label of theirs is the best scored "
     "one of all labels, or among the best five."),
    ("all labels, exact", "Share of the streamed test pictures with all their labels among the "
     "best five; and with their n labels as the best n."),
    ("expansion, reduction", "An SE block widens the channels before it averages them, and "
     "narrows the averages before it turns them into weights of the channels."),
    ("multiply-adds", "Multiplications of a weight with an activation to evaluate one image."),
)  # fmt: skip


def build_page(run: Run) -> Page:
    """The page of a run, section by section."""
    analysis = run.analysis
    rows = with_changes(run.metrics, analysis.get("kept"))
    kept = kept_of(rows, analysis.get("kept"))
    best = best_row(rows, kept, (analysis.get("guard") or {}).get("row"))
    on_stream, on_base = stream_findings(rows), accuracy_findings(rows, analysis)
    on_guards, on_time = guard_findings(rows, kept), time_findings(rows, analysis, kept, best)
    found = [*on_guards, *on_time, *on_stream, *on_base]
    first = [*on_guards, on_time[0], on_stream[0], on_stream[4], on_base[0]]
    items = [verdict_item(finding) for finding in first if finding.ours]
    if all(len(values.get("seeds", ())) == 1 for row in rows.values()
           for values in row.values() if isinstance(values, Mapping)):  # fmt: skip
        items.append(tag("li", "This is a single seed: how far these numbers spread is not known."))
    page = Page(
        analysis.get("title") or "New labels stream in",
        paragraph(headline(rows, kept, best), class_="lead"),
        tag("ul", items, class_="findings") if items else None,
        _tiles(rows, analysis, kept, best),
        verdict_notice([one for one in found if one is not on_guards[1]]),  # not the paper's
        data_line(analysis.get("dataset") or {}, _DATA, _LOST),
    )
    page.add("Learning the stream", *stream_tables.stream_section(rows))
    page.add("Guards against forgetting", *stream_sections.guards_section(rows, kept))
    page.add("Against retraining",
             *stream_sections.retraining_section(rows, analysis, kept, best))  # fmt: skip
    page.add("Beside the paper", _verdicts(found))
    page.add("One arrival after the other",
             *stream_sections.arrivals_section(rows, analysis, kept, best))  # fmt: skip
    page.add("What was forgotten", *stream_pictures.forgotten_section(analysis))
    page.add("Before and after", *stream_pictures.examples_section(run))
    page.add("Base training", *stream_tables.base_section(rows),
             *stream_sections.epochs_section(analysis))  # fmt: skip
    page.add("Time and costs", *stream_sections.times_section(rows),
             *stream_sections.costs_section(rows, analysis))  # fmt: skip
    page.add("Training", *_training_section(analysis))
    page.add("How to reproduce it", *reproduction_section(analysis, _TERMS, _PAPER))
    return page


def _verdicts(found: Sequence[Finding]) -> Html:
    caption = (
        "Accuracies are top-5 unless named otherwise. After ±: the standard deviation over seeds, "
        "of two rows the sum of theirs; a smaller difference is undecided, and so is a change or "
        "a ratio whose spread covers the limit; with a single seed only the mean decides. A "
        "statement of several parts holds if each does. “About 5 % more” is at most 5.5 %."
    )
    return verdict_table(found, caption)


def _tiles(
    rows: Mapping[str, Any], analysis: Mapping[str, Any], kept: str | None, best: str | None
) -> Html | None:
    """The numbers to remember."""
    key = best or kept
    if key is None or "change" not in rows[key]:
        return None
    row, own = rows[key], rows[kept or key]
    guard = f"“{row_for(key).short}”"
    shown = [
        ("old labels, change of top-5", signed(row["change"], ""),
         f"points, {guard}" + (f"; no guard {signed(own['change'], '')}" if key != kept else "")),
        ("streamed pictures, top-5", f"{percent(row[MAIN]['mean'])} %", guard),
    ]  # fmt: skip
    if "streamed_all" in row:
        before = row.get("before_all", own.get("before_all"))
        note = f"before {percent(before['mean'])} %" if before else guard
        shown.append(("all their labels in the best 5", f"{percent(row['streamed_all']['mean'])} %",
                      note))  # fmt: skip
    beside = beside_retraining(analysis, best)
    if beside and (found := retraining_ratio(rows, analysis, beside)):
        shown.append(("retraining takes", times(found), f"as long as “{row_for(beside).short}”"))
    return tile_list(shown)


def _training_section(analysis: Mapping[str, Any]) -> list[Content]:
    charts, keys = [], set()
    for stage, title in _STAGES.items():
        curves = [curve for curve in analysis.get("curves") or []
                  if curve["loss"] and curve.get("stage", "base") == stage]  # fmt: skip
        if curves:
            keys |= {curve["row"] for curve in curves}
            drawn = training_curves(curves, alt=f"Loss of each row over the steps, {title}.")
            charts.append(figure(drawn, f"{title}: loss over the steps, one line a seed."))
    return [legend(keys), side_by_side(*charts)] if charts else []
