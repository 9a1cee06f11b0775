"""The results of Knowledge Concentration and the paper's tables 1 to 3 and 5, ours beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report import concentrate_figures, figures
from fastheads.report.blocks import (
    accuracy_cells,
    bars_alt,
    best_of,
    claims_table,
    cost_cells,
    mark,
    over_seeds,
)
from fastheads.report.concentrate_findings import vertical_claims
from fastheads.report.page import (
    Content,
    Html,
    figure,
    paragraph,
    side_by_side,
    table,
    tag,
)
from fastheads.report.rows import (
    VERTICAL_METRICS,
    Row,
    ordered,
    row_for,
)

_PAPER_NAMES = {
    "generalist": "FC4096-FC512",
    "sc_sc_annotated": "SC512-SC512",
    "fc_fc": "FC4096-FC512+D",
    "fc_sc": "FC4096-SC512+D",
    "sc_sc": "SC512-SC512+D",
    "fc_sc_generic_25": "FC4096-SC(512,128)+D",
    "fc_sc_generic_50": "FC4096-SC(512,256)+D",
    "fc_sc_generic_75": "FC4096-SC(512,384)+D",
    "paced": "FC4096-SC512+D+S",
    "paced_label": "FC4096-SC512+D+S, class level",
    "specialists": "20 × FC4096-FC4096",
}
_GENERIC_SHARES = {"fc_sc": 0.0, "fc_sc_generic_25": 0.25, "fc_sc_generic_50": 0.5,
                   "fc_sc_generic_75": 0.75, "fc_fc": 1.0}  # fmt: skip
_BARS = ("generalist", "sc_sc_annotated", "fc_fc", "sc_sc", "fc_sc", "paced", "found_paced",
         "specialists")  # fmt: skip


def notation(head: Mapping[str, Any] | None) -> str | None:
    """A head as the paper writes it: ``FC256-SC(64,16)+D+S``; None if it is not known."""
    if not head:
        return None
    first, _, second = head["kind"].upper().partition("_")
    width, generic = head["top2"], head.get("generic") or 0
    inner = f"({width},{generic})" if generic and second == "SC" else str(width)
    distilled = "+D" if head.get("distilled") else ""
    return f"{first}{head['top1']}-{second}{inner}{distilled}{'+S' if head.get('pacing') else ''}"


def results_section(metrics: Mapping[str, Any], heads: Mapping[str, Any]) -> list[Content]:
    """Every row with its accuracies and costs, the published numbers, and bars."""
    students = [key for key in metrics if key != "specialists"]
    best = best_of(metrics, students, VERTICAL_METRICS)
    written: list[list[Content]] = [
        [
            _named(row, heads),
            *accuracy_cells(metrics[row.key], VERTICAL_METRICS, best),
            *cost_cells(metrics[row.key], metrics.get("generalist")),
            _paper_name(row),
            *_published(row),
        ]
        for row in ordered(metrics)
    ]
    seeds = over_seeds(metrics, list(VERTICAL_METRICS))
    caption = (
        f"Accuracies in percent, mean ± standard deviation {seeds}; the best student of a column "
        "is bold; below the multiply-adds their ratio to the generalist's. Multiply-adds and "
        "parameters are those of trunk and head together, of the specialists those of all of them. "
        "The columns on the right are the published ones on EFT, a private set of 400 million "
        "photographs, 100,000 labels: compare their order with ours, not their values."
    )
    header = ["", *VERTICAL_METRICS.values(), "multiply-adds", "parameters",
              "paper", "paper: mpvap", "paper: parameters"]  # fmt: skip
    align = "l" + "r" * 6 + "lrr"
    shown = {key: metrics[key] for key in _BARS if key in metrics} or metrics
    bars = [
        tag("figure", figures.row_bars(shown, name, alt=bars_alt(shown, name, title)))
        for name, title in VERTICAL_METRICS.items()
        if all(name in row for row in shown.values())
    ]
    return [
        paragraph(
            "FC is a layer that all verticals share, SC one with a part for each vertical. +D: "
            "distilled, that is, trained on the specialists' probabilities; +S: self-paced, the "
            "logits of a vertical are normalised and scaled by a factor γ."
        ),
        table(header, written, caption, align),
        side_by_side(*bars),
        paragraph(
            "Each bar starts at zero and shows the mean; the line is one standard deviation to "
            "either side, the dots are the seeds.",
            class_="small",
        ),
    ]


def claims_section(metrics: Mapping[str, Any]) -> list[Content]:
    """The paper's order of rows, statement by statement, beside ours."""
    found = vertical_claims(metrics)
    if not found:
        return []
    caption = (
        "Differences in points. After ±: the sum of the two standard deviations; a smaller "
        "difference counts as undecided. Where a row has a single seed the spread is unknown, and "
        "only the sign of the difference decides."
    )
    columns = {"mpvap": "ours, mpvap", "mpvap_per_label": "ours, mpvap per label"}
    return [claims_table(found, columns, caption)]


def paper_tables(metrics: Mapping[str, Any], heads: Mapping[str, Any]) -> list[Content]:
    """Tables 1, 2, 3 and 5 of the paper, each with the rows that the run holds."""
    return [
        *_table_1(metrics, heads),
        *_table("Table 2: kinds of structure", ("fc_fc", "fc_sc", "sc_sc"), metrics, heads,
                "Students with the same width of the top-2 layer, distilled."),
        *_table("Table 3: generic part", tuple(_GENERIC_SHARES), metrics, heads,
                "From no generic part of the top-2 layer, FC-SC, to nothing but one, FC-FC.",
                _generic_chart(metrics)),
        *_table("Table 5: self-pacing", ("fc_sc", "paced_label", "paced"), metrics, heads,
                "The same student without factors, with one a label, with one a vertical."),
    ]  # fmt: skip


def _table_1(metrics: Mapping[str, Any], heads: Mapping[str, Any]) -> list[Content]:
    pairs = [(before, after) for before, after in (("generalist", "fc_fc"),
             ("sc_sc_annotated", "sc_sc")) if before in metrics and after in metrics]  # fmt: skip
    written: list[list[Content]] = []
    for before, after in pairs:
        name = notation(heads.get(before)) or row_for(before).name.split(" from")[0]
        cells = [*accuracy_cells(metrics[before], ["mpvap"], {}),
                 *accuracy_cells(metrics[after], ["mpvap"], {}),
                 *cost_cells(metrics[after], None)]  # fmt: skip
        written.append([name, *cells, _paper_name(row_for(before)), _published(row_for(before))[0],
                        *_published(row_for(after))])  # fmt: skip
    if not written:
        return []
    header = ["", "annotations", "distilled", "multiply-adds", "parameters", "paper",
              "paper: annotations", "paper: distilled", "paper: parameters"]  # fmt: skip
    caption = "mpvap in percent of the same student, from annotations alone and distilled."
    return [tag("h3", "Table 1: distillation"),
            table(header, written, caption, "lrrrrlrrr")]  # fmt: skip


def _table(
    title: str,
    keys: Sequence[str],
    metrics: Mapping[str, Any],
    heads: Mapping[str, Any],
    caption: str,
    *more: Content,
) -> list[Content]:
    rows = [row_for(key) for key in keys if key in metrics]
    if len(rows) < 2:
        return []
    best = best_of(metrics, [row.key for row in rows], ["mpvap"])
    written: list[list[Content]] = [
        [_named(row, heads), *accuracy_cells(metrics[row.key], ["mpvap"], best),
         *cost_cells(metrics[row.key], None), _paper_name(row), *_published(row)]
        for row in rows
    ]  # fmt: skip
    header = ["", "mpvap", "multiply-adds", "parameters",
              "paper", "paper: mpvap", "paper: parameters"]  # fmt: skip
    return [tag("h3", title), table(header, written, caption, "lrrrlrr"), *more]


def _generic_chart(metrics: Mapping[str, Any]) -> Html | None:
    keys = [key for key in _GENERIC_SHARES if key in metrics]
    if "fc_sc" not in metrics or len(keys) < 3:
        return None
    papers = [row_for(key).paper for key in keys]
    drawn = concentrate_figures.generic_shares(
        [_GENERIC_SHARES[key] for key in keys],
        [metrics[key]["mpvap"] for key in keys],
        [None if paper is None else paper[0] for paper in papers],
        alt="mpvap over the generic share of the top-2 layer, ours and the paper's.",
    )
    return figure(drawn, "What a generic part of the top-2 layer gains or costs.")


def _named(row: Row, heads: Mapping[str, Any]) -> list[Content]:
    text = notation(heads.get(row.key))
    return [mark(row), row.name, tag("small", text) if text else None]


def _paper_name(row: Row) -> Html:
    return tag("span", _PAPER_NAMES.get(row.key, "–"), class_="paper")


def _published(row: Row) -> list[Content]:
    if row.paper is None:
        return [tag("span", "–", class_="paper")] * 2
    accuracy, parameters = row.paper
    texts = (f"{100 * accuracy:.1f}", f"{parameters / 1e6:.0f} M")
    return [tag("span", text, class_="paper") for text in texts]
