"""The sections of a lesion study: results, deletions, paths, training on effective paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastheads.report import lesion_figures as charts
from fastheads.report.blocks import accuracy_cells, best_of, cost_cells, legend, mark, over_seeds
from fastheads.report.lesion_findings import downsampling_blocks, main_row
from fastheads.report.page import (
    Content,
    details,
    figure,
    number,
    paragraph,
    side_by_side,
    table,
    tag,
)
from fastheads.report.rows import mean_and_spread, ordered, percent
from fastheads.report.rows_adaptive import TOP_METRICS

_MARKED = "Triangles mark blocks that change the size."
_PAPER_ERRORS = {"resnet": 0.0610, "effective_paths": 0.0596}  # CIFAR-10, section 4.4.3


def results_section(metrics: Mapping[str, Any], analysis: Mapping[str, Any]) -> list[Content]:
    """The whole networks: accuracy, blocks, costs."""
    networks = analysis.get("networks") or {}
    names = {name: title for name, title in TOP_METRICS.items()
             if any(name in row for row in metrics.values())}  # fmt: skip
    best = best_of(metrics, metrics, names)
    written: list[list[Content]] = []
    for row in ordered(metrics):
        network = networks.get(row.key) or {}
        depth, called = network.get("depth"), network.get("name")
        written.append([
            [mark(row), row.name, tag("small", str(called)) if called else None],
            *accuracy_cells(metrics[row.key], names, best),
            "–" if depth is None else number(depth, str(depth)),
            *cost_cells(metrics[row.key], metrics.get("resnet")),
        ])  # fmt: skip
    header = ["", *names.values(), "blocks", "multiply-adds", "parameters"]
    caption = (
        "The networks before anything is deleted. Accuracies in percent, mean ± standard deviation "
        f"{over_seeds(metrics, list(names))}; the best of a column is bold. Of the network without "
        "shortcuts, blocks are the layers that can be deleted."
    )
    return [table(header, written, caption)]


def single_section(analysis: Mapping[str, Any]) -> list[Content]:
    """Figures 4.3, 4.4 and 4.8: one block deleted at a time."""
    single, chance = analysis.get("single") or {}, analysis.get("chance")
    if not single:
        return []
    down = {key: downsampling_blocks(analysis, key) for key in single}
    row = main_row(analysis)
    first = {key: single[key] for key in (row, "vgg") if key in single}
    blocks: list[Content] = [
        figure(
            charts.single_deletions(first, down, chance, alt="Error by the deleted block."),
            f"The paper's figure {'4.4' if row == 'network' else '4.3'}: error without one block, "
            f"by its number. {_MARKED} The line is the mean over seeds, the band reaches from the "
            "lowest to the highest.",
        )
    ]
    residual = {key: one for key, one in single.items() if key != "vgg"}
    if "vgg" in single or "stochastic_depth" in single:
        alt = "Error by the deleted block, residual networks only."
        enlarged = charts.single_deletions(residual, down, alt=alt)
        caption = "The residual networks alone, enlarged"
        if "stochastic_depth" in single:
            caption += "; with stochastic depth in training this is the paper's figure 4.8"
        blocks.append(figure(enlarged, f"{caption}. {_MARKED}"))
    return [
        paragraph(
            "The branch of one block is taken out of the trained network and its shortcut stays; "
            "of a network without shortcuts, a whole layer is taken out. Nothing is trained again."
        ),
        legend(single),
        side_by_side(*blocks),
        details("Every block", _single_table(single, analysis)),
    ]


def _single_table(single: Mapping[str, Any], analysis: Mapping[str, Any]) -> Content:
    rows = ordered(single)
    means = {row.key: np.asarray(single[row.key]["error"], dtype=float).mean(0) for row in rows}
    down = {row.key: set(downsampling_blocks(analysis, row.key)) for row in rows}
    whole: list[Content] = ["none"]
    for row in rows:
        error = float(np.mean(single[row.key]["whole"]))
        whole.append(number(error, percent(error)))
    written: list[list[Content]] = [whole]
    for block in range(max(len(errors) for errors in means.values())):
        cells: list[Content] = [str(block + 1)]
        for row in rows:
            if block >= len(means[row.key]):
                cells.append("–")
                continue
            error = float(means[row.key][block])
            text = percent(error) + ("\u00a0▼" if block in down[row.key] else "")
            cells.append(number(error, text))
        written.append(cells)
    header: list[Content] = ["deleted", *([mark(row), row.short] for row in rows)]
    caption = "Error in percent, mean over the seeds; ▼: the block changes the size."
    return table(header, written, caption, class_="narrow")


def many_section(analysis: Mapping[str, Any]) -> list[Content]:
    """Figure 4.5: many blocks deleted, and blocks in another order."""
    many, reorder = analysis.get("many") or {}, analysis.get("reorder") or {}
    chance = analysis.get("chance")
    whole = {key: one["whole"] for key, one in (analysis.get("single") or {}).items()}
    blocks: list[Content] = []
    if many:
        drawn = charts.many_deletions(many, whole, chance, alt="Error by the number of deletions.")
        blocks.append(figure(drawn, (
            "Figure 4.5a: error without several blocks drawn at random; the line is the median, "
            "the band holds the middle half, the dots are the draws of all seeds. In the paper 10 "
            "of 54 deletions leave an error of about 20 %."
        )))  # fmt: skip
    if reorder:
        drawn = charts.reordering(reorder, chance, alt="Error by Kendall's tau.")
        blocks.append(figure(drawn, (
            "Figure 4.5b: error after blocks of the same shape have changed places, by what is "
            "left of the trained order (1: all of it); a point a draw. To the right is more "
            "disorder."
        )))  # fmt: skip
    return [legend({*many, *reorder}), side_by_side(*blocks)] if blocks else []


def paths_section(analysis: Mapping[str, Any]) -> list[Content]:
    """Figures 4.6 and 4.7: lengths of paths, their gradients, and what deletions leave of them."""
    row = main_row(analysis)
    paths, gradients = analysis.get("paths") or {}, analysis.get("gradients") or {}
    effective, remaining = analysis.get("effective") or {}, analysis.get("remaining") or {}
    own = effective.get(row) or {}
    interval = (own["low"], own["high"]) if own else None
    blocks: list[Content] = []
    if row in paths:
        drawn = charts.length_bars(paths[row]["counts"], interval, alt="Paths by their length.")
        blocks.append(figure(drawn, "Figure 4.6a: how many blocks a path enters, of all paths."))
    if gradients:
        drawn = charts.gradient_norms(gradients, interval, alt="Gradient by length of the path.")
        text = (
            "Figure 4.6b: the gradient that a single path brings to the input of the first block; "
            "median and middle half of the draws."
        )
        blocks.append(figure(drawn, text))
    if own.get("product"):
        drawn = charts.length_bars(own["product"], interval, "of the gradient, %",
                                   alt="Gradient of all paths of a length.")  # fmt: skip
        text = (
            "Figure 4.6c: the gradient of all paths of a length together, their number times the "
            "mean norm."
        )
        blocks.append(figure(drawn, text))
    if remaining.get("deleted"):
        drawn = charts.remaining_paths(
            remaining["n"], remaining["deleted"], remaining["fraction"], interval,
            alt="Paths that are left after deletions, by length.",
        )  # fmt: skip
        text = "Figure 4.7: which share of the paths of each length deletions leave (equation 4.8)."
        blocks.append(figure(drawn, text))
    if not blocks and not effective:
        return []
    intro = (
        "A path enters some blocks and passes the others by their shortcuts. The effective paths, "
        "shaded, are the shortest range of lengths that carries 95 % of the gradient."
    )
    shown = side_by_side(*blocks) if blocks else None
    return [paragraph(intro), legend(gradients) if gradients else None, shown,
            *_effective_table(analysis, effective)]  # fmt: skip


def _effective_table(analysis: Mapping[str, Any], effective: Mapping[str, Any]) -> list[Content]:
    if not effective:
        return []
    paths = analysis.get("paths") or {}
    written: list[list[Content]] = []
    for row in ordered(effective):
        one = effective[row.key]
        depth = (paths.get(row.key) or {}).get("n")
        written.append([
            [mark(row), row.short],
            "–" if depth is None else str(depth),
            f"{one['low']} to {one['high']}",
            number(one["share_of_gradient"], percent(one["share_of_gradient"])),
            number(one["share_of_paths"], f"{100 * one['share_of_paths']:.3g}"),
        ])  # fmt: skip
    paper: list[Content] = ["54", "5 to 17", "almost all", "0.45"]
    written.append(["paper", *(tag("span", cell, class_="paper") for cell in paper)])
    header = ["", "blocks", "effective paths enter", "of the gradient, %", "of all paths, %"]
    caption = "The effective paths: few and short. Exactly, 0.4537 % of 2⁵⁴ paths enter 5 to 17."
    return [table(header, written, caption, class_="tabular narrow")]


def training_section(analysis: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Content]:
    """Section 4.4.3: trained on the effective paths only, beside training the whole network."""
    training = analysis.get("training") or {}
    rows: Sequence[str] = [key for key in training.get("rows") or [] if key in metrics]
    if not rows:
        return []
    written: list[list[Content]] = []
    for row in ordered(rows):
        top1 = metrics[row.key]["top1"]
        error = {**top1, "mean": 1 - top1["mean"]}
        trained = training["modules"] if row.key == "effective_paths" else training["of"]
        paper = _PAPER_ERRORS.get(row.key)
        written.append([
            [mark(row), row.short],
            f"{trained} of {training['of']}",
            number(error["mean"], mean_and_spread(error)),
            tag("span", "–" if paper is None else percent(paper), class_="paper"),
        ])  # fmt: skip
    header = ["", "blocks in a batch", "error, %", "paper: error, %"]
    caption = (
        "Error of the whole network after training all blocks in every batch, or a few drawn at "
        "random, so that only short paths are trained. The paper: CIFAR-10, 23 of 54 blocks, no "
        "significant difference."
    )
    return [table(header, written, caption, class_="tabular narrow")]
