"""Charts of Knowledge Concentration: verticals, factors, generic parts, size against accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fastheads.report.figures import (
    ACCENT,
    INK,
    LINE,
    MUTED,
    chart,
    draw_curves,
    line_style,
    new_chart,
)
from fastheads.report.rows import VERTICAL_METRICS, count, ordered, row_for, spread

_LONGEST = 20  # letters of a vertical's name; longer ones leave no room on a phone


@chart
def by_vertical(
    names: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
    stds: Mapping[str, Sequence[float | None]],
    reference: float | None = None,
) -> Figure:
    """A line a vertical with the marker of each row on it.

    Args:
        names: of the verticals, from the top.
        values: of each row, one a vertical; None where there is none.
        stds: the spread of some of the rows.
        reference: where to draw an upright line.
    """
    figure, axes = new_chart(0.27 * len(names) + 0.5)
    y = np.arange(len(names))
    table = {key: np.array(line, dtype=float) for key, line in values.items()}
    lines = list(table.values())
    axes.hlines(y, np.fmin.reduce(lines), np.fmax.reduce(lines), color=LINE, linewidth=2)
    for row in ordered(values):
        std = np.array(stds.get(row.key, [None] * len(names)), dtype=float)
        style = line_style(row) | {"linestyle": "none"}
        axes.errorbar(table[row.key], y, xerr=np.nan_to_num(std), elinewidth=1, **style)
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=1)
    short = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
    axes.set_yticks(y, short, fontsize=9.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    return figure


@chart
def numbered_curves(
    curves: Sequence[Mapping[str, Any]], numbers: Mapping[str, int], after: float = 0.0
) -> Figure:
    """Training losses with the number of each row's setting at the end of its lines.

    Args:
        curves: of ``analysis.json``, at least one.
        numbers: of the rows.
        after: share of the steps that is left out at the start, to enlarge what follows; then
            the axis is linear.
    """
    figure, axes = new_chart(2.9)
    curves = [_later(curve, after) for curve in curves]
    draw_curves(axes, curves)
    if after:
        axes.set_yscale("linear")
    ends: dict[str, list[float]] = {}
    for curve in curves:
        ends.setdefault(curve["row"], []).append(np.array(curve["loss"], dtype=float)[-1])
    to_axes = axes.transData + axes.transAxes.inverted()
    axes.autoscale_view()
    heights = {key: float(to_axes.transform((0.0, float(np.mean(values))))[1])
               for key, values in ends.items() if np.isfinite(values).all()}  # fmt: skip
    lowest = -1.0
    for key in sorted(heights, key=lambda key: heights[key]):
        lowest = max(heights[key], lowest + 0.07)  # below it, numbers would overlap
        axes.text(1.015, lowest, f"({numbers[key]})", transform=axes.transAxes, va="center",
                  fontsize=9.5, color=row_for(key).color, weight="bold")  # fmt: skip
    return figure


def _later(curve: Mapping[str, Any], after: float) -> dict[str, Any]:
    first = int(after * len(curve["step"]))
    return dict(curve, step=curve["step"][first:], loss=curve["loss"][first:])


@chart
def generic_shares(
    shares: Sequence[float], ours: Sequence[Mapping[str, Any]], paper: Sequence[float | None]
) -> Figure:
    """Points of mpvap over the student without a generic part, ours and the paper's.

    Args:
        shares: generic part of the top-2 layer, the first one 0.
        ours: mpvap at each share, with its spread.
        paper: published mpvap at each share, a fraction; None where there is none.
    """
    figure, axes = new_chart(2.6)
    x = 100 * np.asarray(shares)
    means = np.array([100 * metric["mean"] for metric in ours])
    stds = [100 * spread(metric) for metric in ours]
    published = 100 * np.array(paper, dtype=float)
    axes.axhline(0, color=LINE, linewidth=1)
    axes.plot(x, published - published[0], color=MUTED, marker="s", linestyle=(0, (4, 2)))
    axes.errorbar(x, means - means[0], stds, color=ACCENT, marker="o", elinewidth=1, capsize=2.5)
    ends = {"ours": means[-1] - means[0], "paper": published[-1] - published[0]}
    upper = max(ends, key=lambda name: ends[name])
    for name, color in (("ours", ACCENT), ("paper", INK)):
        axes.annotate(name, (x[-1], ends[name]), (7, 7 if name == upper else -7),
                      textcoords="offset points", va="center", color=color)  # fmt: skip
    axes.set_title("points of mpvap over no generic part")
    axes.set_xlabel("generic share of the top-2 layer, %")
    axes.set_xticks(x)
    axes.margins(x=0.12, y=0.15)
    return figure


@chart
def size_and_accuracy(metrics: Mapping[str, Any], metric: str) -> Figure:
    """Each row by its parameters (logarithmic) and an accuracy with its spread."""
    figure, axes = new_chart(3.3)
    for row in ordered(metrics):
        values = metrics[row.key]
        style = line_style(row) | {"linestyle": "none", "markersize": 7}
        axes.errorbar(values["parameters"], 100 * values[metric]["mean"],
                      100 * spread(values[metric]), elinewidth=1, **style)  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("parameters")
    axes.set_title(f"{VERTICAL_METRICS[metric]}, %")
    axes.margins(x=0.1, y=0.12)
    return figure
