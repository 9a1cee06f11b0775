"""The paper's tables 1 to 4 with our rows beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report.blocks import legend, mark
from fastheads.report.page import (
    Content,
    Html,
    details,
    number,
    paragraph,
    side_by_side,
    table,
    tag,
)
from fastheads.report.rows import mean_and_spread, ordered, percent, points, row_for, spread
from fastheads.report.rows_stream import NETWORKS
from fastheads.report.stream_figures import change_scatter, top_scatter
from fastheads.report.stream_measures import MAIN

TABLE_1 = {"senet": (0.447, 0.797), "resnet": (0.421, 0.758), "vgg": (0.413, 0.736)}
TABLE_2 = {"resnet": (0.774, 0.411), "resnet_soft": (0.693, 0.376),
           "senet": (0.878, 0.448), "senet_soft": (0.647, 0.388)}  # fmt: skip
TABLE_3 = {
    "resnet": (0.774, 0.411), "senet": (0.878, 0.448), "senet_2x": (0.903, 0.454),
    "senet_4x": (0.891, 0.443), "senet_r8": (0.886, 0.479), "senet_r32": (0.864, 0.441),
    "senet_sqrt": (0.859, 0.436), "inception_48": (0.742, 0.383), "inception_96": (0.761, 0.412),
}  # fmt: skip
TABLE_4 = {
    "resnet": (0.774, 0.562, 0.273), "senet": (0.878, 0.763, 0.698),
    "senet_2x": (0.903, 0.843, 0.767), "senet_4x": (0.891, 0.637, 0.926),
    "senet_r8": (0.886, 0.796, 0.893), "senet_r32": (0.864, 0.858, 0.719),
    "senet_sqrt": (0.859, 0.823, 0.716), "senet_2x_r32": (0.868, 0.862, 0.754),
    "inception_48": (0.742, 0.769, 0.692), "inception_96": (0.761, 0.691, 0.744),
}  # fmt: skip
_NETWORKS = tuple(row.key for row in NETWORKS)
_NOTE = "Other pictures, networks and training: compare the order, not the values."


def value_cell(row: Mapping[str, Any], name: str) -> Content:
    """An accuracy in percent with its spread; a dash where there is none."""
    return number(row[name]["mean"], mean_and_spread(row[name])) if name in row else "–"


def change_cell(row: Mapping[str, Any], name: str = "change") -> Content:
    """A difference in points with its spread; a dash where there is none."""
    if name not in row:
        return "–"
    text = points(row[name]["mean"])
    if len(row[name].get("seeds", ())) != 1:
        text += f"\u00a0±\u00a0{percent(spread(row[name]))}"
    return number(row[name]["mean"], text)


def paper_cell(value: float | None, text: str | None = None) -> Html:
    shown = "–" if value is None else text or f"{100 * value:.1f}"
    return tag("span", shown, class_="paper")


def stream_section(rows: Mapping[str, Any]) -> list[Content]:
    """Table 4 and Figure 13: the networks before and after learning the stream."""
    shown = [key for key in _NETWORKS if MAIN in rows.get(key, {})]
    if not shown:
        return []
    names = ("base_top5", "original_top5", MAIN)
    written: list[list[Content]] = []
    for row in ordered(shown):
        values, paper = rows[row.key], TABLE_4.get(row.key, (None, None, None))
        written.append([
            [mark(row), row.name],
            *(cell for name, published in zip(names, paper, strict=True)
              for cell in (value_cell(values, name), paper_cell(published))),
            change_cell(values), _paper_change(*paper[:2]),
            value_cell(values, "streamed_all"), value_cell(values, "streamed_exact"),
        ])  # fmt: skip
    header = ["", "base", "paper", "original", "paper", "streamed", "paper", "change", "paper",
              "all labels", "exact"]  # fmt: skip
    caption = (
        "The paper's table 4. Base and original: top-5 on the base test pictures before and after "
        "learning the stream, in percent; change: their difference, seed by seed, in points. "
        "Streamed: one of the labels of a streamed picture is among the best five; all labels: "
        f"each of them is; exact: the best n are its n labels. {_NOTE}"
    )
    blocks: list[Content] = [table(header, written, caption), *_more(rows, shown)]
    drawn = {key: rows[key] for key in shown if "change" in rows[key]}
    if drawn:
        theirs = {key: _change_of(values) for key, values in TABLE_4.items()}
        alt = "Streamed top-5 against the change of top-5 on base pictures"
        blocks += [
            paragraph(
                "The paper's figure 13: upwards, the stream is learned better; to the left, more "
                "of the old labels is forgotten. The band reaches 3 points below the dotted line "
                "of no change."
            ),
            legend({*drawn, *theirs}),
            side_by_side(
                tag("figure", change_scatter(drawn, "here", alt=f"{alt}, here.")),
                tag("figure", change_scatter(theirs, "in the paper", alt=f"{alt}, in the paper.")),
            ),
        ]
    return blocks


def _more(rows: Mapping[str, Any], shown: Sequence[str]) -> list[Content]:
    """Top-1 on base pictures, and what was known of streamed ones before; folded away."""
    titles = {"base_top1": "base, top-1", "original_top1": "original, top-1",
              "before_top5": "streamed, before, top-5",
              "before_all": "streamed, before, all labels"}  # fmt: skip
    names = [name for name in titles if any(name in rows[key] for key in shown)]
    if not names:
        return []
    written: list[list[Content]] = [
        [[mark(row), row.name], *(value_cell(rows[row.key], name) for name in names)]
        for row in ordered(shown)
    ]
    header = ["", *(titles[name] for name in names)]
    return [details("Top-1, and before the stream", table(header, written, "In percent."))]


def _paper_change(base: float | None, original: float | None) -> Html:
    if base is None or original is None:
        return paper_cell(None)
    return paper_cell(original - base, f"{100 * (original - base):+.1f}".replace("-", "−"))


def _change_of(values: Sequence[float]) -> dict[str, Any]:
    base, original, streamed = values
    return {"change": {"mean": original - base}, MAIN: {"mean": streamed}}


def base_section(rows: Mapping[str, Any]) -> list[Content]:
    """Tables 1 to 3 and Figure 12: accuracy after base training."""
    first, second, third = (
        _base_table(rows, "Table 1: the plain networks", TABLE_1, ("base_top1", "base_top5"),
                    "SENet-18, ResNet-18 and VGG-16 in the paper"),
        _base_table(rows, "Table 2: margin and soft-margin loss", TABLE_2,
                    ("base_top5", "base_top1"), "Rows without a remark use the margin loss"),
        _base_table(rows, "Table 3: variants", TABLE_3, ("base_top5", "base_top1"),
                    "Expansion before the squeeze and reduction in the excitation; 16 is the "
                    "usual reduction", others=True),
    )  # fmt: skip
    shown = [side_by_side(*first, *second), *third] if first or second else third
    drawn = {key: rows[key] for key in _NETWORKS
             if all(name in rows.get(key, {}) for name in ("base_top1", "base_top5"))}  # fmt: skip
    if len(drawn) > 1:
        theirs = {key: {"base_top5": {"mean": top5}, "base_top1": {"mean": top1}}
                  for key, (top5, top1) in TABLE_3.items()}  # fmt: skip
        alt = "Top-1 against top-5 on base test pictures"
        shown += [
            tag("h3", "Figure 12: top-1 against top-5"),
            legend({*drawn, *theirs}),
            side_by_side(
                tag("figure", top_scatter(drawn, "here", alt=f"{alt}, here.")),
                tag("figure", top_scatter(theirs, "in the paper", alt=f"{alt}, in the paper.")),
            ),
        ]
    return shown


def _base_table(
    rows: Mapping[str, Any],
    title: str,
    paper: Mapping[str, Sequence[float]],
    names: Sequence[str],
    remark: str,
    others: bool = False,
) -> list[Content]:
    """One of the paper's tables; with ``others`` networks that only we have stand below."""
    keys = [*paper, *(key for key in _NETWORKS if others and key not in paper)]
    keys = [key for key in keys if any(name in rows.get(key, {}) for name in names)]
    if not keys:
        return []
    titles = {"base_top1": "top-1", "base_top5": "top-5"}
    written: list[list[Content]] = []
    for key in keys:
        cells: list[Content] = [[mark(row_for(key)), row_for(key).name]]
        for i, name in enumerate(names):
            published = paper[key][i] if key in paper else None
            cells += [value_cell(rows[key], name), paper_cell(published)]
        written.append(cells)
    header = ["", *(cell for name in names for cell in (titles[name], "paper"))]
    caption = f"{remark}. On the base test pictures, in percent. {_NOTE}"
    return [tag("div", tag("h3", title), table(header, written, caption, class_="narrow"))]
