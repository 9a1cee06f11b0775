"""The sections on verticals: the paper's tables 4 and 6, learned factors, given against found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report import concentrate_figures
from fastheads.report.blocks import legend, mark
from fastheads.report.page import (
    Content,
    Html,
    details,
    figure,
    label,
    number,
    paragraph,
    side_by_side,
    table,
    tag,
)
from fastheads.report.rows import count, mean_and_spread, ordered, row_for

TABLE_4 = ("generalist", "fc_fc", "fc_sc", "paced", "specialists")
_EFT = {
    "aircraft": (22.7, 25.8, 27.5, 37.3, 67.9),
    "bird": (33.4, 42.8, 44.7, 51.6, 82.9),
    "car": (51.8, 55.5, 55.9, 59.2, 74.2),
    "dish": (21.5, 24.3, 26.9, 33.0, 71.9),
    "drink": (30.8, 34.0, 35.2, 38.8, 72.9),
    "gadget": (38.4, 42.2, 44.7, 52.4, 82.4),
    "hardware": (28.6, 31.9, 32.9, 34.5, 59.6),
    "home & garden": (34.6, 38.4, 39.3, 42.8, 76.6),
    "house": (26.6, 27.9, 28.6, 33.5, 78.6),
    "human settlement": (13.6, 15.8, 16.7, 19.0, 45.9),
    "infrastructure": (17.5, 18.6, 19.2, 22.0, 60.5),
    "ingredient": (26.8, 30.3, 32.1, 35.9, 66.4),
    "invertebrate": (25.9, 31.5, 33.3, 40.5, 71.5),
    "landmark": (17.2, 20.1, 22.8, 33.2, 79.1),
    "mammal": (29.1, 35.5, 36.4, 38.8, 60.9),
    "sports": (39.2, 41.9, 42.5, 44.1, 66.0),
    "watercraft": (23.6, 25.4, 26.1, 31.1, 57.7),
    "weapon": (25.9, 29.3, 30.3, 33.8, 51.4),
    "wildlife": (15.6, 24.7, 26.0, 33.2, 59.3),
    "plant": (31.0, 34.6, 36.4, 42.8, 75.1),
    "mean": (27.7, 31.5, 32.9, 37.9, 68.0),
}
_OPEN_IMAGES = {
    "food": (68.8, 71.3, 72.4, 75.0, 80.8),
    "organism": (67.5, 69.0, 69.5, 71.9, 75.6),
    "man made objects": (50.5, 51.8, 52.6, 54.6, 53.7),
    "mode of transport": (70.2, 71.4, 71.9, 73.9, 79.9),
    "others": (52.9, 52.7, 53.6, 53.9, 51.7),
    "mean": (62.0, 63.2, 64.0, 65.8, 68.4),
}
_METHODS = ("FC-FC", "FC-FC+D", "FC-SC+D", "FC-SC+D+S", "specialists")


def verticals_section(analysis: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Content]:
    """The paper's table 4: every vertical with its labels, images and each method's pvap."""
    verticals, values = analysis.get("verticals") or [], analysis.get("per_vertical") or {}
    if not verticals:
        return []
    _check_lengths({key: line["mean"] for key, line in values.items()}, "per_vertical", verticals)
    names = [str(vertical["name"]) for vertical in verticals]
    main = [key for key in TABLE_4 if key in values] or list(values)
    blocks: list[Content] = [
        paragraph(
            "One vertical at a time: only its images, and only its labels compete. What is ranked "
            "are the labels that are annotated; ancestors of labels are learned but never ranked."
        )
    ]
    if main:
        blocks += [legend(main), side_by_side(*_vertical_charts(names, values, main))]
    caption = (
        "pvap in percent, mean ± standard deviation; the best student of a vertical is bold. This "
        "is the paper's table 4, turned on its side."
    )
    blocks.append(_vertical_table(verticals, values, main, metrics, caption))
    if others := [row.key for row in ordered(values) if row.key not in main]:
        shown = _vertical_table(verticals, values, others, metrics, "pvap in percent.")
        blocks.append(details("The other rows", shown))
    same = set(names) & (set(_OPEN_IMAGES) - {"mean"})
    return [
        *blocks,
        details("The paper's table 4 (EFT)", _published_table(_EFT)),
        details("The paper's table 6 (Open Images)", _published_table(_OPEN_IMAGES),
                open_=len(same) > 1),
    ]  # fmt: skip


def _check_lengths(
    lines: Mapping[str, Any], where: str, verticals: Sequence[Mapping[str, Any]]
) -> None:
    for key, line in lines.items():
        if not isinstance(line, list) or len(line) != len(verticals):
            raise ValueError(
                f"{where!r} in analysis.json must hold a number for each of the {len(verticals)} "
                f"verticals in the row {key!r}"
            )


def _vertical_charts(
    names: Sequence[str], values: Mapping[str, Any], keys: Sequence[str]
) -> list[Html]:
    """The pvap of every vertical, and the students' points over the generalist."""
    means = {key: [_hundred(value) for value in values[key]["mean"]] for key in keys}
    stds = {key: [_hundred(std) for std in values[key]["std"]] for key in keys
            if values[key].get("std")}  # fmt: skip
    drawn = concentrate_figures.by_vertical(
        names, means, stds, alt="A line a vertical with the pvap of each method."
    )
    charts = [figure(drawn, "pvap in percent, mean and standard deviation over seeds.")]
    start = means.pop("generalist", None)
    means.pop("specialists", None)
    if start and means:
        gains = {
            key: [
                None if a is None or b is None else a - b for a, b in zip(line, start, strict=True)
            ]
            for key, line in means.items()
        }
        drawn = concentrate_figures.by_vertical(
            names, gains, {}, 0.0, alt="A line a vertical with what each student gains."
        )
        charts.append(figure(drawn, "Points of pvap over the generalist, means over seeds."))
    return charts


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _vertical_table(
    verticals: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any],
    keys: Sequence[str],
    metrics: Mapping[str, Any],
    caption: str,
) -> Html:
    counted = {"labels": "labels", "nodes": "ancestors", "train": "training images",
               "test": "test images"}  # fmt: skip
    counted = {key: name for key, name in counted.items()
               if any(vertical.get(key) for vertical in verticals)}  # fmt: skip
    rows = [row_for(key, values) for key in keys]
    written: list[list[Content]] = []
    for i, vertical in enumerate(verticals):
        means = {key: values[key]["mean"][i] for key in keys}
        students = [mean for key, mean in means.items() if key != "specialists"]
        best = max((mean for mean in students if mean is not None), default=None)
        cells: list[Content] = [tag("bdi", str(vertical["name"]))]
        cells += [f"{vertical[key]:,}" if key in vertical else "–" for key in counted]
        for key in keys:
            stds = values[key].get("std")
            shown = _pvap(means[key], stds[i] if stds else None)
            cells.append(tag("b", shown) if means[key] == best and best is not None else shown)
        written.append(cells)
    totals: list[Content] = [
        tag("b", f"{sum(vertical.get(key) or 0 for vertical in verticals):,}")
        if key in ("labels", "nodes") else "" for key in counted
    ]  # fmt: skip
    written.append(
        [tag("b", "mean (mpvap)"), *totals, *(tag("b", _mpvap(metrics, key)) for key in keys)]
    )
    blank: list[Content] = [""] * len(counted)
    costs = [count(metrics[key]["parameters"]) if key in metrics else "–" for key in keys]
    written.append(["parameters", *blank, *costs])
    header: list[Content] = [
        "vertical",
        *counted.values(),
        *([mark(row), row.short] for row in rows),
    ]
    return table(header, written, caption)


def _pvap(mean: float | None, std: float | None) -> Content:
    if mean is None:
        return "–"
    text = f"{100 * mean:.1f}" + (f"\u00a0±\u00a0{100 * std:.1f}" if std is not None else "")
    return number(mean, text)


def _mpvap(metrics: Mapping[str, Any], key: str) -> Content:
    if key not in metrics:
        return "–"
    return number(metrics[key]["mpvap"]["mean"], mean_and_spread(metrics[key]["mpvap"]))


def _published_table(published: Mapping[str, Sequence[float]]) -> Html:
    rows = [[name, *(f"{value:.1f}" for value in values)] for name, values in published.items()]
    return table(["vertical", *_METHODS], rows, "Published pvap in percent.", class_="narrow")


def gamma_chart(analysis: Mapping[str, Any]) -> list[Content]:
    """The factor that each vertical learned, beside the one that it started from."""
    gamma, verticals = analysis.get("gamma") or {}, analysis.get("verticals") or []
    if not gamma or not verticals:
        return []
    _check_lengths(gamma, "gamma", verticals)
    names = [str(vertical["name"]) for vertical in verticals]
    drawn = concentrate_figures.by_vertical(
        names, gamma, {}, 1.0, alt="The trained factor of each vertical over √N."
    )
    caption = (
        "Trained factor γ of each vertical over √N, the square root of its number of labels (for "
        "a factor a label, their mean). To the right of 1 a vertical has larger logits, and so "
        "larger gradients, than it started with."
    )
    return [tag("h3", "Learned factors"), legend(gamma), figure(drawn, caption)]


def found_section(analysis: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Content]:
    """Verticals found from confusions against those that were given."""
    found = analysis.get("found") or {}
    if not found:
        return []
    groups, given = found.get("groups") or [], analysis.get("verticals") or []
    agreement = [
        text.format(found[key])
        for key, text in {"ari": "adjusted Rand index {:.2f} (1: the same, 0: as by chance)",
                          "purity": "purity {:.2f}"}.items()
        if found.get(key) is not None
    ]  # fmt: skip
    count_of = found.get("num_groups") or len(groups)
    against = f" against {len(given)} given ones" if given else ""
    return [
        paragraph(
            f"{count_of} verticals{against}, found by clustering the labels that the trunk "
            "confuses, without knowing any given vertical.",
            f" Agreement with the given ones: {', '.join(agreement)}." if agreement else "",
        ),
        *_found_rows(metrics, found.get("mpvap_on_found") or {}),
        tag("div", [_found_card(i, group) for i, group in enumerate(groups)], class_="cards"),
    ]


def _found_rows(metrics: Mapping[str, Any], on_found: Mapping[str, Any]) -> list[Content]:
    keys = [key for key in ("fc_sc", "found", "paced", "found_paced")
            if key in metrics or key in on_found]  # fmt: skip
    written = [
        [[mark(row), row.name], _mpvap(metrics, row.key), _on_found(on_found.get(row.key))]
        for row in map(row_for, keys)
    ]
    if not written:
        return []
    caption = (
        "mpvap in percent of the same students, trained with one part of the head for each given "
        "or for each found vertical, measured on both."
    )
    header = ["", "on the given verticals", "on the found verticals"]
    return [table(header, written, caption, class_="narrow")]


def _on_found(value: Any) -> Content:
    """Mpvap on found verticals: a number, or mean and spread as in ``metrics.json``."""
    if value is None:
        return "–"
    metric = value if isinstance(value, dict) else {"mean": value, "seeds": [value]}
    return number(metric["mean"], mean_and_spread(metric))


def _found_card(position: int, group: Mapping[str, Any]) -> Html:
    inside = [(str(name), int(labels)) for name, labels in group.get("verticals") or []]
    most = max((labels for _, labels in inside), default=1) or 1
    bars = [
        [tag("dt", tag("bdi", name)),
         tag("dd", tag("span", class_="bar", style=f"width:{60 * labels / most:.1f}%"),
             f"{labels:,}")]
        for name, labels in inside
    ]  # fmt: skip
    names = [[label(str(name)), " "] for name in group.get("labels") or []]
    return tag(
        "article",
        tag("h3", f"{position} · ", tag("bdi", str(group["name"]))),
        paragraph(f"{group['size']:,} labels, from", class_="small"),
        tag("dl", bars, class_="errors") if bars else None,
        paragraph(names, class_="small") if names else None,
        class_="card",
    )
