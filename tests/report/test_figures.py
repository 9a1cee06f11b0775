from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest

from fastheads.report import adaptive_figures, concentrate_figures, figures, lesion_figures

from . import adaptive_run, concentrate_run, lesion_run
from .conftest import make_analysis, make_rows

ANALYSIS, ARRAYS = make_analysis()
STUDENTS = concentrate_run.make_rows()
GATED = adaptive_run.make_rows()
GATED_ANALYSIS, GATED_ARRAYS = adaptive_run.make_analysis()
LESIONS = lesion_run.make_analysis()[0]
PACED = [curve for curve in concentrate_run.make_analysis()[0]["curves"]
         if curve["row"] in ("paced", "paced_label")]  # fmt: skip
CHARTS = {
    "bars": lambda: figures.row_bars(make_rows(), "top1", alt="a <b>"),
    "spectrum": lambda: figures.spectrum(ANALYSIS["eigenvalues"], 8, alt="a <b>"),
    "similarity": lambda: figures.similarity_matrix(
        ARRAYS["similarity"], ARRAYS["similarity_bounds"], alt="a <b>"
    ),
    "macs": lambda: figures.conditional(
        ANALYSIS["conditional"], "top1", "macs", 12e6, (1.0, 0.39), alt="a <b>"
    ),
    "latency": lambda: figures.conditional(ANALYSIS["conditional"], "top5", "32", alt="a <b>"),
    "contrast": lambda: figures.contrast(ANALYSIS["contrast"], "top1", None, alt="a <b>"),
    "gain": lambda: figures.contrast(ANALYSIS["contrast"], "top1", "retrained", alt="a <b>"),
    "curves": lambda: figures.training_curves(ANALYSIS["curves"], alt="a <b>"),
    "verticals": lambda: concentrate_figures.by_vertical(
        ["a", "漢字 $x$"], {"fc_fc": [1.0, None], "paced": [2.0, 3.0]}, {"paced": [0.1, None]}, 1.0,
        alt="a <b>"
    ),
    "numbered": lambda: concentrate_figures.numbered_curves(
        PACED, {"paced": 4, "paced_label": 5}, alt="a <b>"
    ),
    "shares": lambda: concentrate_figures.generic_shares(
        [0, 0.5, 1], [STUDENTS[key]["mpvap"] for key in ("fc_sc", "found", "fc_fc")],
        [0.329, None, 0.315], alt="a <b>"
    ),
    "cost": lambda: adaptive_figures.accuracy_over_cost(GATED, "top1", "ms_32", alt="a <b>"),
    "heatmap": lambda: adaptive_figures.execution_heatmap(
        GATED_ARRAYS["execution"], GATED_ANALYSIS["execution"]["groups"], [2, 5], alt="a <b>"
    ),
    "trajectories": lambda: adaptive_figures.rate_trajectories(
        [0, 1], np.array([[0.85, 0.85], [1.0, 0.5]]), [0], 0.7, alt="a <b>"
    ),
    "histogram": lambda: adaptive_figures.layer_histogram(
        GATED_ANALYSIS["histogram"]["all"], GATED_ANALYSIS["histogram"]["groups"][:2], alt="a <b>"
    ),
    "attack": lambda: adaptive_figures.attack_curves(
        [0, 0.1], {"plain": {"jpeg": [0.9, 0.1]}, "adaptive_70": {}}, "jpeg", "top-1", alt="a <b>"
    ),
    "gates": lambda: adaptive_figures.rates_before_and_after([1, 0.5], [0.9, 0.4], alt="a <b>"),
    "budget": lambda: adaptive_figures.budget_curve(
        [{"k": 2, "top1": 0.9}, {"k": 1, "top1": 0.8}], (1.5, 0.85), "top1", alt="a <b>"
    ),
    "single": lambda: lesion_figures.single_deletions(
        LESIONS["single"], {"resnet": [18]}, 0.9, alt="a <b>"
    ),
    "many": lambda: lesion_figures.many_deletions(LESIONS["many"], {}, 0.9, alt="a <b>"),
    "reorder": lambda: lesion_figures.reordering(LESIONS["reorder"], 0.9, alt="a <b>"),
    "lengths": lambda: lesion_figures.length_bars([0.25, 0.5, 0.25], (1, 1), alt="a <b>"),
    "norms": lambda: lesion_figures.gradient_norms(LESIONS["gradients"], (5, 17), alt="a <b>"),
    "remaining": lambda: lesion_figures.remaining_paths(
        2, [1], [[1.0, 0.5, 0.0]], (0, 1), alt="a <b>"
    ),
    "size": lambda: concentrate_figures.size_and_accuracy(STUDENTS, "mpvap", alt="a <b>"),
}  # fmt: skip


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter()
            if node.tag.endswith("text")]  # fmt: skip


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_clean_svg_in_the_page_s_colours(name: str) -> None:
    before = dict(matplotlib.rcParams)
    svg = CHARTS[name]()
    assert dict(matplotlib.rcParams) == before
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "a <b>" and root.get("viewBox") and not root.get("width")
    assert "var(--" in svg or name == "similarity"
    for sentinel in (figures.INK, figures.MUTED, figures.LINE, figures.SURFACE, figures.ACCENT):
        assert sentinel not in svg
    assert "<style" not in svg and "<metadata" not in svg and "DejaVu" not in svg
    addresses = re.findall(r'href="([^"]{,20})', svg)
    assert all(address.startswith(("#", "data:image/png;")) for address in addresses)


@pytest.mark.parametrize("name", CHARTS)
def test_charts_are_reproducible(name: str) -> None:
    assert CHARTS[name]() == CHARTS[name]()


def test_bars_show_every_row_s_name_and_value() -> None:
    metrics = make_rows()
    shown = texts(figures.row_bars(metrics, "map50_per_image", alt=""))
    for row in metrics.values():
        assert f"{100 * row['map50_per_image']['mean']:.2f}" in shown
    assert "randomized co-detections" in shown and "mAP@50 per image, %" in shown


def test_rows_keep_their_colour_in_every_figure() -> None:
    for name in ("bars", "contrast", "curves"):
        svg = CHARTS[name]()
        for key in make_rows():
            assert f"var(--row-{key})" in svg


def test_spectrum_marks_the_gap() -> None:
    svg = figures.spectrum([0.2, 1.0, 0.9, 0.3], 2, alt="")  # any order
    assert "2 groups, gap 0.600" in texts(svg)
    assert not any("gap" in text for text in texts(figures.spectrum([1.0], 1, alt="")))


def test_similarity_squares_lie_on_the_groups() -> None:
    svg = figures.similarity_matrix(np.eye(6, dtype=np.float32), [0, 2, 6], alt="")
    squares = [node.attrib for node in ElementTree.fromstring(svg) if node.tag == "rect"]
    assert [(s["x"], s["y"], s["width"]) for s in squares] == [
        ("0.0", "0.0", "2.0"),
        ("2.0", "2.0", "4.0"),
    ]
    assert texts(svg) == ["0", "1"]


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.full((2, 2), np.nan), np.ones((1, 1))])
def test_similarity_of_degenerate_matrices(matrix: np.ndarray) -> None:
    assert "data:image/png" in figures.similarity_matrix(matrix, None, alt="")


def test_conditional_names_each_number_of_groups_once_a_line() -> None:
    shown = texts(CHARTS["macs"]())
    assert [shown.count(text) for text in ("2", "3", "all", "base")] == [2, 2, 2, 1]


def test_curves_are_linear_when_a_loss_is_not_positive() -> None:
    curves = [{"row": "base", "seed": 0, "step": [0, 1, 2], "loss": [1.0, 0.5, 0.0]}]
    assert "training step" in texts(figures.training_curves(curves, alt=""))


def test_numbers_stand_at_the_ends_of_the_curves() -> None:
    shown = texts(CHARTS["numbered"]())
    assert shown.count("(4)") == shown.count("(5)") == 1
    lost = [{"row": "paced", "seed": 0, "step": [0, 1, 2], "loss": [1.0, None, None]}]
    drawn = concentrate_figures.numbered_curves(lost, {"paced": 4}, alt="")
    assert "(4)" not in texts(drawn)  # the line ends where there is no number


def test_enlarged_curves_start_later_on_a_linear_axis() -> None:
    late = concentrate_figures.numbered_curves(PACED, {"paced": 4, "paced_label": 5}, 0.5, alt="")
    assert "0" not in texts(late) and "4000" in texts(late)
    assert "0.1" not in texts(late)


def test_verticals_are_named_and_rows_keep_their_colour() -> None:
    svg = CHARTS["verticals"]()
    assert {"a", "漢字 $x$"} <= set(texts(svg))
    assert "var(--row-paced)" in svg and "var(--row-fc_fc)" in svg


def test_rates_are_joined_and_named_and_plain_is_the_unit() -> None:
    shown = texts(CHARTS["cost"]())
    assert {"40", "50", "60", "70", "80", "90"} <= set(shown)
    assert any("× plain (0.48 ms)" in text for text in shown)
    alone = adaptive_figures.accuracy_over_cost({"adaptive_40": GATED["adaptive_40"]}, "top1",
                                                "macs", alt="")  # fmt: skip
    assert "executed multiply-adds" in texts(alone)


def test_the_heatmap_is_one_picture_with_the_groups_beside_it() -> None:
    svg = CHARTS["heatmap"]()
    assert svg.count("<image") == 1 and len(svg) < 400_000
    assert {"Latin Lu", "Cyrillic", "Hebrew אב"} <= set(texts(svg))
    assert texts(svg).count("▼") == 2 and texts(svg).count("gate") == 1
    many = np.random.default_rng(0).random((100_000, 33), dtype=np.float32)
    assert len(adaptive_figures.execution_heatmap(many, [], alt="")) < 400_000


def test_numbers_of_gates_at_the_ends_of_trajectories() -> None:
    assert {"1", "2"} <= set(texts(CHARTS["trajectories"]()))
    same = np.full((2, 9), 0.9)
    drawn = adaptive_figures.rate_trajectories([0, 1], same, alt="")
    assert "1, 2, 3, 4, 5, 6…" in texts(drawn)


def test_chance_and_downsampling_are_marked() -> None:
    assert "chance" in texts(CHARTS["single"]()) and "chance" in texts(CHARTS["many"]())
    without = lesion_figures.single_deletions({"vgg": LESIONS["single"]["vgg"]}, {}, alt="")
    assert "chance" not in texts(without)
