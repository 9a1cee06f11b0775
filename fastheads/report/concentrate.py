"""The report of a run of Knowledge Concentration: one HTML page from the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report import concentrate_costs, concentrate_pacing, concentrate_tables
from fastheads.report import concentrate_verticals as verticals
from fastheads.report.blocks import (
    claims_notice,
    data_line,
    legend,
    reproduction_section,
    tile_list,
)
from fastheads.report.concentrate_findings import (
    findings,
    headline,
    student_of,
    vertical_claims,
)
from fastheads.report.concentrate_pictures import examples_section
from fastheads.report.figures import training_curves
from fastheads.report.page import Content, Html, Page, figure, paragraph, tag
from fastheads.report.rows import count, milliseconds, percent
from fastheads.report.run import Run

_PAPER = (
    "J. Gao, Z. Guo, Z. Li, R. Nevatia, “Knowledge Concentration: Learning 100K Object Classifiers "
    "in a Single CNN”, 2017"
)
_DATA = {"labels": "labels", "nodes": "ancestors of labels", "train": "training images",
         "holdout": "hold-out images", "test": "test images", "faces": "faces"}  # fmt: skip
_LOST = {"skipped": "files that could not be read were skipped",
         "dropped": "labels with too few drawings were left out"}  # fmt: skip
_TERMS = (
    ("vertical", "A group of labels that belong together and are easily confused, such as the "
     "letters of a script. Each has one specialist."),
    ("specialist, teacher", "A network of its own that knows the labels of one vertical only."),
    ("student", "The one network that knows all labels."),
    ("generalist", "The student without any of the methods: one head, annotations alone."),
    ("pvap", "Per-vertical average precision. For each image of a vertical, only the labels of "
     "that vertical are ranked by their score, and the average precision is taken; then the mean "
     "over the images. mpvap is the mean over the verticals."),
    ("mpvap per label", "The other reading of average precision: for each label, the images of "
     "its vertical are ranked by its score, and the average precision of the best 50 is taken; "
     "then the mean over the labels, then over the verticals."),
    ("top-1, top-5", "Share of the test images for which an annotated label is the best scored "
     "one of all labels, or among the best five."),
    ("distillation", "The student learns the probabilities that the specialist of an image's "
     "vertical gives to its best labels (the paper takes 100), instead of the annotation; all "
     "other labels count as 0 (equation 2)."),
    ("FC, SC", "The head has two layers below the logits, top-1 and top-2. An FC layer is shared "
     "by all verticals; an SC layer has a part for each vertical, seen by that vertical alone."),
    ("generic part", "Units of a top-2 SC layer that all verticals share after all."),
    ("self-paced, γ", "The logits of each vertical are brought to length one and multiplied by a "
     "factor γ, one a vertical or one a label, fixed or trained, which starts at √N, the square "
     "root of the vertical's number of labels, or at 10: the settings (1) to (5) of figure 5."),
    ("as worded, bias inside", "The paper normalises the logits with their bias. Here, the bias "
     "is added after the scaling; rows “as worded” keep it inside."),
    ("soft targets", "The probabilities that the specialists give, as stored in files."),
    ("multiply-adds", "Multiplications of a weight with an activation to evaluate one image."),
)  # fmt: skip


def build_page(run: Run) -> Page:
    """The page of a run, section by section."""
    analysis, metrics = run.analysis, run.metrics
    heads, dataset = analysis.get("heads") or {}, analysis.get("dataset") or {}
    curves = [curve for curve in analysis.get("curves") or [] if curve["loss"]]
    student = student_of(metrics, analysis.get("student"))
    said = findings(metrics, curves, student)
    known = len(analysis.get("verticals") or [])
    page = Page(
        analysis.get("title") or "One student of many specialists",
        paragraph(headline(metrics, student, dataset.get("labels"), known), class_="lead"),
        tag("ul", [tag("li", sentence) for sentence in said], class_="findings") if said else None,
        _tiles(run, student),
        claims_notice(vertical_claims(metrics), "mpvap"),
        data_line(dataset, _DATA, _LOST),
    )
    page.add("Results", *concentrate_tables.results_section(metrics, heads))
    page.add("Beside the paper", *concentrate_tables.claims_section(metrics))
    page.add("The paper's tables", *concentrate_tables.paper_tables(metrics, heads))
    page.add("Vertical by vertical", *verticals.verticals_section(analysis, metrics))
    page.add("Self-paced learning", *concentrate_pacing.pacing_section(analysis, metrics, curves))
    page.add("Given and found verticals", *verticals.found_section(analysis, metrics))
    page.add("Examples", *examples_section(run))
    page.add("Cost and benefit", *concentrate_costs.costs_section(analysis, metrics, student))
    page.add("Soft targets", *concentrate_costs.storage_section(analysis))
    page.add("Training", *_training_section(curves))
    page.add("How to reproduce it", *reproduction_section(analysis, _TERMS, _PAPER))
    return page


def _tiles(run: Run, student: str | None) -> Html | None:
    """The numbers to remember."""
    metrics = run.metrics
    if student is None:
        return None
    own = metrics[student]
    reached = percent(own["mpvap"]["mean"]) + " %"
    generalist, specialists = metrics.get("generalist"), metrics.get("specialists")
    before = "" if generalist is None else f"generalist {percent(generalist['mpvap']['mean'])} %"
    shown = [("mpvap of the student", reached, before)]
    if specialists:
        shown.append(("mpvap of the specialists", f"{percent(specialists['mpvap']['mean'])} %",
                      "each on its own vertical"))  # fmt: skip
        times = specialists["parameters"] / own["parameters"]
        sizes = f"{count(specialists['parameters'])} against {count(own['parameters'])}"
        shown.append(("specialists over student", f"{times:.1f}×", f"parameters, {sizes}"))
    latency = run.analysis.get("latency_ms") or {}
    ours, theirs = (latency.get(key, {}).get("1") for key in ("student", "specialists"))
    if ours and theirs:
        shown.append(("one image", f"{milliseconds(ours)} ms",
                      f"the specialists {milliseconds(theirs)} ms"))  # fmt: skip
    return tile_list(shown)


def _training_section(curves: Sequence[Mapping[str, Any]]) -> list[Content]:
    paced = concentrate_pacing.is_paced
    plain = [curve for curve in curves if not paced(curve["row"])]
    blocks: list[Content] = []
    if plain:
        drawn = training_curves(plain, alt="Training loss of each row over the steps.")
        caption = (
            "Training loss over the steps, one line a seed, of the rows without self-pacing. "
            "Losses against annotations and against soft targets are not of the same scale."
        )
        blocks += [legend({curve["row"] for curve in plain}), figure(drawn, caption)]
    return [*blocks, *concentrate_costs.training_times(curves)]
