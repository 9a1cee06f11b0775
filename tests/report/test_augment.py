from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fastheads.report import write_report

from .browser import Browser, assert_shows_well, find_browser
from .conftest import GROUPS, METRICS, ROW_MEANS, make_analysis, make_rows, save_run
from .html_reader import Reader

SECTIONS = ["Results", "Beside the paper", "Groups", "Similarity and spectrum",
            "Repaired confusions", "Evaluating only some groups", "Where it pays", "Training",
            "How to reproduce it"]  # fmt: skip


@pytest.fixture(scope="module")
def report(finished_run: Path) -> Path:
    return write_report(finished_run)


@pytest.fixture(scope="module")
def page(report: Path) -> Reader:
    return Reader(report.read_text(encoding="utf-8").removeprefix("<!doctype html>"))


def read(folder: Path) -> Reader:
    return Reader(write_report(folder).read_text(encoding="utf-8").removeprefix("<!doctype html>"))


def test_report_lies_in_the_run_folder(report: Path, finished_run: Path, page: Reader) -> None:
    assert report == finished_run / "report.html"
    assert page.headings == SECTIONS
    assert not [path for path in finished_run.iterdir() if path.suffix == ".tmp"]


def test_results_equal_metrics_json(page: Reader, finished_run: Path) -> None:
    metrics = json.loads((finished_run / "metrics.json").read_text())
    texts, values = page.table("paper: mAP@50")
    keys = ["base", "retrained", "confusions", "randomized_confusions", "co_detections",
            "randomized_co_detections"]  # fmt: skip
    assert len(texts) == 1 + len(keys) and set(keys) == set(metrics)
    for key, cells, exact in zip(keys, texts[1:], values[1:], strict=True):
        row = metrics[key]
        for name, cell, value in zip(METRICS, cells[1:5], exact[1:5], strict=True):
            assert value == row[name]["mean"]
            assert cell == f"{100 * row[name]['mean']:.2f}\u00a0±\u00a0{100 * row[name]['std']:.2f}"
        assert exact[5] == row["macs"] and exact[6] == row["parameters"]
        assert cells[5].endswith(f"{row['macs'] / metrics['base']['macs']:.3f}×")
    assert texts[3][0].endswith("base + 8 heads, confusions")
    published = [cells[7:] for cells in texts[1:]]
    assert published == [["36.80", "1.52 B1.000×"], ["–", "–"], ["39.41", "1.56 B1.026×"],
                         ["32.97", "1.56 B1.026×"], ["38.07", "1.60 B1.053×"],
                         ["32.13", "1.60 B1.053×"]]  # fmt: skip


def test_conditional_table_equals_the_analysis(page: Reader, finished_run: Path) -> None:
    analysis = json.loads((finished_run / "analysis.json").read_text())
    texts, values = page.table("right group among them")
    assert len(values) == 2 + len(analysis["conditional"])
    base = json.loads((finished_run / "metrics.json").read_text())["base"]
    assert values[1][1:5] == [base["top1"]["mean"], base["top5"]["mean"], None, base["macs"]]
    assert values[1][6:] == [0.43, 5.25]
    for entry, exact in zip(analysis["conditional"], values[2:], strict=True):
        expected = [entry["top1"], entry["top5"], entry["recall"], entry["macs"]]
        assert exact[1:5] == expected
        assert exact[6:] == [entry["latency_ms"]["1"], entry["latency_ms"]["32"]]
    assert texts[2][0].endswith("1 of 8, confusions")


def test_contrast_and_durations_equal_the_analysis(page: Reader, finished_run: Path) -> None:
    analysis = json.loads((finished_run / "analysis.json").read_text())
    texts, values = page.table("bottleneck")
    assert [cells[0] for cells in texts[1:]] == ["16", "32", "64", "128"]
    for point, exact in zip(analysis["contrast"], values[1:], strict=True):
        rows = point["rows"]
        assert exact[1] == rows["base"]["map50_per_label"]["mean"]
        assert exact[3] == rows["confusions"]["map50_per_label"]["mean"]
    assert page.table("stage")[0][-1][:2] == ["total", "310.7"]
    assert "gain more than the spread at a bottleneck of 16, 32 and 64" in page.text
    assert analysis["command"] in page.text


def test_groups_show_every_picture_with_its_label(page: Reader) -> None:
    images = [attributes for name, attributes in page.tags if name == "img"]
    names = [name for labels in GROUPS.values() for name in labels]
    alts = [image["alt"] or "" for image in images[: len(names)]]
    assert [alt.removeprefix("\u25cc") for alt in alts] == names
    for group in GROUPS:
        assert group in page.text
    assert "Runway" in page.text and "Tempura" in page.text
    repaired = [image["alt"] for image in images[len(names) :]]
    assert repaired[:4] == ["A", "B", "Ж", "Ш"]
    total = "Of 16,272 such images the base network gets 9,000 wrong, the network with heads 6,200"
    assert total in " ".join(page.text.split())


def test_page_refers_to_nothing_outside_and_every_figure_is_described(page: Reader) -> None:
    for name, attributes in page.tags:
        assert name not in ("script", "iframe", "object")
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/png;base64,"))
        if name == "img":
            assert attributes["alt"]
        if attributes.get("role") == "img":
            assert attributes["aria-label"]


def test_a_result_against_the_paper_is_said_at_the_top(tmp_path: Path) -> None:
    means = dict(ROW_MEANS, confusions=(0.03, 0.3, 0.3, 0.5), co_detections=(0.06, 0.3, 0.3, 0.5))
    found = read(save_run(tmp_path, make_rows(means), {}, {}))
    assert "Contradicts the paper in 7 of 7 statements." in found.text
    assert "lower mAP@50 per label" in found.text and "no good guide" in found.text


def test_agreement_with_the_paper_is_said_too(tmp_path: Path) -> None:
    means = dict(ROW_MEANS, randomized_confusions=(0.05, 0.3, 0.3, 0.5),
                 randomized_co_detections=(0.05, 0.3, 0.3, 0.5),
                 co_detections=(0.2, 0.6, 0.5, 0.8))  # fmt: skip
    assert "Agrees with the paper." in read(save_run(tmp_path, make_rows(means), {}, {})).text


def test_sections_without_data_are_left_out(tmp_path: Path) -> None:
    base = {"base": make_rows()["base"]}
    found = read(save_run(tmp_path, base, {}, {}))
    assert found.headings == ["Results", "How to reproduce it"]


@pytest.mark.parametrize("key", list(make_analysis()[0]))
def test_each_part_of_the_analysis_may_stand_alone(tmp_path: Path, key: str) -> None:
    analysis, arrays = make_analysis()
    base = {"base": make_rows()["base"]}
    kept = {name: array for name, array in arrays.items() if not name.startswith("similarity")}
    headings = read(save_run(tmp_path, base, {key: analysis[key]}, kept)).headings
    own = {"groups": "Groups", "repaired": "Repaired confusions", "contrast": "Where it pays",
           "conditional": "Evaluating only some groups", "curves": "Training",
           "eigenvalues": "Similarity and spectrum"}  # fmt: skip
    assert headings == ["Results", *([own[key]] if key in own else []), "How to reproduce it"]


def test_many_pictures_fold_away_but_none_is_lost(tmp_path: Path) -> None:
    analysis, arrays = make_analysis()
    names = [f"label {i}" for i in range(40)]
    arrays["many"] = np.resize(arrays["sheet_0"], (40, 32, 32))
    arrays["pair_0"] = np.resize(arrays["pair_0"], (3, 32, 32))
    analysis["groups"] = [
        {"name": "many", "size": 40, "examples": names, "sheet": "many"},
        {"name": "empty", "size": 1, "examples": [], "sheet": "nowhere"},
    ]
    analysis["repaired"] = analysis["repaired"][:1]
    found = read(save_run(tmp_path, make_rows(), analysis, arrays))
    alts = [attributes["alt"] for name, attributes in found.tags if name == "img"]
    assert sorted(alts[:40], key=str) == sorted(names) and "20 more" in found.text
    assert alts[:2] == ["label 0", "label 2"] and alts[19] == "label 39"  # from all of them
    assert alts[40:] == ["A, taken for B"] * 3


def test_the_suggested_number_of_groups_is_said(tmp_path: Path) -> None:
    analysis = {"eigenvalues": [1.0, 0.9, 0.2], "num_groups": 3, "suggested_num_groups": 2}
    assert (
        "The gap suggests 2; 3 groups were asked for."
        in read(save_run(tmp_path, make_rows(), analysis, {})).text
    )


def test_additional_rows_are_shown_last(tmp_path: Path) -> None:
    means = dict(ROW_MEANS, fine_tuned=(0.3, 0.7, 0.6, 0.9), my_row=(0.2, 0.6, 0.5, 0.8))
    rows = read(save_run(tmp_path, make_rows(means), {}, {})).table("parameters")[0]
    assert "fine-tuned" in rows[-2][0] and "my row" in rows[-1][0]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    analysis, arrays = make_analysis()
    evil = '<img src=x onerror="alert(1)">&'
    analysis["title"] = analysis["command"] = evil
    analysis["groups"][0] |= {"name": evil, "examples": [evil] * 18}
    analysis["settings"] = {evil: evil}
    analysis["environment"] = {"cpu": evil}
    found = read(save_run(tmp_path, make_rows(), analysis, arrays))
    assert found.text.count(evil) >= 23
    assert all("onerror" not in attributes for _, attributes in found.tags)


@pytest.mark.parametrize(
    ("key", "value"),
    [("groups", [{"name": "x"}]), ("conditional", [{}]), ("durations", [{"stage": "x"}]),
     ("contrast", [{"bottleneck": 3, "rows": {"confusions": {}}}]), ("curves", 3),
     ("groups", [{"name": "x", "size": 3, "examples": ["a"], "sheet": "nowhere"}])],
)  # fmt: skip
def test_an_incomplete_analysis_is_one_sentence(tmp_path: Path, key: str, value: object) -> None:
    analysis, arrays = make_analysis()
    folder = save_run(tmp_path, make_rows(), analysis | {key: value}, arrays)
    with pytest.raises(ValueError, match=r"analysis\.(json|npz)") as caught:
        write_report(folder)
    assert "\n" not in str(caught.value) and not (folder / "report.html").exists()


@pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path")
def test_in_a_browser(report: Path, tmp_path: Path) -> None:
    assert_shows_well(report, tmp_path)


@pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path")
def test_the_browser_check_sees_what_is_wrong(report: Path, tmp_path: Path) -> None:
    page = report.read_text(encoding="utf-8")
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    wrong = (
        '<div style="width:1500px">wide</div><img src="missing.png"><script>oops()</script></body>'
    )
    copy = tmp_path / "copy.html"
    copy.write_text(page.replace("</body>", wrong), encoding="utf-8")
    with Browser(find_browser() or "") as browser:
        browser.open(copy, 390)
        assert len(browser.complaints()) >= 2 and len(browser.requests()) == 2
        assert browser.evaluate("document.documentElement.scrollWidth") >= 1500
