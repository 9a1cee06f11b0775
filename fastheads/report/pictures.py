"""The sections with pictures: groups as contact sheets, and the confusions that heads repaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fastheads.report.page import (
    Content,
    Html,
    details,
    label,
    label_name,
    paragraph,
    picture,
    table,
    tag,
)
from fastheads.report.run import Run

# A few labels of each row of the paper's table 1.
_PAPER_GROUPS = (
    ("aviation", "Runway, Douglas dc-3, Tarmac, Air show, Boeing 737, Hovercraft, Aircraft engine, "
     "Cockpit, Bomber, Jet aircraft …"),
    ("food", "Pickled food, Lasagne, Meringue, Mussel, Bento, Okonomiyaki, Miso soup, Onigiri, "
     "Tempura, Soba …"),
    ("plants", "Lingonberry, Persimmon, Rutabaga, Walnut, Beech, Poppy, Bay leaf, Juniper, Fir, "
     "Bonsai …"),
)  # fmt: skip
_SHOWN = 20  # pictures of a group; the others fold away
_WIDEST = 144  # pixels on the page of a picture that labels stand beside


def groups_section(run: Run) -> list[Content]:
    """A card a group: its name, size, purity and pictures; then groups of the paper."""
    groups = run.analysis.get("groups") or []
    if not groups:
        return []
    return [
        paragraph(
            "Each group is a set of labels that the base network takes for each other on images "
            "it was not trained on; nobody told it what belongs together. Below every picture "
            "stands the name of its label. The number before a group's name is that of its head."
        ),
        tag("div", [_group_card(run, i, group) for i, group in enumerate(groups)], class_="cards"),
        table(
            ["group", "some of its labels"],
            [[name, labels] for name, labels in _PAPER_GROUPS],
            "For comparison, groups that the paper found among 17,000 labels of photographs "
            "(part of its table 1; the names on the left are its description).",
            align="ll",
        ),
    ]


def _group_card(run: Run, position: int, group: Mapping[str, Any]) -> Html:
    examples = [str(name) for name in group.get("examples") or []]
    pictures = run.pictures(group.get("sheet")) if examples else None
    facts = [f"{group['size']:,} labels"]
    if group.get("purity") is not None:
        facts.append(f"purity {100 * group['purity']:.0f} %")
    card: list[Content] = [
        tag("h3", f"{position} · ", tag("bdi", str(group["name"]))),
        paragraph(", ".join(facts), class_="small"),
    ]
    if pictures is not None and len(pictures) == len(examples):
        # The examples may be in order: those shown at once are taken from all of them.
        evenly = np.linspace(0, len(examples) - 1, min(_SHOWN, len(examples))).round().astype(int)
        rest = np.setdiff1d(np.arange(len(examples)), evenly)
        card.append(_named_sheet(pictures, examples, evenly))
        if rest.size:
            card.append(details(f"{rest.size} more", _named_sheet(pictures, examples, rest)))
    else:
        if pictures is not None:
            card.append(sheet(pictures, [f"from group {group['name']}"] * len(pictures)))
        card.append(paragraph([[label(name), " "] for name in examples], class_="small"))
    return tag("article", card, class_="card")


def _named_sheet(pictures: np.ndarray, names: Sequence[str], picked: np.ndarray) -> Html:
    chosen = [names[i] for i in picked]
    return sheet(pictures[picked], [label_name(name) for name in chosen], chosen)


def sheet(pictures: np.ndarray, alts: Sequence[str], names: Sequence[str] | None = None) -> Html:
    """A contact sheet: pictures about 64 pixels wide, with their labels' names below.

    Args:
        pictures: ``[n, H, W]`` or ``[n, H, W, 3]``, uint8.
        alts: what each picture shows, for those who do not see it.
        names: the label of each picture; no names are written if it is None.
    """
    shown = []
    for i, (pixels, alt) in enumerate(zip(pictures, alts, strict=True)):
        caption = None if names is None else tag("figcaption", label(names[i]))
        scale = max(1, 64 // pixels.shape[1])  # a whole number keeps the pixels even
        shown.append(tag("figure", picture(pixels, alt, scale), caption))
    return tag("div", shown, class_="sheet")


def enlarged(pixels: np.ndarray, alt: str) -> Html:
    """A picture to stand beside a list of labels, ``[H, W]`` or ``[H, W, 3]`` uint8."""
    if pixels.shape[1] > _WIDEST:
        height = round(pixels.shape[0] * _WIDEST / pixels.shape[1])
        pixels = np.asarray(Image.fromarray(pixels).resize((_WIDEST, max(1, height))))
    scale = max(1, 96 // pixels.shape[1])  # a whole number keeps the pixels even
    return picture(pixels, alt, scale)


def repaired_section(run: Run) -> list[Content]:
    """A card a confusion: pictures (of both labels if there are two), errors before and after."""
    repaired = run.analysis.get("repaired") or []
    if not repaired:
        return []
    most = max(max(entry["before"], entry["after"]) for entry in repaired) or 1
    mistakes = run.analysis.get("mistakes")
    return [
        paragraph(
            "In each group the confusions that became rarer most, and the one that became more "
            "frequent most, on augmented hold-out images: the groups were found on these, but no "
            "head was trained on them.",
            f" Of {mistakes['images']:,} such images the base network gets {mistakes['before']:,} "
            f"wrong, the network with heads {mistakes['after']:,}."
            if mistakes
            else "",
        ),
        tag("div", [_repaired_card(run, entry, most) for entry in repaired], class_="cards"),
    ]


def _repaired_card(run: Run, entry: Mapping[str, Any], most: int) -> Html:
    groups, head = run.analysis.get("groups") or [], entry["group"]
    name = f" · {groups[head]['name']}" if 0 <= head < len(groups) else ""
    pictures = run.pictures(entry.get("pictures"))
    pair = [entry["label"], entry["confused_with"]]
    alt = f"{label_name(pair[0])}, taken for {label_name(pair[1])}"
    if pictures is None:
        shown = None
    elif len(pictures) == 2:
        shown = _named_sheet(pictures, pair, np.arange(2))
    else:
        shown = sheet(pictures, [alt] * len(pictures))
    bars = tag("dl", [_errors(when, entry[when], most) for when in ("before", "after")],
               class_="errors")  # fmt: skip
    return tag(
        "article",
        tag("h3", label(pair[0]), " taken for ", label(pair[1])),
        paragraph(f"head {head}", tag("bdi", name), class_="small"),
        tag("div", shown, bars, class_="pair"),
        class_="card",
    )


def _errors(when: str, errors: int, most: int) -> list[Content]:
    """One bar of a before-and-after pair, in proportion to the most errors of any pair."""
    bar = tag("span", class_=f"bar {when}", style=f"width:{72 * errors / most:.1f}%")
    return [tag("dt", when), tag("dd", bar, str(errors))]
