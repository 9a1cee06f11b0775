from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastheads.report import write_report
from fastheads.report.adaptive_figures import averaged
from fastheads.report.adaptive_tables import (
    _TABLE_5_1,
    _TABLE_5_2,
    cost_section,
    results_section,
)
from fastheads.report.page import render
from fastheads.report.rows import ADAPTIVE, row_for

from .adaptive_run import NAMES, ROWS, make_analysis, make_rows
from .browser import assert_shows_well, find_browser
from .conftest import save_run
from .html_reader import Reader

SECTIONS = ["Results", "Accuracy against cost", "Beside the paper", "Which layers run",
            "Layers of an image", "Measured time", "A fixed number of layers", "Under attack",
            "What the gates cost", "Training", "How to reproduce it"]  # fmt: skip
PLAIN = {"plain": 0.9}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("adaptive"), make_rows(), *make_analysis())


@pytest.fixture(scope="module")
def page(run: Path) -> Reader:
    return read(run)


def read(folder: Path) -> Reader:
    return Reader(write_report(folder).read_text(encoding="utf-8").removeprefix("<!doctype html>"))


def test_every_section_is_there(page: Reader) -> None:
    assert page.headings == SECTIONS


def test_results_equal_metrics_json(page: Reader, run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    texts, values = page.table("executed layers")
    keys = [row.key for row in ADAPTIVE.rows if row.key in metrics] + ["budget_6"]
    assert len(texts) == 1 + len(keys) == 1 + len(ROWS)
    for key, cells, exact in zip(keys, texts[1:], values[1:], strict=True):
        row = metrics[key]
        names = ("top1", "top5", "layers")
        assert exact[1:4] == [row[name]["mean"] for name in names]
        assert exact[4:] == [row["macs"], row["ms_1"]["mean"], row["ms_32"]["mean"],
                             row["parameters"]]  # fmt: skip
        for cell, name in ((5, "ms_1"), (6, "ms_32")):
            ratio = row[name]["mean"] / metrics["plain"][name]["mean"]
            assert cells[cell].endswith(f"{ratio:.3f}×")
        assert row_for(key).name in cells[0]


def test_headline_and_tiles_hold_accuracy_layers_and_times(page: Reader, run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    kept, plain = metrics["adaptive_70"], metrics["plain"]
    for name in ("ms_1", "ms_32"):
        share = kept[name]["mean"] / plain[name]["mean"]
        assert f"plain {plain[name]['mean']:.2f} ms: {share:.2f}×" in page.text
    assert "executes 6.3 of 8 layers an image" in page.text and "6.30 of 8" in page.text
    assert f"{100 * kept['top1']['mean']:.2f}" in page.text


def test_the_paper_s_tables_stand_beside_ours(page: Reader, run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    both = zip(page.tables, page.values, strict=True)
    first, second = (found for found in both if found[0][0][0] == "paper")
    assert [row[1] for row in first[0][1:]] == ["6.61", "6.37", "5.25", "5.76", "5.14"]
    ours = ("plain", "preactivation", "stochastic_depth", "adaptive_70", "adaptive_70_all")
    assert [row[5] for row in first[1][1:]] == [1 - metrics[key]["top1"]["mean"] for key in ours]
    assert len(second[0]) == 16
    rates = second[1][8:13]
    for row, rate in zip(rates, (40, 50, 60, 70, 80), strict=True):
        values = metrics[f"adaptive_{rate}"]
        assert row[6:8] == [1 - values[name]["mean"] for name in ("top1", "top5")]
        assert row[9] == values["macs"]


def test_published_numbers() -> None:
    assert [row[1] for row in _TABLE_5_1] == [6.61, 6.37, 5.25, 5.76, 5.14]
    adanets = {row[0]: row[1:5] for row in _TABLE_5_2 if row[0].startswith("Adanet")}
    assert adanets["Adanet 50 [t=0.7]"] == (23.82, 7.08, 26.56, 3.06)
    assert adanets["Adanet 101 [t=0.5]"] == (22.63, 6.26, 46.23, 5.11)
    # Section 5.3.2: 'outperform while using 20% and 33% less computations'.
    assert 3.06 / 3.8 == pytest.approx(0.8, abs=0.01)
    assert 5.11 / 7.6 == pytest.approx(0.67, abs=0.01)


def test_times_equal_the_analysis_and_say_what_of_the_saving_is_seen(
    page: Reader, run: Path
) -> None:
    latency = json.loads((run / "analysis.json").read_text())["latency"]
    metrics = json.loads((run / "metrics.json").read_text())
    texts, values = page.table("saving seen")
    row = next(i for i, cells in enumerate(texts) if "adaptive 60 %" in cells[0])
    times, plain = latency["rows"]["adaptive_60"], latency["rows"]["plain"]
    macs = metrics["adaptive_60"]["macs"] / metrics["plain"]["macs"]
    expected = [macs]
    for size in ("1", "32"):
        share = times[size]["ms"] / plain[size]["ms"]
        expected += [times[size]["ms"], share, (1 - share) / (1 - macs)]
    assert values[row][1:] == expected
    peers = [cells[0] for cells in texts[-3:]]
    assert "masked" in peers[0] and "torch.compile" in peers[2]
    assert values[-1][2] == latency["peers"]["compiled_plain"]["1"]["ms"]


def test_peers_are_compared_with_the_plain_network_of_their_own_run(tmp_path: Path) -> None:
    whole = make_analysis()[0]
    analysis = {"system": "adaptive", "latency": whole["latency"]}
    analysis["latency"]["peers"] |= {"plain": {"1": {"ms": 2.0}}, "kept": {"1": {"ms": 1.0}}}
    texts, values = read(save_run(tmp_path, make_rows(), analysis, {})).table("saving seen")
    masked = next(i for i, cells in enumerate(texts) if cells[0].startswith("masked"))
    assert values[masked][3] == 1.4 / 2.0
    assert len(texts) == 1 + len(ROWS) + 3


def test_counts_are_compared_exactly(page: Reader) -> None:
    texts, values = page.table("with gates")
    assert [row[7] for row in texts[1:]] == [
        "as expected", "as expected", "not as expected: gated parameters",
    ]  # fmt: skip
    assert [row[3] for row in values[1:]] == [1_763_878, 25_768_264, 45_040_315]
    assert [row[4] for row in texts[1:]] == ["1.78 M", "26.56 M", "46.23 M"]
    gates = page.table("share")[0]
    assert gates[1][2] == "2.30 %" and gates[3][1] == "2.31 M"


def test_budget_and_groups_equal_the_analysis(page: Reader, run: Path) -> None:
    analysis = json.loads((run / "analysis.json").read_text())
    values = next(v for t, v in zip(page.tables, page.values, strict=True)
                  if t[0][0] == "open gates")  # fmt: skip
    assert [row[1:] for row in values[1:]] == [
        [entry[name] for name in ("top1", "layers", "macs", "ms_1")] for entry in analysis["budget"]
    ]
    few, every = (t for t in page.tables if t[0][0] == "group")
    assert len(few) == 13 and len(every) == 1 + len(analysis["histogram"]["groups"])
    means = [group["mean"] for group in analysis["histogram"]["groups"]]
    assert f"{min(means):.2f}" in few[1][2] and f"{max(means):.2f}" in few[-1][2]


def test_pictures_of_both_ends_are_named(page: Reader) -> None:
    alts = [attributes["alt"] for name, attributes in page.tags if name == "img"]
    assert len(alts) == 24 and alts[:4] == alts[4:8] == ["A", "B", "C", "D"]
    assert "fewest: 3 to 4 open gates" in page.text and "most: 7 to 8 open gates" in page.text


def test_another_kept_rate_and_budgets_take_their_places(tmp_path: Path) -> None:
    rows = make_rows({"adaptive_55_all": 0.92, "budget_7": 0.9, "adaptive_90": 0.91,
                      "adaptive_55": 0.9, "plain": 0.9, "random_55": 0.8})  # fmt: skip
    analysis = {"system": "adaptive", "kept": "adaptive_55"}
    found = read(save_run(tmp_path, rows, analysis, {}))
    names = [cells[0][1:] for cells in found.table("executed layers")[0][1:]]
    assert names == [
        "plain network", "adaptive, target rate 55 %", "adaptive, target rate 90 %",
        "* adaptive 55 %: all layers, scaled by their rates",
        "layers of the same rates, closed at random, 55 %", "exactly 7 of the gates open",
    ]  # fmt: skip
    assert "With layers closed at random at the same rates" in found.text


def test_budgets_are_one_series_of_the_figure() -> None:
    rows = make_rows(PLAIN | {"adaptive_70": 0.91, "budget_5": 0.9, "budget_7": 0.92})
    text = render(cost_section(rows))
    assert text.count("fixed number</li>") == 1 and "exactly" not in text.split("<figure")[0]


def test_what_is_not_timed_is_said(page: Reader) -> None:
    rows = make_rows(PLAIN | {"adaptive_70": 0.91, "adaptive_70_all": 0.9, "random_70": 0.8})
    for key in ("adaptive_70_all", "random_70"):
        del rows[key]["ms_1"], rows[key]["ms_32"]
    text = render(results_section(rows))
    assert "Not timed, being other decisions of a network that is: * 70 %, random 70 %." in text
    assert "Not timed" not in page.text


def test_a_quick_run_gives_a_page(tmp_path: Path) -> None:
    rows = make_rows(PLAIN, seeds=1)
    for name in ("top5", "layers", "ms_1", "ms_32"):
        del rows["plain"][name]
    found = read(save_run(tmp_path, rows, {"system": "adaptive"}, {}))
    assert found.headings == ["Results", "Beside the paper", "How to reproduce it"]
    assert all(row[1] == "not measured" for row in found.table("verdict")[0][1:])
    assert "single seed" in found.text


@pytest.mark.parametrize("key", [key for key in make_analysis()[0] if key != "system"])
def test_each_part_of_the_analysis_may_stand_alone(tmp_path: Path, key: str) -> None:
    analysis, arrays = make_analysis()
    rows = make_rows(PLAIN)
    headings = read(save_run(tmp_path, rows, {"system": "adaptive", key: analysis[key]}, arrays))
    own = {"execution": "Which layers run", "trajectories": "Which layers run",
           "histogram": "Layers of an image", "extremes": "Layers of an image",
           "latency": "Measured time", "budget": "A fixed number of layers",
           "attack": "Under attack", "network": "What the gates cost",
           "counts": "What the gates cost", "curves": "Training"}  # fmt: skip
    expected = ["Results", "Beside the paper", *([own[key]] if key in own else []),
                "How to reproduce it"]  # fmt: skip
    assert headings.headings == expected


@pytest.mark.parametrize("key", ["network", "rates", "execution", "histogram"])
def test_parts_that_others_use_may_be_missing(tmp_path: Path, key: str) -> None:
    analysis, arrays = make_analysis()
    del analysis[key]
    found = read(
        save_run(tmp_path, make_rows({"plain": 0.9, "adaptive_70": 0.91}), analysis, arrays)
    )
    assert found.headings == SECTIONS


def test_a_hundred_thousand_labels_are_averaged() -> None:
    values = np.arange(200_000, dtype=np.float32).reshape(100_000, 2)
    values[:250] = np.nan
    rows = averaged(values)
    assert rows.shape == (400, 2) and np.isnan(rows[0]).all()
    assert rows[1].tolist() == values[250:500].mean(0, dtype=np.float64).tolist()
    few = np.array([[0.5], [1.0], [0.25]])
    assert averaged(few).tolist() == few.tolist()


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    analysis, arrays = make_analysis()
    evil = '<img src=x onerror="alert(1)">&'
    analysis["title"] = analysis["command"] = analysis["network"]["name"] = evil
    analysis["counts"][0]["network"] = analysis["histogram"]["groups"][0]["name"] = evil
    analysis["execution"]["groups"][0]["name"] = analysis["extremes"][0]["group"] = evil
    analysis["extremes"][0]["most"]["labels"][0] = analysis["attack"]["gates"]["group"] = evil
    found = read(save_run(tmp_path, make_rows() | {evil: make_rows()["plain"]}, analysis, arrays))
    assert found.text.count(evil) >= 10
    assert all("onerror" not in attributes for _, attributes in found.tags)


@pytest.mark.parametrize(
    ("key", "value"),
    [("execution", {"groups": [{}]}), ("extremes", [{"group": "x"}]), ("curves", 3),
     ("histogram", {"all": {}}), ("latency", {"rows": {"plain": 3}}), ("budget", [{"top1": 1}]),
     ("attack", {"gates": {"epsilon": 1}}), ("rates", {"adaptive_70": 1}),
     ("counts", [{"expected": {"macs": 1}}]), ("trajectories", [{"row": "adaptive_70"}])],
)  # fmt: skip
def test_an_incomplete_analysis_is_one_sentence(tmp_path: Path, key: str, value: object) -> None:
    rows, arrays = make_rows({"plain": 0.9, "adaptive_70": 0.91}), make_analysis()[1]
    folder = save_run(tmp_path, rows, {"system": "adaptive", key: value}, arrays)
    with pytest.raises(ValueError, match=r"analysis\.json") as caught:
        write_report(folder)
    assert "\n" not in str(caught.value) and not (folder / "report.html").exists()


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    analysis, arrays = make_analysis()
    del arrays["execution"]
    folder = save_run(tmp_path, make_rows(PLAIN), analysis, arrays)
    with pytest.raises(ValueError, match=r"analysis\.npz must hold the array 'execution'"):
        write_report(folder)


def test_gates_and_blocks_have_the_same_names() -> None:
    analysis, arrays = make_analysis()
    assert [block["name"] for block in analysis["network"]["blocks"]] == list(NAMES)
    assert arrays["execution"].shape == (len(analysis["execution"]["labels"]), len(NAMES))


@pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path")
def test_in_a_browser(run: Path, tmp_path: Path) -> None:
    assert_shows_well(write_report(run), tmp_path)
