"""The results in the terminal: the same rows as the report, then its path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastheads.report.rows import count, mean_and_spread, ordered, ratio, row_for, system_of

_FULL_WIDTH = 110  # characters; below, the spread goes under its mean


def print_results(
    metrics: Mapping[str, Any], report_path: Path, console: Console | None = None
) -> None:
    """Prints one line a row, then where the report lies.

    Args:
        metrics: the content of ``metrics.json``.
        report_path: the report's path, printed last and alone on its line.
        console: where to print; the terminal by default.
    """
    console = console or Console()
    narrow = console.width < _FULL_WIDTH
    caption = "percent, mean ± standard deviation over seeds"
    table = Table(caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column("row", min_width=14)
    system = system_of(metrics)
    names = [name.replace(" per ", "\n").replace(", ", "\n") for name in system.metrics.values()]
    costs = {name: title.replace(", ", ",\n")
             for name, title in system.costs.items()
             if any(name in values for values in metrics.values())}  # fmt: skip
    base = metrics.get(system.base)
    times = [] if base is None else [f"× {row_for(system.base).short}"]
    for name in (*names, *costs.values(), "multiply\nadds", *times, "para-\nmeters"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in ordered(metrics):
        values = metrics[row.key]
        accuracies = [
            mean_and_spread(values[name]) if name in values else "–" for name in system.metrics
        ]
        if narrow:
            accuracies = [text.replace("\u00a0±", "\n±") for text in accuracies]
        table.add_row(
            Text(row.short),
            *accuracies,
            *(f"{values[name]['mean']:.2f}" if name in values else "–" for name in costs),
            *_costs(values, base),
        )
    console.print(table)
    console.print("report:")
    console.print(str(report_path), soft_wrap=True, markup=False, highlight=False)


def _costs(values: Mapping[str, Any], base: Mapping[str, Any] | None) -> list[str]:
    """Multiply-adds, their ratio to the base row's if there is one, and parameters."""
    macs, parameters = values.get("macs"), values.get("parameters")
    times = [] if base is None else ["–" if macs is None else ratio(macs, base["macs"])]
    counts = ["–" if value is None else count(value) for value in (macs, parameters)]
    return [counts[0], *times, counts[1]]
