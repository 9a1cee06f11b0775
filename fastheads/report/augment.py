"""The report of a run of self-informed augmentation: one HTML page from the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastheads.report import figures, pictures, results
from fastheads.report.blocks import data_line, legend, reproduction_section
from fastheads.report.conditional import conditional_section
from fastheads.report.findings import summary
from fastheads.report.page import Content, Page, figure, paragraph, side_by_side
from fastheads.report.run import Run, check_rows

_PAPER = (
    "D. Warde-Farley, A. Rabinovich, D. Anguelov, “Self-informed neural network structure "
    "learning”, 2015"
)
_DATA = {"labels": "labels", "train": "training images", "holdout": "hold-out images",
         "test": "test images", "faces": "faces"}  # fmt: skip
_LOST = {"skipped": "files that could not be read were skipped",
         "dropped": "labels with too few drawings were left out"}  # fmt: skip
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


def build_page(run: Run) -> Page:
    """The page of a run, section by section."""
    analysis, metrics = run.analysis, run.metrics
    num_groups = analysis.get("num_groups")
    page = Page(
        analysis.get("title") or "Specialist heads for the labels a network confuses",
        paragraph(" ".join(summary(metrics, num_groups)), class_="lead"),
        results.tiles(metrics),
        results.claims_remark(metrics),
        data_line(analysis.get("dataset") or {}, _DATA, _LOST),
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
        where = f"contrast at bottleneck {point['bottleneck']} in analysis.json"
        check_rows(point["rows"], where, run.system)
    page.add("Where it pays", *results.contrast_section(contrasts))
    page.add("Training", *_training_section(analysis))
    page.add("How to reproduce it", *reproduction_section(analysis, _TERMS, _PAPER))
    return page


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
    return [legend({curve["row"] for curve in curves}), figure(drawn, caption)]
