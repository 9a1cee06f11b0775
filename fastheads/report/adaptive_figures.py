"""Charts of networks that skip layers: the paper's figures 5.3 to 5.6, 5.8 and 5.9."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from fastheads.report.figures import ACCENT, INK, LINE, MUTED, SURFACE, chart, line_style, new_chart
from fastheads.report.rows import METRIC_NAMES, milliseconds, ordered, spread
from fastheads.report.rows_adaptive import budget_of, target_rate

_COSTS = {"macs": "executed multiply-adds", "ms_1": "ms, one image at a time",
          "ms_32": "ms an image, batch of 32"}  # fmt: skip
_SHADES = LinearSegmentedColormap.from_list("rates", ["#ffffff", "#9cc3e6", "#0b3d78"])
_MOST_ROWS = 400  # of a heatmap: more than the pixels that a page has for it
_LONGEST = 18  # letters of a group's name beside a heatmap


@chart
def accuracy_over_cost(metrics: Mapping[str, Any], metric: str, cost: str) -> Figure:
    """Accuracy against a cost relative to the plain network's; rates and budgets joined by lines.

    Args:
        metrics: rows that hold ``cost``.
        metric: the key of the accuracy.
        cost: ``macs``, ``ms_1`` or ``ms_32``.
    """
    figure, axes = new_chart(3.0)
    base = _mean(metrics["plain"][cost]) if "plain" in metrics else None
    unit = base or 1.0
    for place, dashes in ((target_rate, "-"), (budget_of, ":")):
        keys = sorted((key for key in metrics if place(key)), key=lambda key: place(key) or 0)
        line = [(_mean(metrics[key][cost]) / unit, 100 * metrics[key][metric]["mean"])
                for key in keys]  # fmt: skip
        if line:
            axes.plot(*zip(*line, strict=True), dashes, color=MUTED, linewidth=1.2, zorder=1.5)
    for row in ordered(metrics):
        values = metrics[row.key]
        x, y = _mean(values[cost]) / unit, 100 * values[metric]["mean"]
        style = line_style(row) | {"linestyle": "none", "markersize": 7}
        std = 100 * spread(values[metric])
        axes.errorbar(x, y, std, elinewidth=1, **style)
        if rate := target_rate(row.key):
            axes.annotate(f"{100 * rate:.0f}", (x, y + std), (0, 8), textcoords="offset points",
                          ha="center", fontsize=9.5, color=INK)  # fmt: skip
        elif budget := budget_of(row.key):
            axes.annotate(str(budget), (x, y - std), (0, -15), textcoords="offset points",
                          ha="center", fontsize=9.5, color=INK)  # fmt: skip
    if base:
        axes.axvline(1.0, color=LINE, linewidth=1.2, zorder=1)
        size = f"{milliseconds(base)} ms" if cost != "macs" else f"{base / 1e6:,.1f} M"
        axes.set_xlabel(f"{_COSTS[cost]}, × plain ({size})")
    else:
        axes.set_xlabel(_COSTS[cost])
    axes.set_title(f"{METRIC_NAMES[metric]}, %")
    axes.margins(x=0.1, y=0.16)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    return figure


def _mean(value: Any) -> float:
    return float(value["mean"] if isinstance(value, Mapping) else value)


def averaged(values: np.ndarray, most: int = _MOST_ROWS) -> np.ndarray:
    """Neighbouring rows averaged until there are at most ``most``; NaN counts for nothing."""
    starts = np.unique(
        np.linspace(0, len(values), min(most, len(values)), endpoint=False, dtype=int)
    )
    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts, axis=0)
    counts = np.add.reduceat(known.astype(float), starts, axis=0)
    return np.divide(sums, counts, out=np.full_like(sums, math.nan), where=counts > 0)


@chart
def execution_heatmap(
    values: np.ndarray, groups: Sequence[Mapping[str, Any]], downsampling: Iterable[int] = ()
) -> Figure:
    """Figure 5.4: how often each gate opens for each label, labels by group from the top.

    Args:
        values: ``[labels, gates]``, rates; NaN where a label has no image.
        groups: name, first and last row, both included.
        downsampling: numbers of the gates whose blocks change the size, from 0.
    """
    labels, gates = values.shape
    figure, axes = new_chart(5.2)
    shades = averaged(values.astype(float))
    wide = np.repeat(shades, max(1, 480 // gates), axis=1)  # browsers smooth: few would blur
    tall = np.repeat(wide, max(1, 480 // len(wide)), axis=0)
    axes.imshow(tall, cmap=_SHADES, vmin=0, vmax=1, aspect="auto", interpolation="none",
                extent=(0.5, gates + 0.5, labels, 0))  # fmt: skip
    _gate_ticks(axes, gates, set(downsampling))
    centres = [(group["first"] + group["last"] + 1) / 2 for group in groups]
    sizes = [group["last"] + 1 - group["first"] for group in groups]
    shown = _apart(centres, sizes, labels / 27)
    axes.set_yticks([centres[i] for i in shown],
                    [_short(str(groups[i]["name"])) for i in shown], fontsize=9)  # fmt: skip
    for group in groups:
        if group["last"] + 1 - group["first"] > labels / 200:
            axes.axhline(group["last"] + 1, color=ACCENT, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(labels, 0)
    axes.grid(visible=False)
    return figure


def _apart(centres: Sequence[float], sizes: Sequence[int], distance: float) -> list[int]:
    """The largest entries whose centres lie apart at least so far."""
    kept: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if all(abs(centres[i] - centres[j]) >= distance for j in kept):
            kept.append(i)
    return kept


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _gate_ticks(axes: Axes, gates: int, downsampling: set[int]) -> None:
    """Numbers the gates; those that change the size have a triangle."""
    step = math.ceil(gates / 18)
    shown = sorted({*range(0, gates, step), *downsampling} if step > 1 else set(range(gates)))
    shown = [
        i for i in shown if i in downsampling or not {i - 1, i + 1} & downsampling or step == 1
    ]
    names = [f"{i + 1}\n▼" if i in downsampling else str(i + 1) for i in shown]
    axes.set_xticks([i + 1 for i in shown], names)
    axes.set_xlabel("gate")


@chart
def rate_trajectories(
    epochs: Sequence[float],
    layers: np.ndarray,
    downsampling: Iterable[int] = (),
    target: float | None = None,
) -> Figure:
    """Figure 5.5: rates of the gates over training; downsampling and the last gate stand out.

    Args:
        epochs: when the rates were taken.
        layers: ``[epochs, gates]``.
        downsampling: numbers of the gates whose blocks change the size, from 0.
        target: the target rate.
    """
    figure, axes = new_chart(3.1)
    shrinking, last = set(downsampling), layers.shape[1] - 1
    for gate in range(layers.shape[1]):
        style: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "alpha": 0.8}
        if gate in shrinking:
            style = {"color": ACCENT, "linewidth": 1.8}
        elif gate == last:
            style = {"color": INK, "linewidth": 1.6, "linestyle": (0, (4, 2))}
        axes.plot(epochs, 100 * layers[:, gate], **style)
    ends = {gate: 100 * layers[-1, gate] for gate in range(layers.shape[1])}
    _number_ends(axes, ends, shrinking)
    if target is not None:
        axes.axhline(100 * target, color=MUTED, linewidth=1, linestyle=":")
    axes.set_title("executed for, % of the images")
    axes.set_xlabel("epoch")
    axes.set_ylim(-3, 103)
    return figure


def _number_ends(axes: Axes, ends: Mapping[int, float], bold: set[int]) -> None:
    """The gates' numbers at the right; where they would overlap, several stand in a row."""
    rows: list[tuple[float, list[int]]] = []
    for gate in sorted(ends, key=lambda gate: ends[gate]):
        if rows and ends[gate] - rows[-1][0] < 6:
            rows[-1][1].append(gate)
        else:
            rows.append((ends[gate], [gate]))
    for height, gates in rows:
        text = ", ".join(str(gate + 1) for gate in sorted(gates)[:6]) + ("…" * (len(gates) > 6))
        weight = "bold" if bold & set(gates) else "normal"
        axes.annotate(text, (1.01, height), xycoords=("axes fraction", "data"), va="center",
                      fontsize=9, color=INK, weight=weight)  # fmt: skip


@chart
def layer_histogram(everything: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Figure:
    """Figure 5.6: share of the images by their number of executed layers; two groups beside all."""
    figure, axes = new_chart(3.0)
    styles = [(ACCENT, "o", "-"), (INK, "s", (0, (4, 2)))]
    counts = np.asarray(everything["counts"], dtype=float)
    x, lists = np.arange(counts.size), [counts]
    axes.bar(x, 100 * counts / max(counts.sum(), 1), 0.8, color=LINE, label="all images")
    for group, (color, marker, dashes) in zip(groups, styles, strict=False):
        own = np.asarray(group["counts"], dtype=float)
        axes.plot(x, 100 * own / max(own.sum(), 1), color=color, marker=marker, linestyle=dashes,
                  markersize=4.5, label=_short(str(group["name"])))  # fmt: skip
        lists.append(own)
    held = np.flatnonzero(np.sum(lists, axis=0))
    if held.size:
        axes.set_xlim(held[0] - 0.8, held[-1] + 0.8)
    axes.axvline(everything["mean"], color=MUTED, linewidth=1, linestyle=":")
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK, loc="upper left")
    axes.set_title("images, %")
    axes.set_xlabel("open gates of an image")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.25)
    axes.set_ylim(bottom=0)
    return figure


@chart
def attack_curves(
    epsilons: Sequence[float], rows: Mapping[str, Mapping[str, Any]], kind: str, title: str
) -> Figure:
    """Figure 5.8: accuracy of each row against the strength of the attack."""
    figure, axes = new_chart(3.0)
    for row in ordered(key for key in rows if rows[key].get(kind)):
        heights = [100 * value for value in rows[row.key][kind]]
        axes.plot(epsilons, heights, **line_style(row))
    axes.set_title(title)
    axes.set_xlabel("strength ε of the attack")
    axes.set_ylim(bottom=0)
    return figure


@chart
def rates_before_and_after(
    before: Sequence[float], after: Sequence[float], downsampling: Iterable[int] = ()
) -> Figure:
    """Figure 5.9: the rate of each gate on images and on the same images attacked."""
    figure, axes = new_chart(2.8)
    x = np.arange(1, len(before) + 1)
    first, second = 100 * np.asarray(before, dtype=float), 100 * np.asarray(after, dtype=float)
    axes.vlines(x, first, second, color=LINE, linewidth=2)
    axes.plot(x, first, "o", color=ACCENT, label="before")
    axes.plot(x, second, "D", markerfacecolor=SURFACE, markeredgecolor=INK, markersize=5,
              label="after")  # fmt: skip
    _gate_ticks(axes, len(x), set(downsampling))
    axes.set_title("executed for, % of the images")
    axes.set_ylim(-3, 103)
    axes.legend(frameon=False, ncols=2, fontsize=9.5, labelcolor=INK, loc="lower right",
                bbox_to_anchor=(1.02, 0.97), handletextpad=0.2, columnspacing=1)  # fmt: skip
    return figure


@chart
def budget_curve(
    budget: Sequence[Mapping[str, Any]], free: tuple[float, float] | None, kind: str
) -> Figure:
    """Accuracy with exactly k gates open, against k; the free choice of gates as one point.

    Args:
        budget: entries with ``k`` and an accuracy, a fraction.
        free: open gates on average and accuracy of the same network without a budget.
        kind: the key of the accuracy.
    """
    figure, axes = new_chart(2.8)
    entries = sorted(budget, key=lambda entry: entry["k"])
    axes.plot([entry["k"] for entry in entries], [100 * _mean(entry[kind]) for entry in entries],
              color=ACCENT, marker="o")  # fmt: skip
    if free:
        axes.plot(free[0], 100 * free[1], marker="D", color=INK, linestyle="none", markersize=7)
        axes.annotate("free choice", (free[0], 100 * free[1]), (0, 9), textcoords="offset points",
                      ha="center", fontsize=9.5, color=INK)  # fmt: skip
    axes.set_title(f"{METRIC_NAMES[kind]}, %")
    axes.set_xlabel("open gates of every image")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.08, y=0.18)
    return figure
