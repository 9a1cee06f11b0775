"""The report of a lesion study: one HTML page from the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastheads.report import lesion_sections as sections
from fastheads.report.blocks import data_line, legend, reproduction_section, tile_list
from fastheads.report.figures import training_curves
from fastheads.report.lesion_findings import findings, headline, main_row
from fastheads.report.page import Content, Html, Page, figure, paragraph, tag
from fastheads.report.rows import percent
from fastheads.report.run import Run
from fastheads.report.verdicts import verdict_item, verdict_notice, verdict_table

_PAPER = (
    "A. Veit, “Conditional networks” (thesis), 2018, chapter 4, after A. Veit, M. Wilber, "
    "S. Belongie, “Residual networks behave like ensembles of relatively shallow networks”, 2016"
)
_DATA = {"labels": "labels", "train": "training images", "holdout": "hold-out images",
         "test": "test images", "faces": "faces"}  # fmt: skip
_LOST = {"skipped": "files that could not be read were skipped",
         "dropped": "labels with too few drawings were left out"}  # fmt: skip
_TERMS = (
    ("block", "A residual block: its input, by a shortcut, plus a function of it, the branch. "
     "Deleting a block takes its branch out and leaves the shortcut."),
    ("path", "One way through the network: for each block either its branch or its shortcut. A "
     "network of n blocks has 2ⁿ paths; the length of one is the number of branches on it."),
    ("chance", "The error of always naming the label that most of the images have."),
    ("Kendall's τ", "How much of the order of the blocks is left: 1 for all of it, 0 for none, "
     "−1 for the reverse."),
    ("stochastic depth", "Training with some blocks left out at random in every batch."),
    ("top-1, top-5", "Share of the test images for which an annotated label is the best scored "
     "one of all labels, or among the best five. The error is what top-1 leaves."),
    ("multiply-adds", "Multiplications of a weight with an activation to evaluate one image."),
)  # fmt: skip
_FIRST = (0, 1, 3, 8, 9)  # of the findings: deletions, VGG, many, short paths, training on them


def build_page(run: Run) -> Page:
    """The page of a run, section by section."""
    analysis, metrics = run.analysis, run.metrics
    found = findings(analysis, metrics)
    items = [verdict_item(found[i]) for i in _FIRST if found[i].ours]
    page = Page(
        analysis.get("title") or "Lesions of residual networks",
        paragraph(headline(analysis), class_="lead"),
        tag("ul", items, class_="findings") if items else None,
        _tiles(analysis),
        verdict_notice(found),
        data_line(analysis.get("dataset") or {}, _DATA, _LOST),
    )
    page.add("Results", *sections.results_section(metrics, analysis))
    caption = (
        "The run's own criteria: a deletion is mild if it takes the error less than a tenth of the "
        "way to chance in the median; decay is smooth if no step takes it more than a quarter; "
        "paths are short below half of the blocks. Chance is reached at nine tenths of the way."
    )
    page.add("Beside the paper", verdict_table(found, caption))
    page.add("One block deleted", *sections.single_section(analysis))
    page.add("Many deleted, or reordered", *sections.many_section(analysis))
    page.add("Lengths of paths", *sections.paths_section(analysis))
    page.add("Trained on effective paths", *sections.training_section(analysis, metrics))
    page.add("Training", *_curves_section(analysis))
    page.add("How to reproduce it", *reproduction_section(analysis, _TERMS, _PAPER))
    return page


def _tiles(analysis: Mapping[str, Any]) -> Html | None:
    """The numbers to remember."""
    row = main_row(analysis)
    shown: list[tuple[str, str, str]] = []
    for key, what in ((row, "residual"), ("vgg", "without shortcuts")):
        if single := (analysis.get("single") or {}).get(key):
            errors = np.asarray(single["error"], dtype=float).mean(0)
            shown.append(
                (
                    f"error without one block, {what}",
                    f"{percent(float(np.median(errors)))} %",
                    f"median; whole {percent(float(np.mean(single['whole'])))} %",
                )
            )
    if own := (analysis.get("effective") or {}).get(row):
        shown.append(("effective paths", f"{own['low']} to {own['high']} blocks",
                      f"{100 * own['share_of_paths']:.3g} % of all paths"))  # fmt: skip
    return tile_list(shown) if shown else None


def _curves_section(analysis: Mapping[str, Any]) -> list[Content]:
    curves = [curve for curve in analysis.get("curves") or [] if curve["loss"]]
    if not curves:
        return []
    drawn = training_curves(curves, alt="Training loss of each row over the steps.")
    caption = "Training loss over the steps, one line a seed."
    return [legend({curve["row"] for curve in curves}), figure(drawn, caption)]
