"""The sections on which layers run: by label, over training, by image, and under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastheads.report import adaptive_figures as charts
from fastheads.report.adaptive_layer_findings import gated_blocks
from fastheads.report.blocks import legend
from fastheads.report.page import (
    Content,
    Html,
    details,
    figure,
    number,
    paragraph,
    side_by_side,
    table,
    tag,
)
from fastheads.report.pictures import sheet
from fastheads.report.rows import percent, row_for
from fastheads.report.rows_adaptive import target_rate
from fastheads.report.run import Run

_SHOWN = 12  # groups of a table; the others fold away


def downsampling_gates(analysis: Mapping[str, Any]) -> list[int]:
    """Numbers, from 0, of the gates whose blocks change the size."""
    return [i for i, block in enumerate(gated_blocks(analysis)) if block.get("downsampling")]


def layers_section(run: Run, kept: str | None) -> list[Content]:
    """Figures 5.4 and 5.5: execution by label, and the rates over training."""
    shrinking = downsampling_gates(run.analysis)
    blocks = [_heatmap(run, shrinking), *_trajectories(run.analysis, kept, shrinking)]
    shown = [block for block in blocks if block is not None]
    if not shown:
        return []
    return [side_by_side(*shown), *_other_trajectories(run.analysis, kept, shrinking)]


def _heatmap(run: Run, shrinking: Sequence[int]) -> Html | None:
    execution = run.analysis.get("execution")
    if not execution:
        return None
    if "execution" not in run.arrays:
        raise ValueError("analysis.npz must hold the array 'execution' of analysis.json")
    values = run.arrays["execution"]
    alt = "How often each gate opens for the images of each label, labels in groups."
    drawn = charts.execution_heatmap(values, execution.get("groups") or [], shrinking, alt=alt)
    caption = (
        f"How often each gate opens for each of {len(values):,} labels, from never (light) to "
        "always (dark; the other way round on a dark page), the paper's figure 5.4. Labels are in "
        "groups, whose names stand at the left; ▼ marks blocks that change the size."
        + (f" Row “{row_for(execution['row']).short}”." if execution.get("row") else "")
    )
    return figure(drawn, caption)


def _trajectories(
    analysis: Mapping[str, Any], kept: str | None, shrinking: Sequence[int]
) -> list[Html]:
    entries = analysis.get("trajectories") or []
    mine = [entry for entry in entries if entry["row"] == kept] or entries
    return [_trajectory(mine[0], shrinking, True)] if mine else []


def _other_trajectories(
    analysis: Mapping[str, Any], kept: str | None, shrinking: Sequence[int]
) -> list[Content]:
    """The first seed of each other row, folded away."""
    first: dict[str, Any] = {}
    for entry in analysis.get("trajectories") or []:
        first.setdefault(entry["row"], entry)
    mine = kept if kept in first else next(iter(first), None)
    others = [_trajectory(entry, shrinking) for row, entry in first.items() if row != mine]
    return (
        [details("Rates over training of the other rows", side_by_side(*others))] if others else []
    )


def _trajectory(entry: Mapping[str, Any], shrinking: Sequence[int], words: bool = False) -> Html:
    row = row_for(entry["row"])
    drawn = charts.rate_trajectories(
        entry["epochs"],
        np.asarray(entry["layers"], dtype=float),
        shrinking,
        target_rate(entry["row"]),
        alt=f"Rate of each gate over training, {row.short}.",
    )
    caption = f"Rates over training, “{row.short}”, one seed."
    if words:
        caption += (
            " The paper's figure 5.5: downsampling blocks are bold, the last gate is dashed, the "
            "dotted line is the target rate; the numbers are those of the gates."
        )
    return figure(drawn, caption)


def images_section(run: Run) -> list[Content]:
    """Figures 5.6 and 5.7: layers by image and group, and the pictures at both ends."""
    histogram = run.analysis.get("histogram") or {}
    blocks: list[Content] = []
    if histogram:
        groups = histogram.get("groups") or []
        large = [group for group in groups if group["images"] >= 10] or groups
        ends = (
            [pick(large, key=lambda group: group["mean"]) for pick in (min, max)] if large else []
        )
        ends = ends[:1] if len(large) == 1 else ends
        drawn = charts.layer_histogram(histogram["all"], ends, alt="Images by their open gates.")
        mean, std = histogram["all"]["mean"], histogram["all"]["std"]
        caption = (
            f"Open gates of an image: {mean:.2f} ± {std:.2f} over all test images (dotted), and "
            "the groups that use the fewest and the most. The paper's figure 5.6: 10.81 ± 1.11 of "
            "16 (ImageNet, target rate 40 %), birds one less than consumer goods."
        )
        shown = sorted(groups, key=lambda group: group["mean"])
        blocks.append(side_by_side(figure(drawn, caption), *_group_table(shown)))
    return [*blocks, *_extremes(run)]


def _group_table(groups: Sequence[Mapping[str, Any]]) -> list[Content]:
    if not groups:
        return []
    written: list[list[Content]] = [
        [
            tag("bdi", str(group["name"])),
            number(group["images"], f"{group['images']:,}"),
            number(group["mean"], f"{group['mean']:.2f}\u00a0±\u00a0{group['std']:.2f}"),
        ]
        for group in groups
    ]
    header = ["group", "images", "open gates"]
    caption = "Open gates of an image, mean ± standard deviation over the images of each group."
    if len(written) <= _SHOWN:
        return [table(header, written, caption, class_="narrow")]
    half = _SHOWN // 2
    few = table(header, [*written[:half], *written[-half:]],
                f"The {half} groups with the fewest open gates and the {half} with the most, mean "
                "± standard deviation over their images.", class_="narrow")  # fmt: skip
    rest = table(header, written, caption, class_="narrow")
    return [tag("div", few, details(f"All {len(written)} groups", rest))]


def _extremes(run: Run) -> list[Content]:
    extremes = run.analysis.get("extremes") or []
    if not extremes:
        return []
    return [
        paragraph(
            "The test images that use the fewest and the most layers of their group (the paper's "
            "figure 5.7, where they are easy and hard ones)."
        ),
        tag("div", [_extreme(run, entry) for entry in extremes], class_="cards"),
    ]


def _extreme(run: Run, entry: Mapping[str, Any]) -> Html:
    content: list[Content] = [tag("h3", tag("bdi", str(entry["group"])))]
    for end in ("fewest", "most"):
        shown = entry[end]
        pictures, names = run.pictures(shown["pictures"]), [str(name) for name in shown["labels"]]
        assert pictures is not None
        low, high = min(shown["layers"]), max(shown["layers"])
        layers = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        content.append(paragraph(f"{end}: {layers} open gates", class_="small"))
        content.append(sheet(pictures, names, names))
    return tag("article", content, class_="card")


def attack_section(analysis: Mapping[str, Any], kept: str | None) -> list[Content]:
    """Figures 5.8 and 5.9: accuracy under attack, and the rates of the gates."""
    attack = analysis.get("attack") or {}
    rows, epsilons = attack.get("rows") or {}, attack.get("epsilons") or []
    columns: list[Content] = []
    jpeg = f"top-1 after JPEG of quality {attack.get('quality', 75)}, %"
    for kind, title in (("direct", "top-1 on attacked images, %"), ("jpeg", jpeg)):
        if any(row.get(kind) for row in rows.values()):
            drawn = charts.attack_curves(epsilons, rows, kind, title, alt=f"{title}, by strength.")
            columns.append(tag("figure", drawn))
    gates = attack.get("gates") or {}
    if not columns and not gates:
        return []
    blocks: list[Content] = []
    if columns:
        blocks = [
            paragraph(
                "Each pixel of a test image is moved by ε of its range in the direction that "
                "raises the network's own loss (fast gradient sign method), and the images are "
                "classified as they are or after JPEG compression: the paper's figure 5.8."
            ),
            legend(rows),
            side_by_side(*columns),
        ]
    if gates:
        blocks.append(_gates_attacked(attack, gates, kept, downsampling_gates(analysis)))
    return blocks


def _gates_attacked(
    attack: Mapping[str, Any], gates: Mapping[str, Any], kept: str | None, shrinking: Sequence[int]
) -> Html:
    alt = "Rate of each gate before and after the attack."
    drawn = charts.rates_before_and_after(gates["before"], gates["after"], shrinking, alt=alt)
    of = f" of the group “{gates['group']}”" if gates.get("group") else ""
    curve = ((attack.get("rows") or {}).get(kept) or {}).get("direct") or []
    by_strength = dict(zip(attack.get("epsilons") or [], curve, strict=False))
    falls = ""
    if {0.0, gates["epsilon"]} <= set(by_strength):
        first, then = percent(by_strength[0.0]), percent(by_strength[gates["epsilon"]])
        falls = f" Top-1 of all attacked images falls from {first} to {then}\u00a0%."
    caption = (
        f"Rates of the gates on images{of} before and after an attack of ε = {gates['epsilon']:g}, "
        f"the paper's figure 5.9.{falls} In the paper it falls from 74.62 to 11\u00a0% on birds."
    )
    return figure(drawn, caption)
