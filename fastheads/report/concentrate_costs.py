"""What a student costs and gains beside its specialists; soft targets on disk; training times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastheads.report.blocks import bar, legend, mark
from fastheads.report.concentrate_figures import size_and_accuracy
from fastheads.report.concentrate_findings import SETTINGS, worded
from fastheads.report.page import (
    Content,
    Html,
    details,
    figure,
    number,
    paragraph,
    side_by_side,
    table,
)
from fastheads.report.rows import (
    byte_count,
    count,
    mean_and_spread,
    milliseconds,
    ordered,
    row_for,
)

# The settings of self-pacing that fail in the paper would only hide the others.
_LEFT_OUT = ("paced_fixed", "paced_10", "paced_label_10", *map(worded, SETTINGS))


def costs_section(
    analysis: Mapping[str, Any], metrics: Mapping[str, Any], student: str | None
) -> list[Content]:
    """Student against specialists, and every row by its size and accuracy."""
    blocks: list[Content] = []
    if student is not None and "specialists" in metrics:
        blocks.append(_against_specialists(analysis, metrics, student))
    shown = {key: row for key, row in metrics.items() if key not in _LEFT_OUT}
    if len(shown) > 1:
        drawn = size_and_accuracy(shown, "mpvap", alt="mpvap over parameters, a marker a row.")
        caption = (
            "mpvap over the number of parameters of trunk and head (logarithmic; the specialists "
            "all together): upwards and to the left is better."
        )
        blocks.append(figure([legend(shown), drawn], caption))
    return [side_by_side(*blocks)] if blocks else []


def _against_specialists(
    analysis: Mapping[str, Any], metrics: Mapping[str, Any], student: str
) -> Html:
    ours, theirs = metrics[student], metrics["specialists"]
    written: list[list[Content]] = [
        ["mpvap, %", *(number(row["mpvap"]["mean"], mean_and_spread(row["mpvap"]))
                       for row in (ours, theirs)),
         times(theirs["mpvap"]["mean"], ours["mpvap"]["mean"])],
        _pair("parameters", ours["parameters"], theirs["parameters"], count),
        _pair("multiply-adds", ours["macs"], theirs["macs"], count),
    ]  # fmt: skip
    latency = analysis.get("latency_ms") or {}
    left, right = (latency.get(key) or {} for key in ("student", "specialists"))
    for size in sorted({*left, *right}, key=int):
        name = "ms, one image" if size == "1" else f"ms, batch of {size}"
        written.append(_pair(name, left.get(size), right.get(size), milliseconds))
    memory = analysis.get("memory_bytes") or {}
    if memory:
        written.append(
            _pair("memory", memory.get("student"), memory.get("specialists"), byte_count)
        )
    row = row_for(student)
    caption = (
        "One student against all specialists together: to classify an image of any vertical, each "
        "of them has to be asked. Latency is the median of repeated runs on the machine below."
    )
    header = ["", [mark(row), row.short], [mark(row_for("specialists")), "specialists"],
              "specialists over student"]  # fmt: skip
    return table(header, written, caption, class_="narrow")


def times(value: float | None, unit: float | None) -> str:
    """``value`` as a multiple of ``unit``, with two decimals; a dash if one is missing."""
    return "–" if value is None or not unit else f"{value / unit:.2f}×"


def _pair(
    name: str, ours: float | None, theirs: float | None, text: Callable[[float], str]
) -> list[Content]:
    cells: list[Content] = [name]
    cells += ["–" if value is None else number(value, text(value)) for value in (ours, theirs)]
    return [*cells, times(theirs, ours)]


def storage_section(analysis: Mapping[str, Any]) -> list[Content]:
    """What the specialists' probabilities take on disk, beside dense storage."""
    stored = analysis.get("soft_targets") or {}
    if not stored:
        return []
    formats: dict[str, tuple[str, Callable[[Any], str]]] = {
        "rows": ("pictures", "{:,}".format),
        "top_k": ("best labels kept of each specialist", "{:,}".format),
        "entries": ("probabilities", "{:,}".format),
        "mass_kept": ("share of the probability kept", lambda share: f"{100 * share:.2f} %"),
        "bytes": ("size", byte_count),
        "bytes_per_row": ("a picture", byte_count),
        "dense_bytes": ("all labels of each picture would take", byte_count),
        "seconds": ("seconds to ask the specialists", "{:.1f}".format),
        "rows_per_second": ("pictures a second", "{:,.0f}".format),
    }
    written: list[list[Content]] = [
        [name, number(stored[key], text(stored[key]))]
        for key, (name, text) in formats.items()
        if stored.get(key) is not None
    ]
    saved = ""
    if stored.get("bytes") and stored.get("dense_bytes"):
        saved = f" They take {stored['dense_bytes'] / stored['bytes']:.1f} times less than dense."
    return [
        paragraph(
            "The specialists are asked once for every picture that the students see, augmented as "
            "they see it; what they answer is kept in files." + saved
        ),
        table(
            ["soft targets", "of this run"],
            written,
            "“All labels” is dense storage: a number for each label of each picture.",
            class_="narrow",
        ),
    ]


def training_times(curves: Sequence[Mapping[str, Any]]) -> list[Content]:
    """Seconds of training of each row, mean over its seeds."""
    seconds: dict[str, list[float]] = {}
    for curve in curves:
        if curve.get("seconds") is not None:
            seconds.setdefault(curve["row"], []).append(curve["seconds"])
    if not seconds:
        return []
    means = {key: sum(values) / len(values) for key, values in seconds.items()}
    longest = max(means.values())
    written: list[list[Content]] = [
        [
            [mark(row), row.short],
            number(means[row.key], f"{means[row.key]:.1f}"),
            bar(means[row.key], longest),
        ]
        for row in ordered(means)
    ]
    caption = "Seconds to train a row, mean over its seeds."
    shown = table(["", "seconds", ""], written, caption, "lrl", "narrow")
    return [details("Seconds of each row", shown)]
