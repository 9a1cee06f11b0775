"""The report of a run of networks that skip layers: one HTML page from the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report import adaptive_costs, adaptive_layers, adaptive_tables
from fastheads.report.adaptive_findings import (
    budget_sentence,
    controls,
    cost_findings,
    headline,
    kept_of,
    share_of,
    value_of,
)
from fastheads.report.adaptive_layer_findings import attack_findings, layer_findings
from fastheads.report.blocks import data_line, legend, reproduction_section, tile_list
from fastheads.report.figures import training_curves
from fastheads.report.page import Content, Html, Page, figure, paragraph, tag
from fastheads.report.rows import milliseconds, percent
from fastheads.report.run import Run
from fastheads.report.verdicts import Finding, verdict_item, verdict_notice, verdict_table

_PAPER = (
    "A. Veit, “Conditional networks” (thesis), 2018, chapter 5: “Convolutional networks with "
    "input-conditional topology”"
)
_DATA = {"labels": "labels", "train": "training images", "holdout": "hold-out images",
         "test": "test images", "faces": "faces"}  # fmt: skip
_LOST = {"skipped": "files that could not be read were skipped",
         "dropped": "labels with too few drawings were left out"}  # fmt: skip
_TERMS = (
    ("layer, block", "A residual block: its input, by a shortcut, plus a function of it, the "
     "branch. Skipping a layer leaves the shortcut."),
    ("gate", "A small network before a block that decides for each image whether the branch is "
     "executed (equations 5.3 to 5.7)."),
    ("rate, target rate", "Share of the images for which a gate is open, and the share that "
     "training pulls the gates towards, together or, as the paper words it, each (equation 5.8)."),
    ("executed layers", "Blocks that an image runs through; a block without a gate always counts."),
    ("*", "All layers are executed, each scaled by its rate, as after training with dropout."),
    ("straight-through, soft", "In training a gate is open or closed and the gradient is that of a "
     "softmax, or it is a number in between; in evaluation it is open or closed in both."),
    ("group", "Labels that belong together, such as a script. Training does not know them."),
    ("multiply-adds", "Multiplications of a weight with an activation to evaluate one image; with "
     "gates, the mean over the test images of what is executed, gates included."),
    ("top-1, top-5", "Share of the test images for which an annotated label is the best scored "
     "one of all labels, or among the best five."),
)  # fmt: skip


def build_page(run: Run) -> Page:
    """The page of a run, section by section."""
    analysis, metrics = run.analysis, run.metrics
    kept = kept_of(metrics, analysis.get("kept"))
    blocks = (analysis.get("network") or {}).get("blocks") or []
    on_cost = cost_findings(metrics, kept)
    on_layers = layer_findings(analysis, run.arrays.get("execution"), kept)
    on_attacks = attack_findings(analysis, kept)
    found = [*on_cost, *on_layers, *on_attacks]
    # Time, downsampling and last layer, groups, robustness: what to read first.
    first = [on_cost[1], *on_layers[:2], *on_layers[3:5], on_attacks[0]]
    items = [verdict_item(finding) for finding in first if finding.ours]
    more = [*controls(metrics, kept), budget_sentence(analysis.get("budget") or [], metrics, kept)]
    items += [tag("li", sentence) for sentence in more if sentence]
    page = Page(
        analysis.get("title") or "Networks that skip layers",
        paragraph(headline(metrics, kept, len(blocks) or None), class_="lead"),
        tag("ul", items, class_="findings") if items else None,
        _tiles(metrics, kept, len(blocks)),
        verdict_notice(found),
        data_line(analysis.get("dataset") or {}, _DATA, _LOST),
    )
    page.add("Results", *adaptive_tables.results_section(metrics))
    page.add("Accuracy against cost", *adaptive_tables.cost_section(metrics))
    page.add("Beside the paper", *_paper_section(found, metrics, kept))
    page.add("Which layers run", *adaptive_layers.layers_section(run, kept))
    page.add("Layers of an image", *adaptive_layers.images_section(run))
    page.add("Measured time", *adaptive_costs.time_section(analysis, metrics, kept))
    page.add("A fixed number of layers", *adaptive_costs.budget_section(analysis, metrics, kept))
    page.add("Under attack", *adaptive_layers.attack_section(analysis, kept))
    page.add("What the gates cost", *adaptive_costs.costs_of_gates(analysis))
    page.add("Training", *_training_section(analysis))
    page.add("How to reproduce it", *reproduction_section(analysis, _TERMS, _PAPER))
    return page


def _tiles(metrics: Mapping[str, Any], kept: str | None, num_blocks: int) -> Html | None:
    """The numbers to remember."""
    if kept is None:
        return None
    own, plain = metrics[kept], metrics.get("plain") or {}
    before = f"plain {percent(plain['top1']['mean'])} %" if plain else ""
    shown = [("top-1 with gates", percent(own["top1"]["mean"]) + " %", before)]
    layers = value_of(own, "layers")
    if layers is not None:
        share = share_of(metrics, kept, "macs")
        cost = f"{share:.2f}× the multiply-adds" if share else ""
        of = f" of {num_blocks}" if num_blocks else ""
        shown.append(("executed layers", f"{layers:.2f}{of}", cost))
    for name, what in (("ms_1", "one image"), ("ms_32", "an image in a batch of 32")):
        ours, theirs = value_of(own, name), value_of(plain, name)
        if ours is not None:
            against = f"plain {milliseconds(theirs)} ms: {ours / theirs:.2f}×" if theirs else ""
            shown.append((what, f"{milliseconds(ours)} ms", against))
    return tile_list(shown)


def _paper_section(
    found: Sequence[Finding], metrics: Mapping[str, Any], kept: str | None
) -> list[Content]:
    caption = (
        "Accuracies are top-1. After ±: the sum of the two standard deviations over seeds; a "
        "smaller difference is undecided; with a single seed only its sign decides. Always "
        "executed: for at least 99 % of the images. Groups differ if their means lie three "
        "standard errors apart, and use different sets of layers if they explain more than twice "
        "what chance does. Rates stay similar if they change by at most 5 points on average."
    )
    return [verdict_table(found, caption), *adaptive_tables.paper_tables(metrics, kept)]


def _training_section(analysis: Mapping[str, Any]) -> list[Content]:
    curves = [curve for curve in analysis.get("curves") or [] if curve["loss"]]
    if not curves:
        return []
    drawn = training_curves(curves, alt="Training loss of each row over the steps.")
    caption = (
        "Training loss over the steps, one line a seed; that of networks with gates holds the "
        "target-rate loss."
    )
    if (analysis.get("settings") or {}).get("start") == "plain":
        caption += " Rows with gates start from the trained plain network."
    return [legend({curve["row"] for curve in curves}), figure(drawn, caption)]
