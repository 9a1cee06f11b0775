"""The section on self-paced learning: figure 5's curves, the settings ranked, both readings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report.blocks import accuracy_cells, best_of, legend, mark
from fastheads.report.concentrate_figures import numbered_curves
from fastheads.report.concentrate_findings import (
    SETTINGS,
    compared_losses,
    final_losses,
    ranking,
    worded,
)
from fastheads.report.concentrate_verticals import gamma_chart
from fastheads.report.page import Content, Html, number, paragraph, side_by_side, table, tag
from fastheads.report.rows import row_for

_WORDS = {
    1: "γ a vertical, fixed at √N",
    2: "γ a vertical, trained from 10",
    3: "γ a label, trained from 10",
    4: "γ a vertical, trained from √N",
    5: "γ a label, trained from √N",
}
_PAPER = {1: "not converged", 2: "not converged", 3: "not converged", 4: "converged, 37.9",
          5: "converged, 32.8"}  # fmt: skip
_NUMBERS = SETTINGS | {worded(key): setting for key, setting in SETTINGS.items()}


def is_paced(key: str) -> bool:
    """Whether a row is one of the settings of figure 5, in either reading."""
    return key in _NUMBERS


def pacing_section(
    analysis: Mapping[str, Any], metrics: Mapping[str, Any], curves: Sequence[Mapping[str, Any]]
) -> list[Content]:
    """Figure 5, the five settings in both readings, and the factors that were learned."""
    curves = [curve for curve in curves if is_paced(curve["row"])]
    losses = final_losses(curves)
    blocks = [
        *_figure_5(curves),
        *_settings_table(metrics, losses),
        *_order_table(losses),
        *gamma_chart(analysis),
    ]
    if not blocks:
        return []
    intro = (
        "The logits of a vertical are brought to length one and multiplied by a factor γ. The "
        "paper compares five settings of γ by their training loss (figure 5) and says that (4) "
        "and (5) converge and the others do not."
    )
    return [paragraph(intro), *blocks]


def _figure_5(curves: Sequence[Mapping[str, Any]]) -> list[Content]:
    columns: list[Content] = []
    for keys, name in ((tuple(SETTINGS), "bias after the scaling"),
                       (tuple(map(worded, SETTINGS)), "as worded: bias inside")):  # fmt: skip
        ours = [curve for curve in curves if curve["row"] in keys]
        if not ours:
            continue
        close = [curve for curve in ours if _NUMBERS[curve["row"]] in (4, 5)]
        charts = [numbered_curves(ours, _NUMBERS, alt=f"Training losses of the settings, {name}.")]
        if close:
            alt = f"Training losses of settings 4 and 5, {name}, enlarged."
            charts.append(numbered_curves(close, _NUMBERS, 1 / 3, alt=alt))
        columns.append(_column(name, charts, {curve["row"] for curve in ours}))
    return [side_by_side(*columns)] if columns else []


def _column(name: str, charts: Sequence[Html], keys: set[str]) -> Html:
    caption = (
        "Training loss over the steps, one line a seed; the numbers are those of the settings. "
        "Below, (4) and (5) enlarged: the last two thirds of the steps."
    )
    heading = name[0].upper() + name[1:]
    return tag("figure", tag("h3", heading), legend(keys), *charts, tag("figcaption", caption))


def _settings_table(metrics: Mapping[str, Any], losses: Mapping[str, Any]) -> list[Content]:
    after = [key for key in SETTINGS if key in metrics or key in losses]
    inside = [worded(key) for key in SETTINGS if worded(key) in metrics or worded(key) in losses]
    if not after and not inside:
        return []
    rank = {key: place for place, key in enumerate(ranking(losses), 1)}
    best = best_of(metrics, [key for key in (*after, *inside) if key in metrics], ["mpvap"])
    written: list[list[Content]] = []
    for key, setting in SETTINGS.items():
        cells: list[Content] = [[mark(row_for(key)), f"({setting}) {_WORDS[setting]}"]]
        for reading, shown in ((key, after), (worded(key), inside)):
            if shown:
                cells += accuracy_cells(metrics.get(reading, {}), ["mpvap"], best)
                cells.append(_loss(losses.get(reading)))
        cells += [str(rank.get(key, "–"))] if after else []
        written.append([*cells, tag("span", _PAPER[setting], class_="paper")])
    header = ["setting", *(["mpvap", "final loss"] if after else []),
              *(["mpvap, as worded", "final loss, as worded"] if inside else []),
              *(["rank by loss"] if after else []), "paper: mpvap, %"]  # fmt: skip
    caption = (
        "mpvap in percent and the training loss at the end (mean of the last tenth), mean ± "
        "standard deviation over seeds. Without self-pacing the paper's student reaches 32.9."
    )
    return [table(header, written, caption)]


def _loss(loss: Mapping[str, Any] | None) -> Content:
    if loss is None:
        return "–"
    return number(loss["mean"], _rounded(loss["mean"], loss["std"] if loss["seeds"][1:] else None))


def _rounded(mean: float, spread: float | None, sign: str = "") -> str:
    """A loss with three digits, or as many decimals as its spread needs."""
    if not math.isfinite(mean):
        return "diverged"
    decimals = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 3
    if spread:
        decimals = max(decimals, -math.floor(math.log10(spread)))
    text = f"{mean:{sign}.{decimals}f}".replace("-", "−")
    return text if spread is None else f"{text}\u00a0±\u00a0{spread:.{decimals}f}"


def _order_table(losses: Mapping[str, Any]) -> list[Content]:
    written: list[list[Content]] = []
    for text, above, verdict in compared_losses(losses):
        shown = number(above.mean, _rounded(above.mean, above.spread, "+"))
        written.append([text, [shown, tag("small", verdict, class_=verdict)]])
    if not written:
        return []
    caption = (
        "What the paper concludes from figure 5, and how much higher the loss of the second "
        "setting is here at the end. After ±: the sum of the two standard deviations."
    )
    return [table(["statement", "ours"], written, caption, class_="tabular narrow")]
