from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fastheads.report import write_report
from fastheads.report.lesion_sections import _PAPER_ERRORS

from .browser import assert_shows_well, find_browser
from .conftest import save_run
from .html_reader import Reader
from .lesion_run import SHRINKING, WHOLE, make_analysis, make_rows

SECTIONS = ["Results", "Beside the paper", "One block deleted", "Many deleted, or reordered",
            "Lengths of paths", "Trained on effective paths", "Training",
            "How to reproduce it"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("lesion"), make_rows(), *make_analysis())


@pytest.fixture(scope="module")
def page(run: Path) -> Reader:
    return read(run)


def read(folder: Path) -> Reader:
    return Reader(write_report(folder).read_text(encoding="utf-8").removeprefix("<!doctype html>"))


def test_every_section_is_there(page: Reader) -> None:
    assert page.headings == SECTIONS


def test_results_equal_metrics_json_in_the_order_of_the_study(page: Reader, run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    texts, values = page.table("top-5")
    for key, cells, exact in zip(WHOLE, texts[1:], values[1:], strict=True):
        row = metrics[key]
        assert exact[1:] == [row["top1"]["mean"], row["top5"]["mean"], 14 if key == "vgg" else 54,
                             row["macs"], row["parameters"]]  # fmt: skip
        assert f"{key} of glyphs" in cells[0]


def test_every_deletion_equals_the_analysis(page: Reader, run: Path) -> None:
    single = json.loads((run / "analysis.json").read_text())["single"]
    texts, values = page.table("deleted")
    assert len(texts) == 1 + 1 + 54
    for column, key in enumerate(WHOLE, 1):
        errors = np.array(single[key]["error"]).mean(0)
        assert values[1][column] == np.mean(single[key]["whole"])
        assert [row[column] for row in values[2 : 2 + errors.size]] == errors.tolist()
        marked = [i for i, row in enumerate(texts[2:]) if row[column].endswith("▼")]
        assert marked == ([] if key == "vgg" else list(SHRINKING))
    assert texts[20][2] == "–"  # VGG has fewer layers


def test_published_errors_stand_beside_ours(page: Reader, run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    texts, values = page.table("paper: error")
    assert [row[1:] for row in texts[1:]] == [
        ["54 of 54", texts[1][2], "6.10"], ["23 of 54", texts[2][2], "5.96"],
    ]  # fmt: skip
    keys = ("resnet", "effective_paths")
    assert [row[2] for row in values[1:]] == [1 - metrics[key]["top1"]["mean"] for key in keys]
    assert _PAPER_ERRORS == {"resnet": 0.0610, "effective_paths": 0.0596}


def test_effective_paths_stand_beside_the_paper_s(page: Reader) -> None:
    texts, values = page.table("effective paths enter")
    assert [row[2] for row in texts[1:]] == ["9 to 22"] * 3 + ["5 to 17"]
    assert values[1][3:] == [0.957, 0.108] and texts[-1][-1] == "0.45"
    share = sum(math.comb(54, x) for x in range(5, 18)) / 2**54  # section 4.4.3
    assert f"{100 * share:.4f} %" in page.text


def test_findings_of_the_run_are_shown_with_their_verdicts(page: Reader) -> None:
    texts, _ = page.table("verdict")
    verdicts = {row[0]: row[1] for row in texts[1:]}
    mild = (
        "Deleting a block that does not downsample has little effect, unlike a layer of a network"
    )
    assert verdicts[f"{mild} without shortcuts."] == "agrees"
    assert verdicts["Short paths carry the gradient."] == "contradicts"
    assert "Paths of 9 to 22 of 54 blocks." in page.text
    assert "Contradicts the paper in 1 of 11 statements." in page.text
    assert "98.02\u00a0%, exactly." in page.text  # P(19..35) of section 4.4.1


def test_the_headline_is_computed(page: Reader, run: Path) -> None:
    single = json.loads((run / "analysis.json").read_text())["single"]
    errors = np.array(single["resnet"]["error"]).mean(0)
    assert (
        f"Without one of its 54 blocks, a residual network errs on "
        f"{100 * np.median(errors):.2f}\u00a0% of the test images in the median and on "
        f"{100 * errors.max():.2f}\u00a0% at worst"
    ) in page.text


def test_a_given_network_alone(tmp_path: Path) -> None:
    analysis, _ = make_analysis()
    for key in ("single", "many", "reorder", "paths", "gradients", "effective", "networks"):
        analysis[key] = {"network": analysis[key]["resnet"]}
    del analysis["training"], analysis["curves"]
    found = read(save_run(tmp_path, make_rows({"network": 0.1}, seeds=1), analysis, {}))
    assert found.headings == [s for s in SECTIONS if "rain" not in s]
    assert "The paper's figure 4.4" in found.text and "enlarged" not in found.text
    verdicts = {row[0]: row[1] for row in found.table("verdict")[0][1:]}
    assert verdicts["Stochastic depth makes a network slightly more resilient."] == "not measured"


def test_a_run_without_an_analysis_gives_a_page(tmp_path: Path) -> None:
    rows = make_rows({"resnet": 0.1}, seeds=1)
    del rows["resnet"]["top5"]
    found = read(save_run(tmp_path, rows, {"system": "lesion"}, {}))
    assert found.headings == ["Results", "Beside the paper", "How to reproduce it"]
    assert all(row[1] == "not measured" for row in found.table("verdict")[0][1:])


@pytest.mark.parametrize("key", [key for key in make_analysis()[0] if key != "system"])
def test_each_part_of_the_analysis_may_stand_alone(tmp_path: Path, key: str) -> None:
    kept = {"system": "lesion", key: make_analysis()[0][key]}
    found = read(save_run(tmp_path, make_rows(), kept, {}))
    own = {"single": "One block deleted", "many": "Many deleted, or reordered",
           "reorder": "Many deleted, or reordered", "gradients": "Lengths of paths",
           "effective": "Lengths of paths", "remaining": "Lengths of paths",
           "training": "Trained on effective paths", "curves": "Training"}  # fmt: skip
    expected = ["Results", "Beside the paper", *([own[key]] if key in own else []),
                "How to reproduce it"]  # fmt: skip
    assert found.headings == expected


@pytest.mark.parametrize("key", ["networks", "chance", "single", "paths", "effective"])
def test_parts_that_others_use_may_be_missing(tmp_path: Path, key: str) -> None:
    analysis, _ = make_analysis()
    del analysis[key]
    found = read(save_run(tmp_path, make_rows(), analysis, {}))
    assert set(SECTIONS) - set(found.headings) <= {"One block deleted"}
    assert ("One block deleted" in found.headings) == (key != "single")


def test_gradients_of_no_norm_are_left_out(tmp_path: Path) -> None:
    lengths = [0, 1, 2, 3, 4]
    gradients = {"resnet": {"lengths": lengths, "norm": [[1.0], [0.5], [0.25], [0.0], [0.0]]}}
    analysis = {"system": "lesion", "gradients": gradients, "networks": {"resnet": {"depth": 4}}}
    found = read(save_run(tmp_path, make_rows({"resnet": 0.1}), analysis, {}))
    assert "Each block more multiplies its norm by 0.5 " in found.text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    analysis, _ = make_analysis()
    evil = '<img src=x onerror="alert(1)">&'
    analysis["title"] = analysis["networks"]["vgg"]["name"] = evil
    analysis["findings"][0]["sentence"] = evil
    found = read(save_run(tmp_path, make_rows(), analysis, {}))
    assert found.text.count(evil) >= 4
    assert all("onerror" not in attributes for _, attributes in found.tags)


@pytest.mark.parametrize(
    ("key", "value"),
    [("single", {"resnet": {"error": [[0.1]]}}), ("many", {"resnet": {}}), ("curves", 3),
     ("reorder", {"resnet": {"tau": [1.0]}}), ("effective", {"resnet": {"low": 1}}),
     ("training", {"rows": ["resnet"]}), ("findings", [{"key": "single_mild"}])],
)  # fmt: skip
def test_an_incomplete_analysis_is_one_sentence(tmp_path: Path, key: str, value: object) -> None:
    folder = save_run(tmp_path, make_rows(), {"system": "lesion", key: value}, {})
    with pytest.raises(ValueError, match=r"analysis\.json") as caught:
        write_report(folder)
    assert "\n" not in str(caught.value) and not (folder / "report.html").exists()


@pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path")
def test_in_a_browser(run: Path, tmp_path: Path) -> None:
    assert_shows_well(write_report(run), tmp_path)
