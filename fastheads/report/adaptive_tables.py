"""Results of networks that skip layers, and the paper's tables 5.1 and 5.2 beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report import figures
from fastheads.report.adaptive_figures import accuracy_over_cost
from fastheads.report.adaptive_findings import share_of, value_of
from fastheads.report.blocks import (
    accuracy_cells,
    bars_alt,
    best_of,
    cost_cells,
    legend,
    mark,
    over_seeds,
)
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
from fastheads.report.rows import (
    mean_and_spread,
    milliseconds,
    ordered,
    row_for,
)
from fastheads.report.rows_adaptive import TOP_METRICS, budget_of

# Published in percent and millions, 'multiply-adds' in billions: CIFAR-10, table 5.1. The plain
# network's 0.5 counts an addition and a multiplication each as one; it has 0.253 multiply-adds.
_TABLE_5_1 = (
    ("Resnet 110", 6.61, 1.7, 0.5, "plain"),
    ("Pre-Resnet 110", 6.37, 1.7, 0.5, "preactivation"),
    ("Stochastic Depth Resnet 110", 5.25, 1.7, 0.5, "stochastic_depth"),
    ("Adanet 110 [t=0.7]", 5.76, 1.78, 0.41, "{kept}"),
    ("Adanet 110*", 5.14, 1.78, 0.5, "{kept}_all"),
)
# ImageNet, table 5.2: top-1 and top-5 errors, parameters, multiply-adds.
_TABLE_5_2 = (
    ("Resnet 34", 26.69, 8.58, 21.80, 3.6, ""),
    ("Resnet 50, of its authors", 24.7, 7.8, 25.56, 3.8, ""),
    ("Resnet 50", 23.87, 7.12, 25.56, 3.8, "plain"),
    ("Resnet 101, of its authors", 23.6, 7.1, 44.54, 7.6, ""),
    ("Resnet 101", 22.63, 6.45, 44.54, 7.6, ""),
    ("Stochastic Depth Resnet 50", 27.75, 9.14, 25.56, 3.8, "stochastic_depth"),
    ("Stochastic Depth Resnet 101", 22.80, 6.44, 44.54, 7.6, ""),
    ("Adanet 50 [t=0.4]", 24.75, 7.61, 26.56, 2.56, "adaptive_40"),
    ("Adanet 50 [t=0.5]", 24.42, 7.42, 26.56, 2.71, "adaptive_50"),
    ("Adanet 50 [t=0.6]", 24.22, 7.21, 26.56, 2.88, "adaptive_60"),
    ("Adanet 50 [t=0.7]", 23.82, 7.08, 26.56, 3.06, "adaptive_70"),
    ("Adanet 50 [t=0.8]", 23.40, 6.79, 26.56, 3.49, "adaptive_80"),
    ("Adanet 101 [t=0.3]", 23.02, 6.58, 46.23, 4.33, ""),
    ("Adanet 101 [t=0.5]", 22.63, 6.26, 46.23, 5.11, ""),
    ("Adanet 101 [t=0.7]", 22.28, 6.17, 46.23, 6.18, ""),
)
_CONTROLS = (
    "_soft",
    "_sampled",
    "_worded",
)  # of the same rate: they would hide the others in a figure
_TIMES = {"ms_1": "ms, one image", "ms_32": "ms an image, batch of 32"}


def results_section(metrics: Mapping[str, Any]) -> list[Content]:
    """Every row with its accuracy, executed layers, multiply-adds and measured time."""
    names = {name: title for name, title in TOP_METRICS.items()
             if any(name in row for row in metrics.values())}  # fmt: skip
    times = {name: title for name, title in _TIMES.items()
             if any(name in row for row in metrics.values())}  # fmt: skip
    layers = any("layers" in row for row in metrics.values())
    best = best_of(metrics, metrics, names)
    written: list[list[Content]] = []
    for row in ordered(metrics):
        macs, parameters = cost_cells(metrics[row.key], metrics.get("plain"))
        cells: list[Content] = [[mark(row), row.name]]
        cells += accuracy_cells(metrics[row.key], names, best)
        cells += [_layers(metrics[row.key])] if layers else []
        cells += [macs, *(_time(metrics, row.key, name) for name in times), parameters]
        written.append(cells)
    header = ["", *names.values(), *(["executed layers"] if layers else []), "multiply-adds",
              *times.values(), "parameters"]  # fmt: skip
    caption = (
        f"Accuracies in percent, mean ± standard deviation {over_seeds(metrics, list(names))}; the "
        "best of a column is bold. Executed layers and multiply-adds are means over the test "
        "images, times medians of repeated runs on this machine, below them their ratio to the "
        "plain network's. A layer is a residual block; a block without a gate is always executed."
    )
    untimed = [row.short for row in ordered(metrics) if not set(times) & set(metrics[row.key])]
    if times and untimed:
        caption += f" Not timed, being other decisions of a network that is: {', '.join(untimed)}."
    bars = figures.row_bars(metrics, "top1", alt=bars_alt(metrics, "top1", "top-1"))
    return [
        paragraph(
            "The target rate is the share of layers that training pulls the gates towards; which "
            "ones, the images decide. “*” executes all layers, each scaled by its rate, and saves "
            "nothing. “As worded” is the paper's loss, which holds each gate at the target rate by "
            "itself."
        ),
        table(header, written, caption),
        details("Top-1 as bars", figure(bars, "Mean, one standard deviation to either side, and "
                                        "the seeds as dots.")),
    ]  # fmt: skip


def _layers(values: Mapping[str, Any]) -> Content:
    layers = value_of(values, "layers")
    return "–" if layers is None else number(layers, f"{layers:.2f}")


def _time(metrics: Mapping[str, Any], key: str, name: str) -> Content:
    value, share = value_of(metrics[key], name), share_of(metrics, key, name)
    if value is None:
        return "–"
    return [number(value, milliseconds(value)), tag("small", f"{share:.3f}×") if share else None]


def cost_section(metrics: Mapping[str, Any]) -> list[Content]:
    """Figure 5.3: accuracy against executed multiply-adds and against measured time."""
    charts = []
    keys: set[str] = set()
    for cost, title in {"macs": "executed multiply-adds", **_TIMES}.items():
        shown = {key: row for key, row in metrics.items()
                 if value_of(row, cost) is not None and not key.startswith("random_")
                 and not key.endswith(_CONTROLS)}  # fmt: skip
        if len(shown) > 1:
            keys |= set(shown)
            alt = f"Top-1 of each row against {title}."
            charts.append(tag("figure", accuracy_over_cost(shown, "top1", cost, alt=alt)))
    if not charts:
        return []
    return [
        paragraph(
            "The paper's figure 5.3, which stops at multiply-adds: upwards and to the left is "
            "better. The line joins the target rates, whose percentages stand above the markers, "
            "a dotted one the fixed numbers of open gates, which stand below; the upright line is "
            "the plain network's cost."
        ),
        legend({key if budget_of(key) is None else "budget" for key in keys}),
        side_by_side(*charts),
    ]


def paper_tables(metrics: Mapping[str, Any], kept: str | None) -> list[Content]:
    """Tables 5.1 and 5.2 with our rows beside them."""
    header = ["paper", "error, %", "parameters", "multiply-adds",
              "here", "error, %", "parameters", "multiply-adds"]  # fmt: skip
    first = [
        [name, f"{error:.2f}", f"{size:g} M", f"{macs:g} B",
         *_ours(metrics, key.format(kept=kept), ["top1"])]
        for name, error, size, macs, key in _TABLE_5_1
    ]  # fmt: skip
    second = [
        [name, f"{top1:.2f}", f"{top5:.2f}", f"{size:g} M", f"{macs:g} B",
         *_ours(metrics, key, ["top1", "top5"])]
        for name, top1, top5, size, macs, key in _TABLE_5_2
    ]  # fmt: skip
    wide = ["paper", "top-1 error, %", "top-5 error, %", "parameters", "multiply-adds",
            "here", "top-1 error, %", "top-5 error, %", "parameters", "multiply-adds"]  # fmt: skip
    note = "Other images, networks and training: compare the order, not the values."
    return [
        tag("h3", "Table 5.1: CIFAR-10"),
        table(header, first, f"Errors of the paper on CIFAR-10 and ours on our data. {note} Its "
              "0.5 B count multiplications and additions; in multiply-adds they are 0.25 B.",
              "lrrrlrrr"),
        tag("h3", "Table 5.2: ImageNet"),
        table(wide, second, f"Errors of the paper on ImageNet and ours on our data. {note}",
              "lrrrrlrrrr"),
    ]  # fmt: skip


def _ours(metrics: Mapping[str, Any], key: str, names: Sequence[str]) -> list[Content]:
    if key not in metrics:
        return ["–"] * (len(names) + 3)
    row = metrics[key]
    errors: list[Content] = []
    for name in names:
        if name not in row:
            errors.append("–")
            continue
        error = {**row[name], "mean": 1 - row[name]["mean"]}
        errors.append(number(error["mean"], mean_and_spread(error)))
    macs, parameters = cost_cells(row, metrics.get("plain"))
    return [[mark(row_for(key)), row_for(key).short], *errors, parameters, macs]
