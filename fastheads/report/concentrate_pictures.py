"""The paper's figure 6: pictures with the best three labels of the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastheads.report.page import Content, Html, label, label_name, paragraph, tag
from fastheads.report.pictures import enlarged
from fastheads.report.run import Run

_PAPER = (
    "London Eye, Landmark, South Bank; Bird, Perching bird, Yellow-winged blackbird; Car, Muscle "
    "Car, Ford Mustang; Tank, Weapon, Tiger II; Furniture, Chair, Egg chair; Invertebrate, Spider, "
    "Giant house spider"
)


def examples_section(run: Run) -> list[Content]:
    """A card a picture: what it is, the best three labels, the right ones marked."""
    examples = run.analysis.get("examples") or []
    if not examples:
        return []
    pictures = run.pictures("examples")
    assert pictures is not None
    return [
        paragraph(
            "Test images with the three best scored of all labels of the student; a tick marks "
            "what is right, an annotated label or an ancestor of one."
        ),
        tag("div", [_card(pictures, example) for example in examples], class_="cards examples"),
        paragraph(f"Top-3 in the paper's figure 6, for comparison: {_PAPER}.", class_="small"),
    ]


def _card(pictures: np.ndarray, example: Mapping[str, Any]) -> Html:
    pixels = pictures[example["picture"]]
    names = [str(name) for name in example["annotated"]]
    alt = ", ".join(label_name(name) for name in names)
    listed = [
        tag("li", label(str(name)), f" {100 * probability:.0f}\u00a0%",
            " ✓" if right else None, class_="right" if right else None)
        for name, probability, right in example["top"]
    ]  # fmt: skip
    return tag(
        "article",
        tag("div", enlarged(pixels, alt), tag("ol", listed, class_="top"), class_="pair"),
        paragraph([[", " if i else "", label(name)] for i, name in enumerate(names)], " · ",
                  tag("bdi", str(example["vertical"])), class_="small"),
        class_="card",
    )  # fmt: skip
