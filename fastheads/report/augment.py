"""The report of a run of self-informed augmentation: one HTML page from the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastheads.report import figures, pictures, results
from fastheads.report.conditional import conditional_section
from fastheads.report.findings import summary
from fastheads.report.page import (
    Content,
    Html,
    Page,
    details,
    figure,
    paragraph,
    side_by_side,
    table,
    tag,
)
from fastheads.report.run import Run, check_rows, read_run

_PAPER = (
    "D. Warde-Farley, A. Rabinovich, D. Anguelov, “Self-informed neural network structure "
    "learning”, 2015"
)
_TERMS = (
    ("mAP@50 per label", "For each label, the test images are ranked by its score and the average "
     "precision of the best 50 is taken (a perfect ranking gives 100 %); then the mean over the "
     "labels. It asks: are the images that score highest for a label really that label?"),
    ("mAP@50 per image", "For each test image, the labels are ranked by score and the average "
     "precision of the best 50 is taken; then the mean over the images."),
    ("top-1, top-5", "Share of the test images for which an annotated label is the best scored "
     "one, or among the best five. An image may carry several labels."),
    ("multiply-adds", "Multiplications of a weight with an activation to evaluate one image."),
    ("confusion", "A label among the best scored ones (the paper takes 100) while another is "
     "annotated (equation 3). A co-detection: two labels among the best at once (equation 4)."),
    ("group", "Labels that spectral clustering (Ng, Jordan, Weiss) puts together because the base "
     "network confuses them with the same labels. Each group has one head."),
    ("purity", "Share of a group's labels that have the name given to the group: a script."),
)  # fmt: skip


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` from the files of a finished run.

    Sections whose data the run does not hold are left out.

    Args:
        folder: a run folder with ``metrics.json``, ``analysis.json`` and ``analysis.npz``.

    Returns:
        The path of the page; it needs no other file.

    Raises:
        ValueError: if one of the three files is missing, broken or incomplete.
    """
    folder = Path(folder)
    run = read_run(folder)
    try:
        page = build_page(run)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{folder / 'analysis.json'} must be complete, got {type(error).__name__}: {error}"
        ) from error
    return page.write(folder / "report.html")


def build_page(run: Run) -> Page:
    """The page of a run, section by section."""
    analysis, metrics = run.analysis, run.metrics
    num_groups = analysis.get("num_groups")
    page = Page(
        analysis.get("title") or "Specialist heads for the labels a network confuses",
        paragraph(" ".join(summary(metrics, num_groups)), class_="lead"),
        results.tiles(metrics),
        results.claims_notice(metrics),
        _data_line(analysis.get("dataset") or {}),
    )
    page.add("Results", *results.results_section(metrics, num_groups))
    page.add("Beside the paper", *results.claims_section(metrics))
    page.add("Groups", *pictures.groups_section(run))
    page.add("Similarity and spectrum", *_spectral_section(run))
    page.add("Repaired confusions", *pictures.repaired_section(run))
    page.add(
        "Evaluating only some groups",
        *conditional_section(
            analysis.get("conditional") or [], metrics, analysis.get("latency_ms") or {}
        ),
    )
    contrasts = analysis.get("contrast") or []
    for point in contrasts:
        check_rows(point["rows"], f"contrast at bottleneck {point['bottleneck']} in analysis.json")
    page.add("Where it pays", *results.contrast_section(contrasts))
    page.add("Training", *_training_section(analysis))
    page.add("How to reproduce it", *_reproduction_section(analysis))
    return page


def _data_line(dataset: Mapping[str, Any]) -> Html | None:
    parts = {"labels": "labels", "train": "training images", "holdout": "hold-out images",
             "test": "test images", "faces": "faces"}  # fmt: skip
    shown = [
        f"{dataset[key]:,} {name}" if isinstance(dataset[key], int) else f"{dataset[key]} {name}"
        for key, name in parts.items()
        if dataset.get(key) is not None
    ]
    lost = {"skipped": "files that could not be read were skipped",
            "dropped": "labels with too few drawings were left out"}  # fmt: skip
    shown += [f"{dataset[key]:,} {text}" for key, text in lost.items() if dataset.get(key)]
    return paragraph("Data: ", ", ".join(shown), ".", class_="small") if shown else None


def _spectral_section(run: Run) -> list[Content]:
    analysis, blocks = run.analysis, []
    if "similarity" in run.arrays:
        drawn = figures.similarity_matrix(
            run.arrays["similarity"],
            run.arrays.get("similarity_bounds"),
            alt="Matrix of similarities with labels ordered by group; squares on the diagonal.",
        )
        blocks.append(figure(drawn, (
            "How similar labels are: how often they are confused with the same labels, beside "
            "chance. Labels are ordered by group; darker (on a dark page: lighter) means more "
            "similar. Good groups show as filled squares on the diagonal with little outside; the "
            "numbers are those of the groups. Shades are logarithmic."
        )))  # fmt: skip
    if values := analysis.get("eigenvalues"):
        num_groups = analysis.get("num_groups")
        drawn = figures.spectrum(values, num_groups, alt="Largest eigenvalues, in falling order.")
        blocks.append(figure(drawn, [
            "The largest eigenvalues of the normalised similarity. As many of them lie near 1 as "
            "there are groups that are hardly ever confused with each other; a wide gap says where "
            "to stop. ", _gap_remark(analysis.get("suggested_num_groups"), num_groups),
        ]))  # fmt: skip
    return [side_by_side(*blocks)] if blocks else []


def _gap_remark(suggested: int | None, num_groups: int | None) -> str:
    """Whether the number of groups is the one that the eigengap suggests."""
    if suggested is None:
        return ""
    if suggested == num_groups:
        return f"The gap suggests {suggested}, the number of groups here."
    asked = "" if num_groups is None else f"; {num_groups} groups were asked for"
    return f"The gap suggests {suggested}{asked}."


def _training_section(analysis: Mapping[str, Any]) -> list[Content]:
    curves = analysis.get("curves") or []
    if not curves:
        return []
    drawn = figures.training_curves(curves, alt="Training loss of each row over the steps.")
    caption = (
        "Training loss over the steps, one line a seed; random groups are dashed. Rows that train "
        "heads and classifier start from the features of the fixed base network."
    )
    return [results.legend({curve["row"] for curve in curves}), figure(drawn, caption)]


def _reproduction_section(analysis: Mapping[str, Any]) -> list[Content]:
    blocks: list[Content] = []
    if command := analysis.get("command"):
        blocks += [tag("pre", tag("code", str(command)))]
    if environment := analysis.get("environment"):
        text = ", ".join(f"{key} {value}" for key, value in environment.items())
        blocks += [tag("h3", "Environment"), paragraph(text)]
    if durations := analysis.get("durations"):
        blocks += [tag("h3", "Durations"), _durations(durations)]
    if settings := analysis.get("settings"):
        rows: list[list[Content]] = [[str(key), str(value)] for key, value in settings.items()]
        shown = table(["setting", "value"], rows, "All settings of the run.", align="ll")
        blocks.append(details("Settings", shown))
    terms = [[tag("dt", name), tag("dd", meaning)] for name, meaning in _TERMS]
    blocks += [tag("h3", "What the words mean"), tag("dl", terms, class_="terms")]
    return [*blocks, tag("footer", "The method: ", _PAPER, ".")]


def _durations(durations: Sequence[Mapping[str, Any]]) -> Html:
    total = sum(entry["seconds"] for entry in durations)
    longest = max(entry["seconds"] for entry in durations) or 1.0
    rows: list[list[Content]] = [
        [
            str(entry["stage"]),
            f"{entry['seconds']:.1f}",
            tag("span", class_="bar", style=f"width:{6 * entry['seconds'] / longest:.2f}rem"),
        ]
        for entry in durations
    ]
    rows.append([tag("b", "total"), tag("b", f"{total:.1f}"), ""])
    return table(["stage", "seconds", ""], rows, "Wall time of each stage.", "lrl", "narrow")
