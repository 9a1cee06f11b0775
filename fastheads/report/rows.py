"""The rows of every system, found by their keys; and how values print."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fastheads.report.row import Row, System
from fastheads.report.rows_adaptive import ADAPTIVE, TOP_METRICS, rate_row
from fastheads.report.rows_augment import AUGMENT, METRICS
from fastheads.report.rows_concentrate import CONCENTRATE, VERTICAL_METRICS
from fastheads.report.rows_lesion import LESION
from fastheads.report.rows_stream import STREAM, STREAM_METRICS, stream_row

METRIC_NAMES = METRICS | VERTICAL_METRICS | TOP_METRICS | STREAM_METRICS
SYSTEMS = {system.name: system for system in (AUGMENT, CONCENTRATE, ADAPTIVE, LESION, STREAM)}
SPARE_COLORS = (("#7a5c00", "#c9a83c"), ("#5b4bb5", "#a79cf2"), ("#a3123a", "#f2708f"))
_BY_KEY = {row.key: row for system in SYSTEMS.values() for row in system.rows}
ROWS = tuple(_BY_KEY.values())


def system_of(metrics: Mapping[str, Any]) -> System:
    """The system whose main metric a ``metrics.json`` holds, and most of whose rows."""
    held = {name for row in metrics.values() for name in row}
    fitting = [system for system in SYSTEMS.values() if system.main in held]
    return _system_with(map(row_for, metrics), fitting)


def row_for(key: str, others: Iterable[str] = ()) -> Row:
    """The row called ``key``; one that is not known is named after its key.

    Args:
        key: a key of ``metrics.json``.
        others: all keys shown together, which tell the system, and unknown rows' colours apart.
    """
    others = list(others)
    if row := stream_row(key, others):
        return row
    if key in _BY_KEY:
        return _BY_KEY[key]
    if row := rate_row(key):
        return row
    unknown = [other for other in others if other not in _BY_KEY]
    position = unknown.index(key) if key in unknown else 0
    color, dark = SPARE_COLORS[position % len(SPARE_COLORS)]
    name = key.replace("_", " ").replace("{", "(").replace("}", ")")
    return Row(key, name, name, color, dark, "X")


def ordered(keys: Iterable[str]) -> list[Row]:
    """The rows of ``keys`` in the order of their system's tables, unknown ones last."""
    keys = list(keys)
    rows = [row_for(key, keys) for key in keys]
    places = {row.key: place for place, row in enumerate(_system_with(rows).rows)}

    def place(row: Row) -> tuple[int, int]:
        number = re.search(r"\d+", row.key) if row.like else None
        return places.get(row.like or row.key, len(places)), int(number[0]) if number else 0

    return sorted(rows, key=place)


def _system_with(rows: Iterable[Row], systems: Iterable[System] = SYSTEMS.values()) -> System:
    """The system that has most of these rows; some rows belong to two."""
    keys = {row.like or row.key for row in rows}
    return max(systems, key=lambda system: sum(row.key in keys for row in system.rows))


def full_name(row: Row, heads: int | None = None) -> str:
    """The row's name in a table, with the number of heads if it is known."""
    return row.name.format(heads="" if heads is None else f"{heads} ")


def spread(metric: Mapping[str, Any]) -> float:
    """The standard deviation over seeds; 0 if there is only one seed or none is given."""
    std = metric.get("std")
    return 0.0 if std is None or math.isnan(std) else float(std)


def percent(value: float | None) -> str:
    """A fraction as percent with two decimals and no sign: ``0.3941`` is ``39.41``."""
    return "n/a" if value is None or math.isnan(value) else f"{100 * value:.2f}"


def mean_and_spread(metric: Mapping[str, Any]) -> str:
    """``mean ± std`` in percent; the mean alone if there is one seed."""
    mean = percent(metric["mean"])
    if len(metric.get("seeds", ())) == 1:
        return mean
    return f"{mean}\u00a0±\u00a0{percent(spread(metric))}"  # never broken over two lines


def count(value: float) -> str:
    """A large count with three digits and its unit: ``1,520,000`` is ``1.52 M``."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            scaled = value / size
            digits = max(0, 2 - math.floor(math.log10(abs(scaled) * 1.0005)))
            return f"{scaled:.{digits}f} {unit}"
    return f"{value:.0f}"


def ratio(value: float, base: float) -> str:
    """``value`` as a multiple of ``base``, with three decimals: ``1.026×``."""
    return f"{value / base:.3f}×" if base else "n/a"


def points(value: float) -> str:
    """A difference of fractions in percentage points, always with its sign."""
    return f"{100 * value:+.2f}".replace("-", "−")


def byte_count(value: float) -> str:
    """A number of bytes with three digits and its unit: ``1,520,000`` is ``1.52 MB``."""
    text = count(value).replace("B", "G")
    return f"{text}B" if " " in text else f"{text} B"


def milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
