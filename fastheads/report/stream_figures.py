"""Charts of streamed labels: the paper's figures 6, 12 and 13, arrivals, forgotten labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from fastheads.report.figures import (
    ACCENT,
    INK,
    LINE,
    MUTED,
    SURFACE,
    chart,
    line_style,
    new_chart,
)
from fastheads.report.page import label_name
from fastheads.report.rows import ordered, spread
from fastheads.report.stream_measures import LIMIT, MAIN

_LONGEST = 22  # letters of a label's name beside a chart
LOSSES = (-0.2, -0.05, 0.05)  # bounds of the change of a label's recall


@chart
def top_scatter(rows: Mapping[str, Any], where: str) -> Figure:
    """Figure 12: top-1 against top-5 on the base test pictures, a marker a row."""
    figure, axes = new_chart(3.2)
    _scatter(axes, rows, "base_top5", "base_top1")
    axes.set_title(f"top-1, %, {where}")
    axes.set_xlabel("top-5, %")
    return figure


@chart
def change_scatter(rows: Mapping[str, Any], where: str) -> Figure:
    """Figure 13: streamed top-5 against the change of top-5 on base pictures, in points."""
    figure, axes = new_chart(3.2)
    axes.axvspan(-100 * LIMIT, 0, color=LINE, alpha=0.5, linewidth=0)
    axes.axvline(0, color=MUTED, linewidth=1, linestyle=":")
    _scatter(axes, rows, "change", MAIN)
    axes.set_title(f"streamed pictures, top-5, %, {where}")
    axes.set_xlabel("change on base pictures, top-5, points")
    return figure


def _scatter(axes: Axes, rows: Mapping[str, Any], x: str, y: str) -> None:
    for row in ordered(rows):
        across, up = rows[row.key][x], rows[row.key][y]
        style = line_style(row) | {"linestyle": "none", "markersize": 7}
        style["markersize"] += 2 * (row.marker == "*")  # a star of the same size looks smaller
        drawn = axes.errorbar(100 * across["mean"], 100 * up["mean"], 100 * spread(up),
                              100 * spread(across), elinewidth=1, **style)  # fmt: skip
        drawn.lines[0].set_path_effects([withStroke(linewidth=2.4, foreground=SURFACE)])
    axes.margins(0.12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


@chart
def epoch_curves(entries: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Figure 6: training and validation accuracy by epoch; means, with the range of the seeds."""
    figure, axes = new_chart(3.0)
    styles = {"train": (MUTED, "o", (0, (4, 2))), "valid": (ACCENT, "s", "-")}
    names = {"train": "training", "valid": "validation"}
    length = min(len(entry["epoch"]) for entry in entries)
    epochs = entries[0]["epoch"][:length]
    for part, (color, marker, dashes) in styles.items():
        values = 100 * np.array([entry[f"{part}_{metric}"][:length] for entry in entries])
        axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0)
        axes.plot(epochs, values.mean(0), color=color, marker=marker, linestyle=dashes,
                  markersize=3.5, label=names[part])  # fmt: skip
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK, loc="lower right")
    axes.set_title(f"{metric.replace('top', 'top-')}, %")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@chart
def arrival_curves(rows: Mapping[str, Sequence[Sequence[float]]], title: str, last: int) -> Figure:
    """A share over successive arrivals: mean and standard deviation over seeds, a line a row.

    Args:
        rows: of each row ``[seeds, arrivals]``; the final value is that after ``last`` arrivals.
        title: what is drawn.
        last: the number of arrivals.
    """
    figure, axes = new_chart(3.2)
    order = ordered(rows)
    for i, row in enumerate(order):
        values = 100 * np.array(rows[row.key], dtype=float)
        aside = 0.045 * (i - (len(order) - 1) / 2)  # so that their spreads stand beside each other
        arrivals = np.arange(last - values.shape[1] + 1, last + 1) + aside
        std = values.std(0, ddof=1) if len(values) > 1 else None
        style = line_style(row) | {"linewidth": 1.4, "markersize": 5}
        axes.errorbar(arrivals, values.mean(0), std, elinewidth=1, **style)
    axes.set_title(title)
    axes.set_xlabel("arrivals learned")
    first = last + 1 - max(len(seeds[0]) for seeds in rows.values())
    axes.set_xticks(range(first, last + 1))
    axes.set_xlim(first - 0.3, last + 0.3)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    return figure


@chart
def worst_labels(labels: Sequence[Mapping[str, Any]]) -> Figure:
    """Recall among the best five of each label, before and after learning the stream."""
    figure, axes = new_chart(0.23 * len(labels) + 0.8)
    y = np.arange(len(labels))
    before, after = (100 * np.array([label[when] for label in labels]) for when in
                     ("before", "after"))  # fmt: skip
    axes.hlines(y, before, after, color=LINE, linewidth=2.5)
    axes.plot(before, y, "o", color=MUTED, markersize=5, label="before")
    for part, marker in ((True, "D"), (False, "s")):
        here = np.array([bool(label["component"]) is part for label in labels])
        if here.any():
            face = ACCENT if part else SURFACE
            name = "after, streamed" if part else "after, not streamed"
            axes.plot(after[here], y[here], marker, markerfacecolor=face, markeredgecolor=ACCENT,
                      markersize=5.5, label=name)  # fmt: skip
    axes.set_yticks(y, [_short(label_name(str(label["label"]))) for label in labels])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(-3, 103)
    axes.set_xlabel("pictures with the label among the best five, %")
    axes.legend(frameon=False, ncols=3, fontsize=9.5, labelcolor=INK, loc="lower right",
                bbox_to_anchor=(1.02, 1.0), handletextpad=0.1, columnspacing=1)  # fmt: skip
    axes.grid(axis="y", visible=False)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


@chart
def change_bars(labels: Sequence[Mapping[str, Any]]) -> Figure:
    """How many base labels lose or gain recall, those that streamed pictures hold and others."""
    figure, axes = new_chart(2.6)
    names = ["lose more\nthan 20", "lose\n5 to 20", "within 5", "gain more\nthan 5"]
    titles = {True: "labels of streamed pictures", False: "other labels"}
    groups = [part for part in titles if any(bool(x["component"]) is part for x in labels)]
    width = 0.8 / len(groups)
    for i, part in enumerate(groups):
        own = np.array([x["after"] - x["before"] for x in labels if bool(x["component"]) is part])
        counts = np.bincount(np.digitize(own, LOSSES), minlength=len(names))
        x = np.arange(len(names)) + width * (i - (len(groups) - 1) / 2)
        axes.bar(x, 100 * counts / own.size, 0.92 * width, color=ACCENT if part else "none",
                 edgecolor=ACCENT, linestyle="-" if part else "--",
                 label=f"{titles[part]} ({own.size:,})")  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set_title("of the base labels, %")
    axes.set_xlabel("points of their pictures found")
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK, loc="upper left")
    axes.margins(y=0.35)
    axes.set_ylim(bottom=0)
    axes.grid(axis="x", visible=False)
    return figure
