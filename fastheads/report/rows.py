"""The rows of a comparison: order, names, colours, the published numbers, and how values print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

METRICS = {
    "map50_per_label": "mAP@50 per label",
    "map50_per_image": "mAP@50 per image",
    "top1": "top-1",
    "top5": "top-5",
}


@dataclass(frozen=True)
class Row:
    """How a row of the results is shown, the same in every table and figure.

    Attributes:
        key: the row's key in ``metrics.json``.
        name: the full name, with ``{heads}`` where the number of heads goes.
        short: the name in figures.
        color: on a light page.
        dark: the same colour on a dark page.
        marker: matplotlib's marker, so that no figure rests on colour alone.
        random: groups were drawn at random; shown hollow and dashed.
        paper: published mAP@50 (a fraction), multiply-adds and their ratio to the base network:
            Warde-Farley, Rabinovich, Anguelov, 'Self-informed neural network structure
            learning', 2015, section 5.2.
    """

    key: str
    name: str
    short: str
    color: str
    dark: str
    marker: str = "o"
    random: bool = False
    paper: tuple[float, float, float] | None = None


ROWS = (
    Row("base", "base network", "base", "#8a8a86", "#8f8f8b", "s", False, (0.3680, 1.52e9, 1.0)),
    Row("retrained", "base, classifier retrained equally long", "classifier retrained",
        "#4b4b49", "#d5d5d0", "D"),
    Row("confusions", "base + {heads}heads, confusions", "confusions",
        "#0b62a8", "#4aa3ee", "o", False, (0.3941, 1.56e9, 1.026)),
    Row("randomized_confusions", "base + {heads}heads, randomized confusions",
        "randomized confusions", "#4a9fd6", "#3780bf", "o", True, (0.3297, 1.56e9, 1.026)),
    Row("co_detections", "base + {heads}heads, co-detections", "co-detections",
        "#c24a00", "#f08a4b", "^", False, (0.3807, 1.60e9, 1.053)),
    Row("randomized_co_detections", "base + {heads}heads, randomized co-detections",
        "randomized co-detections", "#d88f26", "#b5731f", "^", True, (0.3213, 1.60e9, 1.053)),
    Row("fine_tuned", "everything fine-tuned at the end", "fine-tuned",
        "#00805f", "#2fc09a", "v"),
    Row("second_round", "second round on the augmented network", "second round",
        "#9b3f86", "#d87fc4", "P"),
)  # fmt: skip
SPARE_COLORS = (("#7a5c00", "#c9a83c"), ("#5b4bb5", "#a79cf2"), ("#a3123a", "#f2708f"))
_BY_KEY = {row.key: row for row in ROWS}


def row_for(key: str, others: Iterable[str] = ()) -> Row:
    """The row called ``key``; one that is not known is named after its key.

    Args:
        key: a key of ``metrics.json``.
        others: all keys shown together, so that unknown rows differ in colour.
    """
    if key in _BY_KEY:
        return _BY_KEY[key]
    unknown = [other for other in others if other not in _BY_KEY]
    position = unknown.index(key) if key in unknown else 0
    color, dark = SPARE_COLORS[position % len(SPARE_COLORS)]
    name = key.replace("_", " ").replace("{", "(").replace("}", ")")
    return Row(key, name, name, color, dark, "X")


def ordered(keys: Iterable[str]) -> list[Row]:
    """The rows of ``keys`` in the order of the published table, unknown ones last."""
    keys = list(keys)
    known = [row for row in ROWS if row.key in keys]
    return known + [row_for(key, keys) for key in keys if key not in _BY_KEY]


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
