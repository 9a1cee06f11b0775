"""Charts as inline SVG that follow the page: its font, its text colour, light and dark.

matplotlib draws in placeholder colours; afterwards each becomes a variable of the page's style.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from fastheads.report.page import Html, escape, png, tag
from fastheads.report.rows import METRIC_NAMES, ROWS, Row, ordered, percent, row_for, spread

INK, MUTED, LINE, SURFACE, ACCENT = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", SURFACE: "surface", ACCENT: "accent"}
_VARIABLES |= {row.color: f"row-{row.key}" for row in ROWS}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fastheads",
    "font.size": 10,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.facecolor": "none",
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
}
_WIDTH = 4.5  # inches at 72 units each: about the width of a phone, so that text keeps its size


def chart(draw: Callable[..., Figure]) -> Callable[..., Html]:
    """Turns a function that draws a figure into one that returns SVG; ``alt`` describes it."""

    @functools.wraps(draw)
    def drawn(*args: Any, alt: str, **options: Any) -> Html:
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            # Names are written in the reader's fonts, whatever matplotlib's own lacks.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            return to_svg(draw(*args, **options), alt)

    return drawn


def to_svg(figure: Figure, alt: str) -> Html:
    """Inline SVG without a fixed size, without ids that could clash, in the page's colours."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font(-family)?: [^;\"]*'[^;\"]*(?=[;\"])", _font_size, svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg class="chart" role="img" aria-label="{escape(alt)}" {box[0] if box else ""}'
    opening += ' xmlns:xlink="http://www.w3.org/1999/xlink">'
    return Html(re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1).strip())


def _font_size(font: re.Match[str]) -> str:
    size = re.search(r"[\d.]+px", font[0])
    weight = "font-weight: 600; " if re.search(r"bold|\b700\b", font[0]) else ""
    return weight + (f"font-size: {size[0]}" if size else "")


def new_chart(height: float, width: float = _WIDTH) -> tuple[Figure, Axes]:
    """An empty chart, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def line_style(row: Row) -> dict[str, Any]:
    """Colour, marker and dashes of a row: controls are hollow and dashed."""
    return {
        "color": row.color,
        "marker": row.marker,
        "linestyle": (0, (4, 2)) if row.hollow else "-",
        "markerfacecolor": SURFACE if row.hollow else row.color,
        "markeredgecolor": row.color,
        "markeredgewidth": 1.4,
    }


@chart
def row_bars(metrics: Mapping[str, Any], metric: str) -> Figure:
    """One bar a row from zero: the mean, the standard deviation and each seed as a dot."""
    rows = ordered(metrics)
    halo = [withStroke(linewidth=2.2, foreground=SURFACE)]  # legible on a bar of any colour
    figure, axes = new_chart(0.46 * len(rows) + 0.35)
    for y, row in enumerate(rows):
        values = metrics[row.key][metric]
        mean, std, seeds = 100 * values["mean"], 100 * spread(values), values.get("seeds", [])
        axes.barh(y, mean, 0.42, color="none" if row.hollow else row.color,
                  edgecolor=row.color, linestyle="--" if row.hollow else "-")  # fmt: skip
        axes.errorbar(mean, y, xerr=std, color=INK, linewidth=1.4,
                      path_effects=halo)  # fmt: skip
        axes.plot([100 * seed for seed in seeds], [y] * len(seeds), ".", color=INK, markersize=2.8,
                  path_effects=halo)  # fmt: skip
        right = max([mean + std, *(100 * seed for seed in seeds)])
        axes.annotate(percent(mean / 100), (right, y), (5, 0), textcoords="offset points",
                      va="center", weight="bold")  # fmt: skip
        axes.annotate(row.short, (0, y - 0.24), (1, 1.5), textcoords="offset points",
                      va="bottom", fontsize=9.5, color=MUTED)  # fmt: skip
    axes.set_title(f"{METRIC_NAMES[metric]}, %")
    axes.set_ylim(len(rows) - 0.65, -0.75)
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    return figure


@chart
def spectrum(eigenvalues: Sequence[float], num_groups: int | None = None) -> Figure:
    """The eigenvalues in descending order, with the gap after ``num_groups``."""
    values = np.sort(np.asarray(eigenvalues, dtype=float))[::-1]
    figure, axes = new_chart(3.0)
    order = np.arange(1, values.size + 1)
    axes.vlines(order, min(0.0, float(values.min())), values, color=LINE, linewidth=1.2)
    axes.plot(order, values, "o", color=MUTED, markersize=4)
    if num_groups:
        axes.plot(order[:num_groups], values[:num_groups], "o", color=ACCENT, markersize=4.5)
    if num_groups and num_groups < values.size:
        axes.axvline(num_groups + 0.5, color=ACCENT, linestyle="--", linewidth=1)
        gap = values[num_groups - 1] - values[num_groups]
        axes.annotate(f"{num_groups} groups, gap {gap:.3f}", (num_groups + 0.5, values[0]), (5, 0),
                      textcoords="offset points", color=INK, va="top")  # fmt: skip
    axes.set(xlabel="eigenvalue number", ylabel="eigenvalue")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    return figure


def similarity_matrix(
    matrix: np.ndarray, bounds: Sequence[int] | np.ndarray | None, alt: str
) -> Html:
    """The matrix ordered by group, darker for more similar, with a square around each group.

    Args:
        matrix: ``[m, m]``, floating, labels (or bins of labels) ordered by group.
        bounds: ``[groups + 1]``, where each group starts and the last one ends, in bins.
        alt: what is to be seen.
    """
    size = len(matrix)
    starts = [] if bounds is None else [float(bound) for bound in bounds]
    image = tag("image", x=0, y=0, width=size, height=size, href=_shades(matrix))
    marks = []
    for group, (start, end) in enumerate(pairwise(starts)):
        marks.append(tag("rect", x=start, y=start, width=end - start, height=end - start,
                         class_="bound", vector_effect="non-scaling-stroke"))  # fmt: skip
        if end - start > size / 40:
            marks.append(tag("text", group, x=-size / 60, y=(start + end) / 2 + size / 90,
                             text_anchor="end", font_size=size / 33))  # fmt: skip
    margin = size / 14
    box = f"{-margin:g} -1 {size + margin + 1:g} {size + 2}"
    return tag("svg", image, marks, class_="chart", viewBox=box, role="img", aria_label=alt)


def _shades(matrix: np.ndarray) -> str:
    """A PNG of 32 shades by the logarithm; 5 bits a bin, so that 512 x 512 stay small."""
    matrix = np.nan_to_num(np.asarray(matrix, dtype=float)).clip(0)
    top = np.percentile(matrix[matrix > 0], 99) if (matrix > 0).any() else 1.0
    levels = np.round(31 * np.clip(np.log1p(matrix) / np.log1p(top), 0, 1)).astype(np.uint8)
    enlarged = max(1, 512 // len(matrix))  # browsers smooth: small bins would blur
    image = Image.fromarray(levels.repeat(enlarged, 0).repeat(enlarged, 1), "P")
    image.putpalette([8, 56, 112] * 32)
    opacity = bytes(round(255 * level / 31) for level in range(32))
    return png(image, transparency=opacity)


@chart
def conditional(
    entries: Sequence[Mapping[str, Any]],
    metric: str,
    cost: str,
    unit: float = 1.0,
    base: tuple[float, float] | None = None,
) -> Figure:
    """Accuracy when only some groups are evaluated, against what they cost.

    Args:
        entries: the entries of ``conditional`` in ``analysis.json``.
        metric: the key of the accuracy; its spread over seeds is drawn if the entries hold it.
        cost: ``macs``, or the batch size of a latency.
        unit: one unit of multiply-adds, those of the base network.
        base: cost and accuracy of the base network, to be drawn beside.
    """
    figure, axes = new_chart(3.1)
    for row in ordered({entry["grouping"] for entry in entries}):
        line = [entry for entry in entries if entry["grouping"] == row.key]
        line.sort(key=lambda entry: entry["groups"])
        costs = [e["macs"] / unit if cost == "macs" else e["latency_ms"][cost] for e in line]
        heights = [100 * entry[metric] for entry in line]
        stds = [100 * entry.get(f"{metric}_std", 0.0) for entry in line]
        axes.errorbar(costs, heights, stds, elinewidth=1, **line_style(row))
        for x, y, std, entry in zip(costs, heights, stds, line, strict=True):
            text = "all" if entry["groups"] == entry["of"] else str(entry["groups"])
            axes.annotate(text, (x, y + std), (0, 6), textcoords="offset points", ha="center",
                          va="bottom", fontsize=9.5, color=INK)  # fmt: skip
    if base:
        axes.plot(base[0], 100 * base[1], color=ROWS[0].color, marker=ROWS[0].marker)
        axes.annotate("base", (base[0], 100 * base[1]), (6, -3), textcoords="offset points",
                      fontsize=9.5, color=INK)  # fmt: skip
    if cost == "macs":
        axes.set_xlabel("multiply-adds" if unit == 1 else "multiply-adds, × base")
    else:
        axes.set_xlabel(f"milliseconds a batch of {cost}")
    axes.set_title(f"{METRIC_NAMES[metric]}, %")
    axes.margins(x=0.08, y=0.16)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return figure


@chart
def contrast(points: Sequence[Mapping[str, Any]], metric: str, relative_to: str | None) -> Figure:
    """A metric of each row over the width of the bottleneck, or its gain over another row."""
    points = sorted(points, key=lambda point: point["bottleneck"])
    figure, axes = new_chart(3.1)
    keys = {key for point in points for key in point["rows"]} - {relative_to}
    for row in ordered(keys):
        here = [
            (x, point["rows"]) for x, point in enumerate(points)
            if row.key in point["rows"] and (relative_to is None or relative_to in point["rows"])
        ]  # fmt: skip
        means = np.array([rows[row.key][metric]["mean"] for _, rows in here])
        stds = np.array([spread(rows[row.key][metric]) for _, rows in here])
        if relative_to is not None:
            means = means - np.array([rows[relative_to][metric]["mean"] for _, rows in here])
            stds = stds + np.array([spread(rows[relative_to][metric]) for _, rows in here])
        axes.errorbar([x for x, _ in here], 100 * means, 100 * stds, capsize=2.5, elinewidth=1,
                      **line_style(row))  # fmt: skip
    if relative_to is None:
        axes.set_title(f"{METRIC_NAMES[metric]}, %")
        axes.set_ylim(bottom=0)
    else:
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.set_title(f"points above “{row_for(relative_to).short}”")
    axes.set_xticks(range(len(points)), [str(point["bottleneck"]) for point in points])
    axes.set_xlabel("bottleneck width, units")
    axes.margins(x=0.08)
    return figure


@chart
def training_curves(curves: Sequence[Mapping[str, Any]]) -> Figure:
    """Training loss over steps, one thin line a seed, logarithmic where all losses allow it."""
    figure, axes = new_chart(3.1)
    draw_curves(axes, curves)
    return figure


def draw_curves(axes: Axes, curves: Sequence[Mapping[str, Any]]) -> None:
    """Draws the losses of ``curves`` (of ``analysis.json``); one that was no number is a gap."""
    order = {row.key: row for row in ordered({curve["row"] for curve in curves})}
    for curve in curves:
        row = order[curve["row"]]
        axes.plot(curve["step"], np.array(curve["loss"], dtype=float), color=row.color,
                  linewidth=1.1, alpha=0.85,
                  linestyle=(0, (4, 2)) if row.hollow else "-")  # fmt: skip
    if all(loss is None or loss > 0 for curve in curves for loss in curve["loss"]):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="training step", ylabel="loss")
