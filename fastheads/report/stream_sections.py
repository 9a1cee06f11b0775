"""The sections on guards, arrivals, retraining, time and costs of streamed labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report.blocks import legend, mark
from fastheads.report.page import (
    Content,
    figure,
    number,
    paragraph,
    side_by_side,
    table,
    tag,
)
from fastheads.report.rows import Row, count, milliseconds, ordered, ratio, row_for
from fastheads.report.rows_stream import NETWORKS
from fastheads.report.stream_figures import arrival_curves, change_scatter, epoch_curves
from fastheads.report.stream_guard_findings import (
    arrivals_sentence,
    beside_retraining,
    retraining_ratio,
    seconds,
    times,
)
from fastheads.report.stream_measures import MAIN, guards_of, keeps, ratio_of
from fastheads.report.stream_tables import change_cell, paper_cell, value_cell

# Seconds of an epoch on base and on streamed pictures; the first row is a single-label network.
TABLE_5 = {
    "resnet": (403.7, 20.9), "senet": (417.2, 25.3), "senet_2x": (421.4, 26.7),
    "senet_4x": (425.6, 24.2), "senet_r8": (408.2, 25.8), "senet_r32": (406.4, 20.6),
    "senet_sqrt": (402.7, 19.7), "inception_96": (587.4, 37.1), "inception_48": (305.6, 16.8),
}  # fmt: skip
SINGLE_TARGET = (395.7, 394.3)
_ARRIVALS = {
    "original_top5": "base pictures, top-5, %",
    "learned_all": "pictures of the arrivals so far, all labels, %",
    "first_all": "pictures of the first arrival, all labels, %",
}


_LIMITED = {True: "within", False: "beyond", None: "not decided"}


def _seconds(row: Mapping[str, Any], name: str) -> Content:
    if name not in row:
        return "–"
    text = seconds(row[name])
    if len(row[name].get("seeds", ())) > 1:
        text += f"\u00a0±\u00a0{row[name]['std']:.2f}"
    return number(row[name]["mean"], text)


def _named(row: Row, kept: str | None) -> Content:
    remark = "no guard, as in the paper" if row.key == kept else None
    return [mark(row), row.name, tag("small", remark) if remark else None]


def guards_section(rows: Mapping[str, Any], kept: str | None) -> list[Content]:
    """Each guard on the kept network: what it keeps, what it learns, what it costs."""
    shown = guards_of(rows, kept)
    if len(shown) < 2 or kept is None:
        return []
    written: list[list[Content]] = []
    for row in ordered(shown):
        values = rows[row.key]
        written.append([
            _named(row, kept), value_cell(values, "original_top5"), change_cell(values),
            _LIMITED[keeps(values)], value_cell(values, MAIN),
            *(value_cell(values, name) for name in ("streamed_all", "streamed_exact")),
            change_cell(values, "learned"), _seconds(values, "stream_seconds"),
        ])  # fmt: skip
    header = ["", "original", "change", "3 points", "streamed", "all labels", "exact",
              "learned", "seconds"]  # fmt: skip
    caption = (
        f"{row_for(kept).short} learns the stream with each guard; columns as above. "
        "3 points: whether the change stays within that limit beyond its spread over seeds. "
        "Learned: what the stream adds to the share of streamed test pictures with all labels "
        "among the best five. Seconds: one whole learning of the stream."
    )
    alt = "Streamed top-5 against the change on base pictures, a marker a guard."
    drawn = {key: rows[key] for key in shown}
    return [
        paragraph(
            "Against forgetting, the paper counts on the choice of the network. Here others' "
            "measures are tried on one network, one at a time and some together."
        ),
        table(header, written, caption, "lrrlrrrrr"),
        legend(shown),
        figure(change_scatter(drawn, "here", alt=alt),
               "As in figure 13; the band is the limit of 3 points."),
    ]  # fmt: skip


def arrivals_section(
    rows: Mapping[str, Any], analysis: Mapping[str, Any], kept: str | None, best: str | None
) -> list[Content]:
    """Accuracy over successive arrivals, with its spread over seeds."""
    arrivals = analysis.get("arrivals") or {}
    shown = arrivals.get("rows") or {}
    charts = []
    for name, title in _ARRIVALS.items():
        held = {key: values[name] for key, values in shown.items() if values.get(name)}
        if held:
            alt = f"{title}, by the number of arrivals learned."
            charts.append(tag("figure", arrival_curves(held, title, arrivals["count"], alt=alt)))
    if not charts:
        return []
    said = arrivals_sentence(shown, arrivals["count"], kept, best)
    return [
        paragraph(
            f"The kinds of streamed pictures come in {arrivals['count']} arrivals, one after the "
            "other; each is learned without the pictures of those before. ", said,
        ),
        legend(shown),
        side_by_side(*charts),
        paragraph("Means and standard deviations over seeds.", class_="small"),
    ]  # fmt: skip


def retraining_section(
    rows: Mapping[str, Any], analysis: Mapping[str, Any], kept: str | None, best: str | None
) -> list[Content]:
    """Learning the stream against retraining from scratch: accuracy and time."""
    beside = beside_retraining(analysis, best)
    shown = [key for key in dict.fromkeys((kept, best, beside, "retrained")) if key and key in rows]
    if "retrained" not in rows or len(shown) < 2:
        return []
    written: list[list[Content]] = []
    for row in ordered(shown):
        values = rows[row.key]
        own = "base_seconds" if row.key == "retrained" else "stream_seconds"
        accuracies = (value_cell(values, name) for name in ("original_top5", MAIN, "streamed_all"))
        written.append([_named(row, kept), *accuracies, _seconds(values, own)])
    header = ["", "base pictures, top-5", "streamed, top-5", "all labels", "seconds"]
    found = retraining_ratio(rows, analysis, beside)
    caption = "Test accuracy in percent, and the time of learning the stream or of training anew."
    if found is not None and beside is not None:
        caption += f" Retraining takes {times(found)} as long as “{row_for(beside).short}”."
    caption += " The paper: 4 epochs of a stream against 15 on everything, up to 30 times."
    return [table(header, written, caption)]


def epochs_section(analysis: Mapping[str, Any]) -> list[Content]:
    """Figure 6: accuracy by epoch of base training."""
    by_row: dict[str, list[Mapping[str, Any]]] = {}
    for entry in analysis.get("epochs") or []:
        if entry["epoch"]:
            by_row.setdefault(entry["row"], []).append(entry)
    blocks: list[Content] = []
    for row in sorted(ordered(by_row), key=lambda row: row.key != "senet"):
        entries = by_row[row.key]
        alt = f"{{}} of {row.short} over the epochs, in training and validation."
        drawn = [tag("figure", epoch_curves(entries, metric, alt=alt.format(metric)))
                 for metric in ("top1", "top5")]  # fmt: skip
        blocks += [tag("h3", f"Figure 6: {row.short}"), side_by_side(*drawn)]
    return blocks


def times_section(rows: Mapping[str, Any]) -> list[Content]:
    """Table 5: seconds of an epoch on base and on streamed pictures."""
    names = ("base_epoch_seconds", "stream_epoch_seconds")
    keys = [row.key for row in NETWORKS if any(name in rows.get(row.key, {}) for name in names)]
    if not keys:
        return []
    written: list[list[Content]] = []
    for row in ordered(keys):
        values, paper = rows[row.key], TABLE_5.get(row.key, (None, None))
        cells: list[Content] = [[mark(row), row.name]]
        for name, published in zip(names, paper, strict=True):
            cells += [_seconds(values, name), paper_cell(published, f"{published or 0:.1f}")]
        written.append([*cells, *_faster(values, names, paper)])
    single: list[Content] = ["single-label ResNet, trained on everything again"]
    for published in SINGLE_TARGET:
        single += ["–", paper_cell(published, f"{published:.1f}")]
    written.append([*single, *_faster({}, names, SINGLE_TARGET)])
    header = ["", "base epoch, s", "paper", "streamed epoch, s", "paper", "ratio", "paper"]
    caption = (
        "The paper's table 5, on 20,000 base and 1,000 streamed photographs and a Tesla K80; ours "
        "on this run's pictures and machine. Training alone, without validation. Ratio: of the two "
        "epochs."
    )
    return [tag("h3", "Table 5: time of an epoch"), table(header, written, caption)]


def _faster(
    values: Mapping[str, Any], names: Sequence[str], paper: Sequence[float | None]
) -> list[Content]:
    """How many times longer an epoch on base pictures takes, here and in the paper."""
    base, stream = (values.get(name) for name in names)
    found = ratio_of(base, stream) if base and stream else None
    first, second = paper
    theirs = first / second if first and second else None
    return ["–" if found is None else number(found["mean"], times(found)),
            paper_cell(theirs, f"{theirs or 0:.1f}×")]  # fmt: skip


def costs_section(rows: Mapping[str, Any], analysis: Mapping[str, Any]) -> list[Content]:
    """Parameters, multiply-adds and time of inference of each network."""
    given = (analysis.get("costs") or {}).get("rows") or {}
    costs = {row.key: {**rows.get(row.key, {}), **given.get(row.key, {})} for row in NETWORKS
             if row.key in given or "macs" in rows.get(row.key, {})}  # fmt: skip
    if not costs:
        return []
    base = costs.get("resnet") or {}
    titles = {"parameters": "parameters", "macs": "multiply-adds", "ms_1": "ms, one image",
              "ms_32": "ms an image, batch of 32"}  # fmt: skip
    held = [name for name in titles if any(name in row for row in costs.values())]
    written: list[list[Content]] = [
        [[mark(row), row.name], *(_cost(costs[row.key], base, name) for name in held)]
        for row in ordered(costs)
    ]
    caption = "Below each number its ratio to the plain ResNet's. Times on this run's machine."
    header = ["", *(titles[name] for name in held)]
    return [tag("h3", "What a network costs"), table(header, written, caption)]


def _cost(row: Mapping[str, Any], base: Mapping[str, Any], name: str) -> Content:
    value, unit = (cost["mean"] if isinstance(cost, Mapping) else cost for cost in
                   (row.get(name), base.get(name)))  # fmt: skip
    if value is None:
        return "–"
    text = milliseconds(value) if name.startswith("ms") else count(value)
    return [number(value, text), tag("small", ratio(value, unit)) if unit else None]
