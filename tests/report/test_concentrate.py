from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastheads.report import write_report
from fastheads.report.concentrate_tables import notation
from fastheads.report.concentrate_verticals import _EFT, _OPEN_IMAGES
from fastheads.report.rows import CONCENTRATE

from .browser import assert_shows_well, find_browser
from .concentrate_run import MEANS, VERTICALS, make_analysis, make_rows
from .conftest import save_run
from .html_reader import Reader

SECTIONS = ["Results", "Beside the paper", "The paper's tables", "Vertical by vertical",
            "Self-paced learning", "Given and found verticals", "Examples", "Cost and benefit",
            "Soft targets", "Training", "How to reproduce it"]  # fmt: skip
METRICS = ("mpvap", "mpvap_per_label", "top1", "top5")
GENERALIST = {"generalist": MEANS["generalist"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("concentrate"), make_rows(), *make_analysis())


@pytest.fixture(scope="module")
def page(run: Path) -> Reader:
    return read(run)


def read(folder: Path) -> Reader:
    return Reader(write_report(folder).read_text(encoding="utf-8").removeprefix("<!doctype html>"))


def plus(metric: dict) -> str:
    return f"{100 * metric['mean']:.2f}\u00a0±\u00a0{100 * metric['std']:.2f}"


def tables(page: Reader, title: str) -> list[tuple[list[list[str]], list[list[float | None]]]]:
    """All tables with a column called ``title``."""
    both = zip(page.tables, page.values, strict=True)
    return [(texts, values) for texts, values in both if title in texts[0]]


def test_every_section_is_there(page: Reader) -> None:
    assert page.headings == SECTIONS


def test_results_equal_metrics_json(page: Reader, run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    texts, values = page.table("top-5")
    keys = [row.key for row in CONCENTRATE.rows]
    assert len(texts) == 1 + len(keys) and set(keys) == set(metrics)
    for key, cells, exact in zip(keys, texts[1:], values[1:], strict=True):
        row = metrics[key]
        assert cells[1:5] == [plus(row[name]) for name in METRICS]
        assert exact[1:5] == [row[name]["mean"] for name in METRICS]
        assert exact[5:7] == [row["macs"], row["parameters"]]
        assert cells[5].endswith(f"{row['macs'] / metrics['generalist']['macs']:.3f}×")
    published = {key: cells[7:] for key, cells in zip(keys, texts[1:], strict=True)}
    assert published["paced"] == ["FC4096-SC512+D+S", "37.9", "135 M"]
    assert published["specialists"] == ["20 × FC4096-FC4096", "68.0", "2260 M"]
    assert published["worded"] == ["–", "–", "–"]
    assert "FC256-SC(16,4)+D" in texts[6][0]


def test_the_paper_s_tables_stand_beside_ours(page: Reader, run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    ((texts, values),) = tables(page, "paper: annotations")  # table 1
    assert values[1][1:3] == [metrics[key]["mpvap"]["mean"] for key in ("generalist", "fc_fc")]
    assert values[2][1:3] == [metrics[key]["mpvap"]["mean"] for key in ("sc_sc_annotated", "sc_sc")]
    assert [row[6:] for row in texts[1:]] == [["27.7", "31.5", "98 M"], ["27.6", "31.9", "155 M"]]
    others = [t for t in tables(page, "paper: mpvap") if "top-5" not in t[0][0]]  # tables 2, 3, 5
    expected = [
        (("fc_fc", "fc_sc", "sc_sc"), ["31.5", "32.9", "31.9"], ["98 M", "135 M", "155 M"]),
        (("fc_sc", "fc_sc_generic_25", "fc_sc_generic_50", "fc_sc_generic_75", "fc_fc"),
         ["32.9", "32.8", "32.4", "31.4", "31.5"], ["135 M", "127 M", "117 M", "108 M", "98 M"]),
        (("fc_sc", "paced_label", "paced"), ["32.9", "32.8", "37.9"], ["135 M"] * 3),
    ]  # fmt: skip
    assert len(others) == len(expected)
    for (texts, values), (keys, mpvap, parameters) in zip(others, expected, strict=True):
        assert [row[1] for row in values[1:]] == [metrics[key]["mpvap"]["mean"] for key in keys]
        assert [row[3] for row in values[1:]] == [metrics[key]["parameters"] for key in keys]
        assert [row[5] for row in texts[1:]] == mpvap
        assert [row[6] for row in texts[1:]] == parameters


def test_table_4_equals_the_analysis(page: Reader, run: Path) -> None:
    analysis = json.loads((run / "analysis.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    (main, main_values), (others, other_values) = tables(page, "ancestors")
    assert [row[0] for row in main[1:]] == [*VERTICALS, "mean (mpvap)", "parameters"]
    keys = ["generalist", "fc_fc", "fc_sc", "paced", "specialists"]
    pvap = analysis["per_vertical"]
    for i, vertical in enumerate(analysis["verticals"]):
        assert main[1 + i][1:5] == [
            f"{vertical[key]:,}" for key in ("labels", "nodes", "train", "test")
        ]
        assert main_values[1 + i][5:] == [pvap[key]["mean"][i] for key in keys]
        mean, std = pvap["paced"]["mean"][i], pvap["paced"]["std"][i]
        assert main[1 + i][8] == f"{100 * mean:.1f}\u00a0±\u00a0{100 * std:.1f}"
    assert main_values[-2][5:] == [metrics[key]["mpvap"]["mean"] for key in keys]
    assert len(others[0]) == 5 + len(MEANS) - len(keys)
    found = others[0].index("●found verticals")
    assert others[1][found] == "–"  # no image in that vertical
    assert other_values[2][found] == pvap["found"]["mean"][1]


@pytest.mark.parametrize(("published", "number"), [(_EFT, 20), (_OPEN_IMAGES, 5)])
def test_published_verticals_have_the_published_means(published: dict, number: int) -> None:
    assert len(published) == number + 1
    rows = np.array([values for name, values in published.items() if name != "mean"])
    # The paper's means are of unrounded numbers, and 65.86 is printed as 65.8.
    assert np.abs(rows.mean(0) - published["mean"]).max() < 0.07


def test_table_6_is_open_for_its_own_verticals(tmp_path: Path) -> None:
    analysis = {"system": "concentrate",
                "verticals": [{"name": name, "labels": 9} for name in list(_OPEN_IMAGES)[:5]],
                "per_vertical": {"generalist": {"mean": [0.5, 0.4, 0.3, 0.2, 0.1]}}}  # fmt: skip
    found = read(save_run(tmp_path, make_rows(GENERALIST), analysis, {}))
    opened = ["open" in attributes for name, attributes in found.tags if name == "details"]
    assert opened[:2] == [False, True] and found.table("vertical")[0][1][-1] == "50.0"


def test_costs_storage_and_found_verticals_equal_the_analysis(page: Reader, run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    texts, values = page.table("specialists over student")
    pair = [metrics["paced"], metrics["specialists"]]
    assert [row[1:3] for row in values[1:]] == [
        [row["mpvap"]["mean"] for row in pair], [row["parameters"] for row in pair],
        [row["macs"] for row in pair], [0.61, 5.9], [9.4, 88.1], [2_860_000, 23_350_000],
    ]  # fmt: skip
    assert texts[4][3] == "9.67×"
    stored = [row[1] for row in page.table("soft targets")[1][1:]]
    assert stored == [152868, 60, 9172080, 0.9971, 56_255_456, 368, 1_736_580_000, 33, 4632.4]
    assert "They take 30.9 times less than dense" in page.text
    values = page.table("on the found verticals")[1]
    assert [row[2] for row in values[1:]] == [0.35, 0.37, None, None]
    assert "adjusted Rand index 0.41" in page.text and "purity 0.79" in page.text
    assert page.table("stage")[0][-1][1] == "1985.2"


def test_examples_mark_what_is_right(page: Reader) -> None:
    pictures = [attributes["alt"] for name, attributes in page.tags if name == "img"]
    assert len(pictures) == 12 and pictures[:3] == ["A", "B", "Ж"]
    right = [attributes for name, attributes in page.tags
             if name == "li" and attributes.get("class") == "right"]  # fmt: skip
    assert len(right) == page.text.count("✓") == 24
    assert "Yellow-winged blackbird" in page.text


def test_settings_of_self_pacing_are_ranked_by_their_loss(page: Reader) -> None:
    texts, values = page.table("rank by loss")
    assert [row[5] for row in texts[1:]] == ["5", "3", "4", "1", "2"]
    assert values[4][2] == pytest.approx(0.0056 * 1.015, rel=0.01)
    assert [row[-1] for row in texts[1:]] == ["not converged"] * 3 + ["converged, 37.9",
                                                                     "converged, 32.8"]  # fmt: skip
    assert "rank (4)\u00a00.00568 < (5)" in page.text


def test_a_result_against_the_paper_is_said_at_the_top(tmp_path: Path) -> None:
    means = {"generalist": 0.4, "fc_fc": 0.3, "fc_sc": 0.2, "paced": 0.1, "specialists": 0.05,
             "fc_sc_generic_50": 0.35, "sc_sc": 0.3}  # fmt: skip
    found = read(save_run(tmp_path, make_rows(means), {"system": "concentrate"}, {}))
    assert "Contradicts the paper in 6 of 6 statements." in found.text
    assert "; a shared top-1 layer is" in found.text and "; FC-SC without a generic" in found.text
    for words in ("Distillation lowers mpvap of the same FC-FC student",
                  "(FC-SC instead of FC-FC) lowers mpvap",
                  "with a factor a vertical lowers mpvap",
                  "A generic part of the top-2 layer helps", "no upper bound here"):  # fmt: skip
        assert words in found.text


def test_a_quick_run_gives_a_page(tmp_path: Path) -> None:
    rows = make_rows(GENERALIST, seeds=1)
    for name in METRICS[1:]:
        del rows["generalist"][name]
    found = read(save_run(tmp_path, rows, {"system": "concentrate"}, {}))
    assert found.headings == ["Results", "How to reproduce it"]
    assert "single seed" in found.text
    cells = found.table("top-5")[0][1]
    assert cells[2:5] == ["–"] * 3


def test_rows_without_a_generalist_or_specialists(tmp_path: Path) -> None:
    rows = make_rows({"fc_sc": 0.3, "my_row": 0.2})
    found = read(save_run(tmp_path, rows, {"system": "concentrate"}, {}))
    texts = found.table("top-5")[0]
    assert "FC-SC, distilled" in texts[1][0] and "my row" in texts[2][0]
    assert not texts[1][5].endswith("×")


@pytest.mark.parametrize("key", [key for key in make_analysis()[0] if key != "system"])
def test_each_part_of_the_analysis_may_stand_alone(tmp_path: Path, key: str) -> None:
    analysis, arrays = make_analysis()
    kept = {"system": "concentrate", key: analysis[key]}
    headings = read(save_run(tmp_path, make_rows(GENERALIST), kept, arrays)).headings
    own = {"verticals": ["Vertical by vertical"], "curves": ["Self-paced learning", "Training"],
           "found": ["Given and found verticals"], "examples": ["Examples"],
           "soft_targets": ["Soft targets"]}  # fmt: skip
    assert headings == ["Results", *own.get(key, []), "How to reproduce it"]


def test_losses_and_factors_that_are_no_numbers_are_said(tmp_path: Path) -> None:
    analysis, arrays = make_analysis()
    for curve in analysis["curves"]:
        if curve["row"] == "paced_fixed":
            curve["loss"][5:] = [None] * (len(curve["loss"]) - 5)
    analysis["gamma"]["paced"][3] = None
    analysis["curves"].append({"row": "paced", "seed": 9, "step": [], "loss": [], "seconds": 0.0})
    found = read(save_run(tmp_path, make_rows(), analysis, arrays))
    assert found.table("rank by loss")[0][1][2] == "diverged" and "(1)\u00a0diverged" in found.text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    analysis, arrays = make_analysis()
    evil = '<img src=x onerror="alert(1)">&'
    analysis["title"] = analysis["command"] = evil
    analysis["verticals"][0]["name"] = analysis["found"]["groups"][0]["name"] = evil
    analysis["found"]["groups"][0] |= {"verticals": [[evil, 3]], "labels": [evil]}
    analysis["examples"][0] |= {"annotated": [evil], "vertical": evil, "top": [[evil, 0.5, True]]}
    found = read(save_run(tmp_path, make_rows() | {evil: make_rows()["paced"]}, analysis, arrays))
    assert found.text.count(evil) >= 12
    assert all("onerror" not in attributes for _, attributes in found.tags)


@pytest.mark.parametrize(
    ("key", "value"),
    [("verticals", [{"name": "x"}]), ("examples", [{"picture": 99}]), ("curves", 3),
     ("found", {"groups": [{}]}), ("heads", {"paced": {"kind": "fc_sc"}}),
     ("latency_ms", {"student": 3}), ("gamma", {"paced": 1.0})],
)  # fmt: skip
def test_an_incomplete_analysis_is_one_sentence(tmp_path: Path, key: str, value: object) -> None:
    analysis, arrays = make_analysis()
    folder = save_run(tmp_path, make_rows(), analysis | {key: value}, arrays)
    with pytest.raises(ValueError, match=r"analysis\.json") as caught:
        write_report(folder)
    assert "\n" not in str(caught.value) and not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ({"kind": "fc_fc", "top1": 4096, "top2": 512}, "FC4096-FC512"),
        ({"kind": "sc_sc", "top1": 512, "top2": 512, "distilled": True}, "SC512-SC512+D"),
        ({"kind": "fc_sc", "top1": 4096, "top2": 512, "generic": 128, "distilled": True,
          "pacing": {"level": "vertical"}}, "FC4096-SC(512,128)+D+S"),
        (None, None),
    ],
)  # fmt: skip
def test_heads_are_written_as_in_the_paper(head: dict | None, text: str | None) -> None:
    assert notation(head) == text


@pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path")
def test_in_a_browser(run: Path, tmp_path: Path) -> None:
    assert_shows_well(write_report(run), tmp_path)
