"""The results in the terminal: ours, with the best peer of the same case."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .harness import Row, is_ours, line_ups
from .readme_figures import duration

HEADER = ("operation", "shape", "dtype", "ours", "time", "best peer", "time", "ratio", "GB/s",
          "GMAC/s")  # fmt: skip
LEFT = 4  # columns of words


def print_table(rows: Sequence[Row]) -> None:
    """Prints one line for each row of ours: in colour on a terminal, else as plain columns."""
    lines = [_line(row, case) for case in line_ups(rows).values() for row in case
             if is_ours(row["provider"])]  # fmt: skip
    if not lines:
        return
    print()
    try:
        if not sys.stdout.isatty():
            raise ImportError
        _print_rich(lines)
    except ImportError:
        widths = [max(map(len, column)) for column in zip(HEADER, *lines, strict=True)]
        for line in (HEADER, *lines):
            cells = [
                text.ljust(width) if i < LEFT or i == 5 else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            print("  ".join(cells).rstrip())
    print("\nratio: above 1 is faster than the best peer of the same run")


def _line(row: Row, case: Sequence[Row]) -> tuple[str, ...]:
    peers = [each for each in case if not is_ours(each["provider"])]
    best = min(peers, key=lambda each: float(each["median_us"]), default=None)
    nanoseconds = float(row["median_us"]) * 1e3
    operation = row["op"] if row["pass"] == "forward" else f"{row['op']}, {row['pass']}"
    against = (best["provider"], duration(best["median_us"])) if best else ("", "")
    ratio = f"{float(best['median_us']) / float(row['median_us']):.2f}" if best else ""
    amounts = [float(row[name] or 0) for name in ("bytes", "macs")]
    rates = [f"{amount / nanoseconds:.3g}" if amount else "" for amount in amounts]
    words = (operation, row["shape"], row["dtype"], row["provider"])
    return (*words, duration(row["median_us"]), *against, ratio, *rates)


def _print_rich(lines: Sequence[tuple[str, ...]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, name in enumerate(HEADER):
        table.add_column(name, justify="left" if i < LEFT or i == 5 else "right")
    for line in lines:
        style = "" if not line[7] else "bold green" if float(line[7]) >= 1 else "red"
        cells = [Text(text, style if i == 7 else "") for i, text in enumerate(line)]
        table.add_row(*cells)
    Console().print(table)
