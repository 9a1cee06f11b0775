"""The rows of each system: order, names, colours, published numbers; and how values print."""

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
VERTICAL_METRICS = {
    "mpvap": "mpvap",
    "mpvap_per_label": "mpvap per label",
    "top1": "top-1",
    "top5": "top-5",
}
METRIC_NAMES = METRICS | VERTICAL_METRICS


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
        hollow: shown hollow and dashed: a control of the row with the same marker.
        paper: what the paper publishes, first the main metric (a fraction), then its costs.
    """

    key: str
    name: str
    short: str
    color: str
    dark: str
    marker: str = "o"
    hollow: bool = False
    paper: tuple[float, ...] | None = None


@dataclass(frozen=True)
class System:
    """A system whose runs have a report.

    Attributes:
        name: its name in ``analysis.json``.
        rows: in the order of its tables.
        metrics: key and title of each accuracy, the main one first.
        required: the accuracies that every row has.
        base: the row whose cost the others' costs are multiples of.
        needs_base: whether a run without that row is incomplete.
    """

    name: str
    rows: tuple[Row, ...]
    metrics: dict[str, str]
    required: tuple[str, ...]
    base: str
    needs_base: bool

    @property
    def main(self) -> str:
        """The key of the main metric."""
        return next(iter(self.metrics))


# Published: mAP@50, multiply-adds and their ratio to the base network. Warde-Farley, Rabinovich,
# Anguelov, 'Self-informed neural network structure learning', 2015, section 5.2.
_AUGMENT = (
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
# Published: mpvap and parameters. Gao, Guo, Li, Nevatia, 'Knowledge Concentration: Learning 100K
# Object Classifiers in a Single CNN', 2017, tables 1 to 5.
_CONCENTRATE = (
    Row("generalist", "FC-FC from annotations: the generalist", "generalist",
        "#8a8a87", "#8f8f8c", "s", False, (0.277, 98e6)),
    Row("sc_sc_annotated", "SC-SC from annotations", "SC-SC, annotations",
        "#6d8f84", "#6c9488", "D", True, (0.276, 155e6)),
    Row("fc_fc", "FC-FC, distilled", "FC-FC + D", "#0b63a9", "#4ba4ef", "s", False, (0.315, 98e6)),
    Row("fc_sc", "FC-SC, distilled", "FC-SC + D", "#c24b01", "#f18b4c", "o", False, (0.329, 135e6)),
    Row("sc_sc", "SC-SC, distilled", "SC-SC + D", "#00815e", "#2ec19b", "D", False, (0.319, 155e6)),
    Row("fc_sc_generic_25", "FC-SC, distilled, a quarter generic", "generic quarter",
        "#b48ac6", "#7f6391", "v", False, (0.328, 127e6)),
    Row("fc_sc_generic_50", "FC-SC, distilled, half generic", "generic half",
        "#9b62b3", "#a078b8", "v", False, (0.324, 117e6)),
    Row("fc_sc_generic_75", "FC-SC, distilled, three quarters generic", "generic three quarters",
        "#7f3f9b", "#c295d8", "v", False, (0.314, 108e6)),
    Row("paced", "FC-SC, distilled, self-paced: (4) γ a vertical, from √N", "self-paced (4)",
        "#a3123b", "#f27090", "^", False, (0.379, 135e6)),
    Row("paced_label", "self-paced: (5) γ a label, from √N", "self-paced (5)",
        "#5b4bb6", "#a89df3", "v", False, (0.328, 135e6)),
    Row("paced_fixed", "self-paced: (1) γ a vertical, fixed at √N", "self-paced (1)",
        "#7a5c01", "#c9a93d", "s"),
    Row("paced_10", "self-paced: (2) γ a vertical, from 10", "self-paced (2)",
        "#00767f", "#38b9c4", "D"),
    Row("paced_label_10", "self-paced: (3) γ a label, from 10", "self-paced (3)",
        "#4c4c4a", "#d4d5d0", "P"),
    Row("worded", "as worded, bias inside: (4) γ a vertical, from √N", "worded (4)",
        "#c8657e", "#b85870", "^", True),
    Row("worded_label", "as worded, bias inside: (5) γ a label, from √N", "worded (5)",
        "#9287d3", "#7d73bd", "v", True),
    Row("worded_fixed", "as worded, bias inside: (1) γ a vertical, fixed at √N", "worded (1)",
        "#b39a4d", "#94803a", "s", True),
    Row("worded_10", "as worded, bias inside: (2) γ a vertical, from 10", "worded (2)",
        "#4fa6ad", "#2c878f", "D", True),
    Row("worded_label_10", "as worded, bias inside: (3) γ a label, from 10", "worded (3)",
        "#86868a", "#97979c", "P", True),
    Row("found", "FC-SC, distilled, on found verticals", "found verticals",
        "#5f8a00", "#a3cc4a", "o"),
    Row("found_paced", "FC-SC, distilled, self-paced, on found verticals",
        "found verticals, self-paced", "#3f6b1f", "#8fb86c", "^"),
    Row("specialists", "specialists, one a vertical", "specialists",
        "#1f2a44", "#dfe6f5", "P", False, (0.680, 2260e6)),
)  # fmt: skip
AUGMENT = System("augment", _AUGMENT, METRICS, tuple(METRICS), "base", True)
CONCENTRATE = System("concentrate", _CONCENTRATE, VERTICAL_METRICS, ("mpvap",), "generalist", False)
SYSTEMS = {system.name: system for system in (AUGMENT, CONCENTRATE)}
ROWS = tuple(row for system in SYSTEMS.values() for row in system.rows)
SPARE_COLORS = (("#7a5c00", "#c9a83c"), ("#5b4bb5", "#a79cf2"), ("#a3123a", "#f2708f"))
_BY_KEY = {row.key: row for row in ROWS}


def system_of(metrics: Mapping[str, Any]) -> System:
    """The system whose main metric the rows of a ``metrics.json`` hold."""
    held = {name for row in metrics.values() for name in row}
    return next(system for system in SYSTEMS.values() if system.main in held)


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
    """The rows of ``keys`` in the order of their system's tables, unknown ones last."""
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


def points(value: float) -> str:
    """A difference of fractions in percentage points, always with its sign."""
    return f"{100 * value:+.2f}".replace("-", "−")


def byte_count(value: float) -> str:
    """A number of bytes with three digits and its unit: ``1,520,000`` is ``1.52 MB``."""
    text = count(value).replace("B", "G")
    return f"{text}B" if " " in text else f"{text} B"


def milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
