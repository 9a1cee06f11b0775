"""The sections on numbers: summary, results beside the published ones, contrast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report import figures
from fastheads.report.blocks import (
    accuracy_cells,
    bars_alt,
    best_of,
    claims_notice,
    claims_table,
    cost_cells,
    legend,
    mark,
    over_seeds,
    tile_list,
)
from fastheads.report.findings import MAIN, claims, difference, where_it_pays
from fastheads.report.page import Content, Html, number, paragraph, side_by_side, table, tag
from fastheads.report.rows import (
    METRICS,
    Row,
    count,
    full_name,
    mean_and_spread,
    ordered,
    percent,
    points,
    ratio,
)


def heads_of(row: Row, metrics: Mapping[str, Any], num_groups: int | None) -> int | None:
    """How many heads a row has: its own ``heads``, else, for confusions, the number of groups."""
    given = num_groups if row.key in ("confusions", "randomized_confusions") else None
    return metrics[row.key].get("heads", given)


def tiles(metrics: Mapping[str, Any]) -> Html | None:
    """The four numbers to remember."""
    if "confusions" not in metrics:
        return None
    heads, base = metrics["confusions"], metrics["base"]
    shown = [
        ("mAP@50 per label with heads", percent(heads[MAIN]["mean"]) + " %",
         f"base {percent(base[MAIN]['mean'])} %"),
        ("top-1 with heads", percent(heads["top1"]["mean"]) + " %",
         f"base {percent(base['top1']['mean'])} %"),
        ("multiply-adds", ratio(heads["macs"], base["macs"]),
         f"{count(heads['macs'])}, base {count(base['macs'])}"),
    ]  # fmt: skip
    if "randomized_confusions" in metrics:
        gain = difference(metrics, "confusions", "randomized_confusions", MAIN)
        shown.append(
            ("learned over random groups", points(gain.mean), "points of mAP@50 per label")
        )
    return tile_list(shown)


def results_section(metrics: Mapping[str, Any], num_groups: int | None) -> list[Content]:
    """The results table with the published numbers, and the bars."""
    rows = ordered(metrics)
    best, base = best_of(metrics, metrics, METRICS), metrics["base"]
    written: list[list[Content]] = [
        [
            [mark(row), full_name(row, heads_of(row, metrics, num_groups))],
            *accuracy_cells(metrics[row.key], METRICS, best),
            *cost_cells(metrics[row.key], base),
            *_published(row),
        ]
        for row in rows
    ]
    intro = (
        "“Confusions” and “co-detections” name what the groups of labels were found in: which "
        "labels score high where another is annotated, or which score high together. "
        "“Randomized” is the control: the same heads over groups of the same sizes, with labels "
        "drawn at random. “Retrained” is the other control: as much training, no heads."
    )
    caption = (
        f"Accuracies in percent, mean ± standard deviation {over_seeds(metrics, list(METRICS))}; "
        "the best of a column is bold; below the multiply-adds their ratio to the base network. "
        "The columns on the right are the published ones (6 heads for confusions, 13 for "
        "co-detections) on JFT, a private set of 100 million photographs, 17,000 labels: compare "
        "their order with ours, not their values."
    )
    header = ["", *METRICS.values(), "multiply-adds", "parameters",
              "paper: mAP@50", "paper: multiply-adds"]  # fmt: skip
    bars = [
        tag("figure", figures.row_bars(metrics, name, alt=bars_alt(metrics, name, title)))
        for name, title in METRICS.items()
    ]
    return [
        paragraph(intro),
        table(header, written, caption),
        legend(metrics),
        side_by_side(*bars),
        paragraph(
            "Each bar starts at zero and shows the mean; the line is one standard deviation to "
            "either side, the dots are the seeds. Random groups are drawn hollow.",
            class_="small",
        ),
    ]


def _published(row: Row) -> list[Content]:
    if row.paper is None:
        return [tag("span", "–", class_="paper")] * 2
    accuracy, macs, times = row.paper
    cost = [f"{macs / 1e9:.2f} B", tag("small", f"{times:.3f}×")]
    return [tag("span", percent(accuracy), class_="paper"), tag("span", cost, class_="paper")]


def claims_section(metrics: Mapping[str, Any]) -> list[Content]:
    """The paper's order of rows, statement by statement, beside ours."""
    found = claims(metrics)
    if not found:
        return []
    caption = (
        "Differences in points of mAP@50. The paper does not say whether its average precision is "
        "taken per label or per image, so both readings stand here. After ±: the sum of the two "
        "standard deviations; a smaller difference counts as undecided. With a single seed the "
        "spread is unknown, and only the sign of the difference decides."
    )
    columns = {MAIN: "ours, per label", "map50_per_image": "ours, per image"}
    return [claims_table(found, columns, caption)]


def claims_remark(metrics: Mapping[str, Any]) -> Html | None:
    """A remark at the top if a statement of the paper does not hold here, or if all do."""
    return claims_notice(claims(metrics), "mAP@50")


def contrast_section(contrasts: Sequence[Mapping[str, Any]]) -> list[Content]:
    """Over bottleneck widths: where specialist heads pay and where they do not."""
    if not contrasts:
        return []
    keys = {key for point in contrasts for key in point["rows"]}
    charts = [
        figures.contrast(contrasts, MAIN, None, alt="mAP@50 per label over bottleneck widths.")
    ]
    if "retrained" in keys:
        charts.append(figures.contrast(contrasts, MAIN, "retrained",
                      alt="Gain over the retrained classifier, by bottleneck width."))  # fmt: skip
    header: list[Content] = ["bottleneck", *([mark(row), row.short] for row in ordered(keys))]
    written = [
        [str(point["bottleneck"]), *(_value(point["rows"], row.key) for row in ordered(keys))]
        for point in sorted(contrasts, key=lambda point: point["bottleneck"])
    ]
    return [
        paragraph(
            "The same experiment with layers of other widths below the classifier. A narrow "
            "layer must squeeze all labels through few numbers: there capacity binds, and heads "
            "can add what is missing. ", where_it_pays(list(contrasts)),
        ),
        legend(keys),
        side_by_side(*(tag("figure", drawn) for drawn in charts)),
        table(header, written, "mAP@50 per label in percent, mean ± standard deviation."),
    ]  # fmt: skip


def _value(rows: Mapping[str, Any], key: str) -> Content:
    return number(rows[key][MAIN]["mean"], mean_and_spread(rows[key][MAIN])) if key in rows else "–"
