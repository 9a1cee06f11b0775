"""Charts of the lesion study: the paper's figures 4.3 to 4.8."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from fastheads.report.figures import ACCENT, INK, LINE, MUTED, SURFACE, chart, line_style, new_chart
from fastheads.report.rows import ordered

PAPER_EFFECTIVE = (5, 17)  # blocks of 54: the paper's effective paths


@chart
def single_deletions(
    single: Mapping[str, Mapping[str, Any]],
    downsampling: Mapping[str, Sequence[int]],
    chance: float | None = None,
) -> Figure:
    """Figures 4.3, 4.4 and 4.8: error without one block, by the block; 0 is the whole network.

    Args:
        single: for each row ``error``, ``[seeds, blocks]``, and ``whole``, ``[seeds]``.
        downsampling: of each row, numbers from 0 of the blocks that change the size.
        chance: error of always naming the same label.
    """
    figure, axes = new_chart(3.2)
    for row in ordered(single):
        whole = 100 * np.asarray(single[row.key]["whole"], dtype=float)
        errors = 100 * np.asarray(single[row.key]["error"], dtype=float)
        errors = np.concatenate([whole[:, None], errors], axis=1)
        x, means = np.arange(errors.shape[1]), errors.mean(0)
        axes.fill_between(x, errors.min(0), errors.max(0), color=row.color, alpha=0.2, linewidth=0)
        axes.plot(x, means, **line_style(row) | {"markersize": 2.5, "linewidth": 1.3})
        down = np.asarray(downsampling.get(row.key, ()), dtype=int) + 1
        axes.plot(down, means[down], "v", markersize=8, markerfacecolor=SURFACE,
                  markeredgecolor=row.color, markeredgewidth=1.6)  # fmt: skip
    _chance(axes, chance)
    axes.set_title("error, %")
    axes.set_xlabel("deleted block (0: none)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    _from_zero(axes)
    return figure


def _chance(axes: Axes, chance: float | None) -> None:
    if chance is not None:
        axes.axhline(100 * chance, color=MUTED, linewidth=1, linestyle="--")
        axes.annotate("chance", (0.99, 100 * chance), (0, -3), textcoords="offset points",
                      xycoords=("axes fraction", "data"), ha="right", va="top", fontsize=9.5,
                      color=INK)  # fmt: skip


def _from_zero(axes: Axes) -> None:
    """Starts the axis at 0 and leaves room above what is drawn, however flat it is."""
    axes.set_ylim(0, 1.06 * max(axes.dataLim.y1, 0.01))


@chart
def many_deletions(
    many: Mapping[str, Mapping[str, Any]],
    whole: Mapping[str, Sequence[float]],
    chance: float | None = None,
) -> Figure:
    """Figure 4.5a: error by the number of deleted blocks; median, quartiles and all draws.

    Args:
        many: for each row ``deleted`` and ``error``, ``[seeds, counts, draws]``.
        whole: of each row, the error of the whole network, one a seed.
        chance: error of always naming the same label.
    """
    figure, axes = new_chart(3.2)
    for row in ordered(many):
        errors = 100 * np.asarray(many[row.key]["error"], dtype=float)
        draws = errors.transpose(1, 0, 2).reshape(errors.shape[1], -1)
        counts = np.asarray(many[row.key]["deleted"])
        low, middle, high = np.quantile(draws, (0.25, 0.5, 0.75), axis=1)
        axes.plot(counts.repeat(draws.shape[1]), draws.ravel(), ".", color=row.color, markersize=2,
                  alpha=0.5)  # fmt: skip
        if row.key in whole:
            start = 100 * float(np.mean(whole[row.key]))
            counts = np.concatenate([[0], counts])
            low, middle, high = (np.concatenate([[start], line]) for line in (low, middle, high))
        axes.fill_between(counts, low, high, color=row.color, alpha=0.22, linewidth=0)
        axes.plot(counts, middle, **line_style(row) | {"markersize": 4})
    _chance(axes, chance)
    axes.set_title("error, %")
    axes.set_xlabel("deleted blocks")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _from_zero(axes)
    return figure


@chart
def reordering(
    reorder: Mapping[str, Mapping[str, Sequence[float]]], chance: float | None = None
) -> Figure:
    """Figure 4.5b: error by how much of the order is left, a point a draw."""
    figure, axes = new_chart(3.2)
    for row in ordered(reorder):
        axes.plot(
            reorder[row.key]["tau"],
            100 * np.asarray(reorder[row.key]["error"], dtype=float),
            **line_style(row) | {"linestyle": "none", "markersize": 4, "alpha": 0.75},
        )
    _chance(axes, chance)
    axes.invert_xaxis()
    axes.set_title("error, %")
    axes.set_xlabel("Kendall's τ with the trained order")
    _from_zero(axes)
    return figure


@chart
def length_bars(
    shares: Sequence[float],
    interval: tuple[int, int] | None = None,
    title: str = "of all paths, %",
) -> Figure:
    """Figures 4.6a and c: a share for each length of paths, the effective ones coloured."""
    figure, axes = new_chart(2.7)
    x = np.arange(len(shares))
    low, high = interval or (len(shares), -1)
    inside = (x >= low) & (x <= high)
    heights = 100 * np.asarray(shares, dtype=float)
    axes.bar(x[~inside], heights[~inside], 0.85, color=MUTED)
    axes.bar(x[inside], heights[inside], 0.85, color=ACCENT)
    if interval:
        axes.axvspan(low - 0.5, high + 0.5, color=ACCENT, alpha=0.12, linewidth=0)
    axes.set_title(title)
    axes.set_xlabel("blocks that a path enters")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.8, len(shares) - 0.2)
    return figure


@chart
def gradient_norms(
    gradients: Mapping[str, Mapping[str, Any]], interval: tuple[int, int] | None = None
) -> Figure:
    """Figure 4.6b: norm of the gradient along single paths, by length; median and quartiles."""
    figure, axes = new_chart(2.7)
    for row in ordered(gradients):
        lengths = gradients[row.key]["lengths"]
        draws = [np.asarray(norms, dtype=float) for norms in gradients[row.key]["norm"]]
        quartiles = np.array([np.quantile(norms, (0.25, 0.5, 0.75)) for norms in draws])
        quartiles[quartiles <= 0] = math.nan  # there is no place for 0 on a logarithmic axis
        low, middle, high = quartiles.T
        axes.fill_between(lengths, low, high, color=row.color, alpha=0.22, linewidth=0)
        axes.plot(lengths, middle, **line_style(row) | {"markersize": 2.5, "linewidth": 1.3})
    if interval:
        axes.axvspan(interval[0] - 0.5, interval[1] + 0.5, color=ACCENT, alpha=0.12, linewidth=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda norm, _: f"{norm:.0e}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("norm of the gradient of a path")
    axes.set_xlabel("blocks that the path enters")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@chart
def remaining_paths(
    n: int,
    deleted: Sequence[int],
    fraction: Sequence[Sequence[float]],
    interval: tuple[int, int] | None = None,
) -> Figure:
    """Figure 4.7: share of the paths of each length that is left after deletions (eq. 4.8)."""
    figure, axes = new_chart(2.7)
    styles = [("-", ACCENT), ((0, (4, 2)), INK), (":", MUTED)]
    if interval:
        axes.axvspan(interval[0] - 0.5, interval[1] + 0.5, color=ACCENT, alpha=0.12, linewidth=0)
    for i, (count, line) in enumerate(zip(deleted, fraction, strict=True)):
        dashes, color = styles[i % len(styles)]
        axes.plot(range(n + 1), 100 * np.asarray(line, dtype=float), linestyle=dashes, color=color,
                  label=f"{count} deleted")  # fmt: skip
    axes.axhline(0, color=LINE, linewidth=1)
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK)
    axes.set_title("paths that are left, %")
    axes.set_xlabel(f"blocks that a path enters, of {n}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
