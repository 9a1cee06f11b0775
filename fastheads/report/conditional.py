"""The section on evaluating only some groups: accuracy against multiply-adds and latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report import figures
from fastheads.report.blocks import legend, mark
from fastheads.report.page import Content, number, paragraph, side_by_side, table, tag
from fastheads.report.rows import METRICS, count, milliseconds, ordered, percent, ratio, row_for


def conditional_section(
    entries: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    latency: Mapping[str, Mapping[str, float]],
) -> list[Content]:
    """Accuracy against multiply-adds and latency when only some groups are evaluated.

    Args:
        entries: the entries of ``conditional`` in ``analysis.json``.
        metrics: the content of ``metrics.json``.
        latency: for each row, milliseconds by batch size.
    """
    if not entries:
        return []
    base, base_ms = metrics["base"], latency.get("base", {})
    top1 = base["top1"]["mean"]
    keys = {entry["grouping"] for entry in entries}
    sizes = set.intersection(*(set(entry.get("latency_ms", {})) for entry in entries))
    batches = sorted(sizes, key=int)
    charts = [
        figures.conditional(
            entries,
            "top1",
            "macs",
            base["macs"],
            (1.0, top1),
            alt="Top-1 against multiply-adds for each number of groups.",
        )
    ]
    charts += [
        figures.conditional(entries, "top1", size,
                            base=(base_ms[size], top1) if size in base_ms else None,
                            alt=f"Top-1 against milliseconds a batch of {size} images.")
        for size in batches
    ]  # fmt: skip
    names = [name for name in METRICS if all(name in entry for entry in entries)]
    header = ["groups evaluated", *(METRICS[name] for name in names),
              "right group among them", "multiply-adds", "× base",
              *(f"ms, batch of {size}" for size in batches)]  # fmt: skip
    means = {name: base[name]["mean"] for name in names}
    written = [
        _conditional_cells("base", "none: base network",
                           {**means, "macs": base["macs"], "latency_ms": base_ms},
                           names, base["macs"], batches)
    ]  # fmt: skip
    order = {row.key: position for position, row in enumerate(ordered(keys))}
    for entry in sorted(entries, key=lambda entry: (order[entry["grouping"]], entry["groups"])):
        share = "all" if entry["groups"] == entry["of"] else str(entry["groups"])
        name = f"{share} of {entry['of']}, {row_for(entry['grouping']).short}"
        written.append(
            _conditional_cells(entry["grouping"], name, entry, names, base["macs"], batches)
        )
    caption = (
        "Accuracies in percent, means over the seeds. “Right group among them”: share of the test "
        "images with an annotated label in one of the groups that were evaluated. Latency is that "
        "of the whole network, the median of repeated runs on the machine named below."
    )
    return [
        paragraph(
            "The base network points at the groups that an image may belong to; only their heads "
            "and only their labels are then computed. The numbers beside the markers say how many "
            "groups were evaluated: upwards and to the left is better."
        ),
        legend({*keys, "base"}),
        side_by_side(*(tag("figure", drawn) for drawn in charts)),
        table(header, written, caption),
    ]


def _conditional_cells(
    key: str,
    name: str,
    entry: Mapping[str, Any],
    names: list[str],
    base_macs: float,
    batches: list[str],
) -> list[Content]:
    cells: list[Content] = [[mark(row_for(key)), name]]
    cells += [number(entry[metric], percent(entry[metric])) for metric in names]
    recall = entry.get("recall")
    cells.append("–" if recall is None else number(recall, percent(recall)))
    cells += [number(entry["macs"], count(entry["macs"])), ratio(entry["macs"], base_macs)]
    ms = entry["latency_ms"] if batches else {}
    return cells + [number(ms[s], milliseconds(ms[s])) if s in ms else "–" for s in batches]
