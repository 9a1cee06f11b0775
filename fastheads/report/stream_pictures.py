"""What was forgotten, label by label, and pictures with the best five before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastheads.report.page import (
    Content,
    Html,
    figure,
    label,
    label_name,
    number,
    paragraph,
    side_by_side,
    table,
    tag,
)
from fastheads.report.pictures import enlarged
from fastheads.report.rows import percent, points, row_for
from fastheads.report.run import Run
from fastheads.report.stream_figures import change_bars, worst_labels

_WORST = 16  # labels of a figure
_FEWEST = 3  # pictures of a label, where enough labels have as many


def forgotten_section(analysis: Mapping[str, Any]) -> list[Content]:
    """The labels that lose most, and labels of streamed pictures against the others."""
    forgotten = analysis.get("forgotten") or {}
    labels = forgotten.get("labels") or []
    if not labels:
        return []
    lost = [one for one in labels if one["after"] < one["before"]]
    many = [one for one in lost if one.get("images", _FEWEST) >= _FEWEST]
    shown = many if len(many) >= _WORST else lost
    worst = sorted(shown, key=lambda one: one["after"] - one["before"])[:_WORST]
    of = f" by “{row_for(forgotten['row']).short}”" if forgotten.get("row") else ""
    blocks: list[Content] = []
    if worst:
        drawn = worst_labels(worst, alt="Recall of the most forgotten labels, before and after.")
        blocks.append(figure(drawn, "The labels that lose most. Filled: they occur in streamed "
                             "pictures, hollow: they do not."))  # fmt: skip
    bars = change_bars(labels, alt="Share of the base labels by how much they lose or gain.")
    blocks.append(tag("div", figure(bars, "How many labels lose and gain."), _groups(labels)))
    text = (
        f"Base labels forgotten{of}: for each, the share of its base test pictures that have it "
        "among the best five, before and after learning the stream (first seed)."
    )
    return [paragraph(text), side_by_side(*blocks)]


def _groups(labels: Sequence[Mapping[str, Any]]) -> Html:
    written: list[list[Content]] = []
    for part, name in ((True, "labels of streamed pictures"), (False, "other labels")):
        own = [one for one in labels if bool(one["component"]) is part]
        if own:
            before, after = (float(np.mean([one[when] for one in own]))
                             for when in ("before", "after"))  # fmt: skip
            written.append([name, number(len(own), f"{len(own):,}"),
                            number(before, percent(before)), number(after, percent(after)),
                            number(after - before, points(after - before))])  # fmt: skip
    header = ["", "labels", "before", "after", "change"]
    return table(header, written, "Means over labels, in percent.", class_="tabular narrow")


def examples_section(run: Run) -> list[Content]:
    """A card a streamed picture: its labels, and the best five before and after."""
    examples = run.analysis.get("examples") or []
    if not examples:
        return []
    if "example_pictures" not in run.arrays:
        raise ValueError("analysis.npz must hold the array 'example_pictures' of analysis.json")
    pictures = run.arrays["example_pictures"]
    cards = [_card(pixels, one) for pixels, one in zip(pictures, examples, strict=False)]
    return [
        paragraph(
            "Streamed test pictures with the best five labels before and after learning the "
            "stream; a tick marks the right ones."
        ),
        tag("div", cards, class_="cards examples"),
    ]


def _card(pixels: np.ndarray, example: Mapping[str, Any]) -> Html:
    names = [str(name) for name in example["labels"]]
    shown = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels[:3], 0, -1)
    lists = [
        tag("div", paragraph(when, class_="small"), _best(example.get(when) or [], names))
        for when in ("before", "after")
    ]
    parts = [[" + " if i else "", label(name)] for i, name in enumerate(names)]
    return tag(
        "article",
        tag("h3", label(str(example["kind"])), " = ", parts),
        tag("div", enlarged(shown, f"{label_name(str(example['kind']))}"), lists, class_="pair"),
        class_="card",
    )


def _best(best: Sequence[Any], right: Sequence[str]) -> Html:
    items = [
        tag("li", label(str(name)), " ✓" if str(name) in right else None,
            class_="right" if str(name) in right else None)
        for name in best[:5]
    ]  # fmt: skip
    return tag("ol", items, class_="top")
