"""The sections on numbers: summary, results beside the published ones, contrast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastheads.report import figures
from fastheads.report.findings import MAIN, Claim, claims, difference, where_it_pays
from fastheads.report.page import (
    Content,
    Html,
    notice,
    number,
    paragraph,
    side_by_side,
    table,
    tag,
)
from fastheads.report.rows import (
    METRICS,
    Row,
    count,
    full_name,
    mean_and_spread,
    ordered,
    percent,
    ratio,
)

_GLYPHS = {"s": "■□", "D": "◆◇", "o": "●○", "^": "▲△", "v": "▼▽", "P": "✚✚", "X": "✖✖"}


def mark(row: Row) -> Html:
    """The row's marker in its colour, as in the figures."""
    style = f"color:var(--row-{row.key},{row.color})"
    return tag(
        "span", _GLYPHS[row.marker][row.random], class_="mark", style=style, aria_hidden="true"
    )


def legend(keys: Iterable[str]) -> Html:
    """Marker and name of the rows that a group of figures shows."""
    items = [tag("li", mark(row), row.short) for row in ordered(keys)]
    return tag("ul", items, class_="legend")


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
    return tag("dl", [tag("div", tag("dt", a), tag("dd", b, tag("small", c))) for a, b, c in shown],
               class_="tiles")  # fmt: skip


def points(value: float) -> str:
    """A difference of fractions in percentage points, always with its sign."""
    return f"{100 * value:+.2f}".replace("-", "−")


def results_section(metrics: Mapping[str, Any], num_groups: int | None) -> list[Content]:
    """The results table with the published numbers, and the bars."""
    rows = ordered(metrics)
    best = {name: max(metrics[row.key][name]["mean"] for row in rows) for name in METRICS}
    base = metrics["base"]
    written: list[list[Content]] = []
    for row in rows:
        values = metrics[row.key]
        cells: list[Content] = [[mark(row), full_name(row, heads_of(row, metrics, num_groups))]]
        for name in METRICS:
            text = number(values[name]["mean"], mean_and_spread(values[name]))
            cells.append(tag("b", text) if values[name]["mean"] == best[name] else text)
        cells.append([number(values["macs"], count(values["macs"])),
                      tag("small", ratio(values["macs"], base["macs"]))])  # fmt: skip
        cells.append(number(values["parameters"], count(values["parameters"])))
        cells += _published(row)
        written.append(cells)
    seeds = {len(metrics[row.key][name].get("seeds", ())) for row in rows for name in METRICS}
    over = f"over {max(seeds)} seeds" if len(seeds) == 1 and max(seeds) > 1 else "over the seeds"
    intro = (
        "“Confusions” and “co-detections” name what the groups of labels were found in: which "
        "labels score high where another is annotated, or which score high together. "
        "“Randomized” is the control: the same heads over groups of the same sizes, with labels "
        "drawn at random. “Retrained” is the other control: as much training, no heads."
    )
    caption = (
        f"Accuracies in percent, mean ± standard deviation {over}; the best of a column is bold; "
        "below the multiply-adds their ratio to the base network. The columns on the right are the "
        "published ones (6 heads for confusions, 13 for co-detections) on JFT, a private set of "
        "100 million photographs, 17,000 labels: compare their order with ours, not their values."
    )
    header = ["", *METRICS.values(), "multiply-adds", "parameters",
              "paper: mAP@50", "paper: multiply-adds"]  # fmt: skip
    bars = [
        tag("figure", figures.row_bars(metrics, name, alt=_bars_alt(metrics, name)))
        for name in METRICS
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


def _bars_alt(metrics: Mapping[str, Any], name: str) -> str:
    values = "; ".join(f"{row.short} {percent(metrics[row.key][name]['mean'])}"
                       for row in ordered(metrics))  # fmt: skip
    return f"Bars of {METRICS[name]} in percent: {values}."


def claims_section(metrics: Mapping[str, Any]) -> list[Content]:
    """The paper's order of rows, statement by statement, beside ours."""
    found = claims(metrics)
    if not found:
        return []
    written = [
        [claim.text, points(claim.published), _compared(claim, MAIN),
         _compared(claim, "map50_per_image")]
        for claim in found
    ]  # fmt: skip
    caption = (
        "Differences in points of mAP@50. The paper does not say whether its average precision is "
        "taken per label or per image, so both readings stand here. After ±: the sum of the two "
        "standard deviations; a smaller difference counts as undecided. With a single seed the "
        "spread is unknown, and only the sign of the difference decides."
    )
    header = ["statement", "paper", "ours, per label", "ours, per image"]
    return [table(header, written, caption, class_="tabular narrow")]


def _compared(claim: Claim, metric: str) -> list[Html]:
    found, verdict = claim.ours[metric], claim.verdict(metric)
    text = points(found.mean)
    if found.spread is not None:
        text += f"\u00a0±\u00a0{percent(found.spread)}"
    return [number(found.mean, text), tag("small", verdict, class_=verdict)]


def claims_notice(metrics: Mapping[str, Any]) -> Html | None:
    """A remark at the top if a statement of the paper does not hold here, or if all do."""
    found = claims(metrics)
    against = [claim for claim in found if claim.verdict() == "contradicts"]
    if against:
        texts = "; ".join(
            f"{claim.text[0].lower()}{claim.text[1:]} ({points(claim.published)} points of mAP@50 "
            f"in the paper, {points(claim.ours[MAIN].mean)} here)"
            for claim in against
        )
        title = f"Contradicts the paper in {len(against)} of {len(found)} statements."
        return notice(title, f"The other way round here: {texts}.", kind="warning")
    agreed = sum(claim.verdict() == "agrees" for claim in found)
    if not found or agreed < len(found):
        return None
    return notice("Agrees with the paper.", f"All {agreed} comparisons of its table come out in "
                  "the same order.", kind="good")  # fmt: skip


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
