"""The rows of networks that skip layers."""

from __future__ import annotations

import re
from dataclasses import replace

from fastheads.report.row import Row, System

TOP_METRICS = {"top1": "top-1", "top5": "top-5"}
# From green for a low target rate to violet for a high one, on a light and on a dark page.
_RATES = {
    30: ("#4b8820", "#94d864"), 40: ("#208831", "#64d877"), 50: ("#20886e", "#64d8bb"),
    60: ("#207788", "#64c5d8"), 70: ("#25659d", "#7cb1de"), 80: ("#25359d", "#7c89de"),
    90: ("#51259d", "#a07cde"),
}  # fmt: skip
STOCHASTIC_DEPTH = Row("stochastic_depth", "stochastic depth", "stochastic depth",
                       "#c24a01", "#f08a4c", "^")  # fmt: skip
_ROWS = (
    Row("plain", "plain network", "plain", "#8a8a85", "#8f8f8a", "s"),
    Row("plain_continued", "plain, trained as long again", "plain, trained on",
        "#4b4b4a", "#d5d5d1", "D"),
    Row("preactivation", "pre-activation network", "pre-activation", "#00767e", "#38b9c3", "v"),
    STOCHASTIC_DEPTH,
    *(Row(f"adaptive_{rate}", f"adaptive, target rate {rate} %", f"adaptive {rate} %", *colors)
      for rate, colors in _RATES.items()),
    Row("adaptive_70_all", "* adaptive 70 %: all layers, scaled by their rates", "* 70 %",
        "#a3123c", "#f27091", "P"),
    Row("adaptive_70_soft", "adaptive 70 %, soft gates in training", "soft 70 %",
        "#9b3f87", "#d87fc5", "D"),
    Row("adaptive_70_sampled", "adaptive 70 %, gates drawn in evaluation", "drawn 70 %",
        "#b48ac7", "#8f73a3", "v"),
    Row("adaptive_70_worded", "adaptive 70 %, each gate held at the rate, as worded",
        "worded 70 %", "#7a5c05", "#c9a941", "D", True),
    Row("random_70", "layers of the same rates, closed at random, 70 %", "random 70 %",
        "#24649c", "#7bb0dd", "o", True),
    Row("budget", "a fixed number of open gates", "fixed number", "#7a5c03", "#c9a93f", "X"),
)  # fmt: skip
ADAPTIVE = System(
    "adaptive", _ROWS, TOP_METRICS, ("top1",), "plain", False,
    {"layers": "layers", "ms_1": "ms, at 1", "ms_32": "ms, at 32"},
)  # fmt: skip
_TEMPLATES = {row.key: row for row in _ROWS}


def target_rate(key: str) -> float | None:
    """The target rate of a row such as ``adaptive_70``, 0.7; None for any other row."""
    found = re.fullmatch(r"adaptive_(\d+)", key)
    return int(found[1]) / 100 if found else None


def budget_of(key: str) -> int | None:
    """The number of open gates of a row such as ``budget_7``; None for any other row."""
    found = re.fullmatch(r"budget_(\d+)", key)
    return int(found[1]) if found else None


def rate_row(key: str) -> Row | None:
    """The row of another rate or budget than those listed; None if ``key`` is not of that form."""
    if (budget := budget_of(key)) is not None:
        short = f"exactly {budget}"
        name = f"{short} of the gates open"
        return replace(_TEMPLATES["budget"], key=key, name=name, short=short, like="budget")
    found = re.fullmatch(r"((?:adaptive|random)_)(\d+)(_[a-z]+)?", key)
    template = found and _TEMPLATES.get(f"{found[1]}70{found[3] or ''}")
    if not found or not template:
        return None
    name, short = (
        text.replace("70 %", f"{found[2]} %") for text in (template.name, template.short)
    )
    return replace(template, key=key, name=name, short=short, like=template.key)
