from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastheads.report import write_report
from fastheads.report.rows_stream import STREAM
from fastheads.report.stream_sections import SINGLE_TARGET, TABLE_5
from fastheads.report.stream_tables import TABLE_1, TABLE_2, TABLE_3, TABLE_4

from .browser import assert_shows_well, find_browser
from .conftest import save_run
from .html_reader import Reader
from .stream_run import GUARDS, KEPT, KINDS, NETWORKS, SOFT, make_analysis, make_rows

SECTIONS = ["Learning the stream", "Guards against forgetting", "Against retraining",
            "Beside the paper", "One arrival after the other", "What was forgotten",
            "Before and after", "Base training", "Time and costs", "Training",
            "How to reproduce it"]  # fmt: skip
STREAM_ONLY = {"system": "stream"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("stream"), make_rows(), *make_analysis())


@pytest.fixture(scope="module")
def page(run: Path) -> Reader:
    return read(run)


@pytest.fixture(scope="module")
def metrics(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def read(folder: Path) -> Reader:
    return Reader(write_report(folder).read_text(encoding="utf-8").removeprefix("<!doctype html>"))


def means(row: dict, *names: str) -> list[float]:
    return [row[name]["mean"] for name in names]


def test_every_section_is_there(page: Reader) -> None:
    assert page.headings == SECTIONS


def test_the_rows_are_those_of_the_system() -> None:
    keys = [*NETWORKS, *SOFT, *GUARDS]
    assert [row.key for row in STREAM.rows] == [*keys, "from_scratch"]


def test_table_4_stands_beside_ours(page: Reader, metrics: dict) -> None:
    texts, values = page.table("exact")
    assert len(texts) == 1 + len(NETWORKS)
    for key, cells, exact in zip(NETWORKS, texts[1:], values[1:], strict=True):
        row = metrics[key]
        names = ("base_top5", "original_top5", "streamed_top5", "streamed_all", "streamed_exact")
        assert [exact[i] for i in (1, 3, 5, 9, 10)] == means(row, *names)
        seeds = zip(row["original_top5"]["seeds"], row["base_top5"]["seeds"], strict=True)
        assert exact[7] == pytest.approx(np.mean([after - before for after, before in seeds]))
        published = TABLE_4.get(key)
        shown = [f"{100 * value:.1f}" for value in published] if published else ["–"] * 3
        assert [cells[i] for i in (2, 4, 6)] == shown
    kept = texts[1 + list(NETWORKS).index(KEPT)]
    assert kept[8] == "−0.6" and kept[7].startswith("−5.")


def test_published_numbers() -> None:
    assert TABLE_1 == {"senet": (0.447, 0.797), "resnet": (0.421, 0.758), "vgg": (0.413, 0.736)}
    assert TABLE_2["senet_soft"] == (0.647, 0.388) and TABLE_2["resnet_soft"] == (0.693, 0.376)
    for key, (top5, top1) in TABLE_3.items():
        assert TABLE_4[key][0] == top5 > top1  # 'copied from Table 3 for convenience'
    assert {key: TABLE_2[key] for key in ("resnet", "senet")} == {
        key: TABLE_3[key] for key in ("resnet", "senet")
    }
    assert TABLE_4[KEPT] == (0.868, 0.862, 0.754)
    # Section 8.2.2: 48 channels are 'the only one' with a positive change.
    assert [key for key, row in TABLE_4.items() if row[1] > row[0]] == ["inception_48"]
    # Section 8.3: 'around a 5% increase', 'roughly 40% slower' and '25% faster'.
    assert TABLE_5["senet"][0] / SINGLE_TARGET[0] == pytest.approx(1.05, abs=0.01)
    assert TABLE_5["inception_96"][0] / TABLE_5["senet"][0] == pytest.approx(1.4, abs=0.02)
    assert TABLE_5["inception_48"][0] / TABLE_5["resnet"][0] == pytest.approx(0.75, abs=0.01)


def test_tables_1_to_3_hold_base_accuracies(page: Reader, metrics: dict) -> None:
    found = [(texts, values) for texts, values in zip(page.tables, page.values, strict=True)
             if texts[0] in (["", "top-1", "paper", "top-5", "paper"],
                             ["", "top-5", "paper", "top-1", "paper"])]  # fmt: skip
    for (texts, values), paper in zip(found, (TABLE_1, TABLE_2, TABLE_3), strict=True):
        names = [f"base_{cell.replace('-', '')}" for cell in (texts[0][1], texts[0][3])]
        for key, cells, exact in zip(paper, texts[1:], values[1:], strict=False):
            assert exact[1::2] == means(metrics[key], *names)
            assert cells[2::2] == [f"{100 * value:.1f}" for value in paper[key]]
    assert len(found[2][0]) == 1 + len(NETWORKS)  # ours that the paper lacks stand below


def test_table_5_holds_times_and_ratios(page: Reader, metrics: dict) -> None:
    texts, values = page.table("base epoch")
    assert texts[2][2::2] == ["403.7", "20.9", "19.3×"]
    assert texts[-1][1:] == ["–", "395.7", "–", "394.3", "–", "1.0×"]
    for key, exact in zip(NETWORKS, values[1:], strict=False):
        row = metrics[key]
        assert exact[1:5:2] == means(row, "base_epoch_seconds", "stream_epoch_seconds")
        assert exact[5] == pytest.approx(exact[1] / exact[3], rel=1e-3)


def test_guards_equal_metrics_json(page: Reader, metrics: dict) -> None:
    texts, values = page.table("3 points")
    assert [row[3] for row in texts[1:]] == [
        "beyond", "beyond", "beyond", "not decided", *5 * ["within"],
    ]  # fmt: skip
    for key, exact in zip((KEPT, *GUARDS), values[1:], strict=True):
        row = metrics[key]
        names = ("original_top5", "streamed_top5", "streamed_all", "streamed_exact")
        assert [exact[i] for i in (1, 4, 5, 6)] == means(row, *names)
        before = metrics[KEPT]["before_all"]["mean"]
        assert exact[7] == pytest.approx(row["streamed_all"]["mean"] - before)
        assert exact[8] == row["stream_seconds"]["mean"]


def test_retraining_and_tiles(page: Reader, metrics: dict) -> None:
    texts, values = page.table("base pictures, top-5")
    names = ("original_top5", "streamed_top5", "streamed_all")
    for exact, key in zip(values[1:], (KEPT, "kept_together", "retrained"), strict=True):
        assert exact[1:4] == means(metrics[key], *names)
    assert "retrained from scratch" in texts[3][0] and values[3][4] == pytest.approx(690, abs=5)
    assert "Retraining takes 46.0\u00a0±\u00a00.8× as long as “together”." in page.text
    assert "no guard −5.76" in page.text


def test_forgotten_labels_by_group(page: Reader, run: Path) -> None:
    labels = json.loads((run / "analysis.json").read_text())["forgotten"]["labels"]
    values = next(v for t, v in zip(page.tables, page.values, strict=True)
                  if t[0] == ["", "labels", "before", "after", "change"])  # fmt: skip
    for part, row in zip((True, False), values[1:], strict=True):
        own = [one for one in labels if one["component"] is part]
        assert row[1] == len(own)
        assert row[2] == pytest.approx(np.mean([one["before"] for one in own]))
        assert row[4] == pytest.approx(row[3] - row[2])


def test_pictures_show_the_best_five_before_and_after(page: Reader) -> None:
    alts = [attributes["alt"] for name, attributes in page.tags if name == "img"]
    assert alts == list(KINDS)
    assert "é = e + ◌\u0301" in page.text and "◌\u0301 ✓" in page.text


def test_colour_pictures(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 180, 300), np.uint8)
    example = {"kind": "puggle", "labels": ["pug", "beagle"], "before": ["pug"], "after": ["cat"]}
    found = read(save_run(tmp_path, make_rows(("resnet",)), STREAM_ONLY | {"examples": [example]},
                          {"example_pictures": pixels}))  # fmt: skip
    (image,) = (attributes for name, attributes in found.tags if name == "img")
    assert (image["width"], image["height"]) == ("144", "86")
    assert "puggle = pug + beagle" in found.text and "pug ✓" in found.text


def test_a_quick_run_gives_a_page(tmp_path: Path) -> None:
    rows = {"resnet": {"base_top5": make_rows(("resnet",), seeds=1)["resnet"]["base_top5"]}}
    found = read(save_run(tmp_path, rows, STREAM_ONLY, {}))
    assert found.headings == ["Beside the paper", "Base training", "How to reproduce it"]
    assert all(row[1] == "not measured" for row in found.table("verdict")[0][1:])
    assert "single seed" in found.text


def test_a_single_seed_has_no_spread(tmp_path: Path) -> None:
    rows = make_rows(("resnet", "senet", KEPT, "kept_replay", "retrained"), seeds=1)
    analysis, arrays = make_analysis(seeds=1)
    del analysis["guard"], analysis["retraining"], analysis["examples"]
    found = read(save_run(tmp_path, rows, analysis, arrays))
    assert "±" not in found.text.replace("After ±", "") and "single seed" in found.text
    verdicts = {row[0]: row[1] for row in found.table("verdict")[0][1:]}
    assert "undecided" not in verdicts.values()
    assert next(v for k, v in verdicts.items() if k.startswith("Retraining")) == "agrees"


def test_a_kept_row_without_guards(tmp_path: Path) -> None:
    found = read(save_run(tmp_path, make_rows((KEPT, "resnet")), STREAM_ONLY, {}))
    assert "Guards against forgetting" not in found.headings
    verdicts = {row[0]: row[1] for row in found.table("verdict")[0][1:]}
    assert verdicts["A guard keeps the base accuracy within 3\u00a0points while the stream is "
                    "learned."] == "not measured"  # fmt: skip


def test_guards_without_the_kept_row(tmp_path: Path) -> None:
    rows = make_rows(tuple(GUARDS))
    found = read(save_run(tmp_path, rows, STREAM_ONLY | {"kept": KEPT}, {}))
    assert found.headings == ["Beside the paper", "How to reproduce it"]


@pytest.mark.parametrize("key", [key for key in make_analysis()[0] if key != "system"])
def test_each_part_of_the_analysis_may_stand_alone(tmp_path: Path, key: str) -> None:
    analysis, arrays = make_analysis()
    rows = {"resnet": {"base_top5": {"mean": 0.8, "std": 0.1, "seeds": [0.7, 0.9]}}}
    found = read(save_run(tmp_path, rows, STREAM_ONLY | {key: analysis[key]}, arrays))
    own = {
        "arrivals": "One arrival after the other",
        "forgotten": "What was forgotten",
        "examples": "Before and after",
        "costs": "Time and costs",
        "curves": "Training",
    }
    expected = ["Beside the paper", "Base training", "How to reproduce it", *own.values()]
    expected = [section for section in SECTIONS
                if section in expected[:3] or section == own.get(key)]  # fmt: skip
    assert found.headings == expected


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    analysis, arrays = make_analysis()
    evil = '<img src=x onerror="alert(1)">&'
    analysis["title"] = analysis["command"] = analysis["examples"][0]["kind"] = evil
    analysis["examples"][0]["labels"] = analysis["examples"][0]["after"] = [evil]
    analysis["forgotten"] = {"row": evil, "labels": [
        {"label": evil, "images": 3, "before": 0.9, "after": 0.1, "component": True}]}  # fmt: skip
    kept = {key: analysis[key] for key in ("title", "command", "examples", "forgotten")}
    rows = {evil: {"base_top5": {"mean": 0.5, "std": 0.0, "seeds": [0.5]}}}
    found = read(save_run(tmp_path, rows, STREAM_ONLY | kept, arrays))
    assert found.text.count(evil) >= 5
    assert all("onerror" not in attributes for _, attributes in found.tags)


@pytest.mark.parametrize(
    ("key", "value"),
    [("examples", [{"kind": "é"}]), ("curves", 3), ("epochs", [{"row": "senet"}]),
     ("forgotten", {"labels": [{"label": "a"}]}), ("guard", 3), ("costs", {"rows": {"senet": 3}}),
     ("arrivals", {"rows": {"senet": {"original_top5": [[0.5, 0.4]]}}})],
)  # fmt: skip
def test_an_incomplete_analysis_is_one_sentence(tmp_path: Path, key: str, value: object) -> None:
    rows, arrays = make_rows(("resnet",)), make_analysis()[1]
    folder = save_run(tmp_path, rows, STREAM_ONLY | {key: value}, arrays)
    with pytest.raises(ValueError, match=r"analysis\.json") as caught:
        write_report(folder)
    assert "\n" not in str(caught.value) and not (folder / "report.html").exists()


def test_missing_pictures_and_wrong_rows_are_named(tmp_path: Path) -> None:
    analysis = STREAM_ONLY | {"examples": make_analysis()[0]["examples"]}
    with pytest.raises(ValueError, match=r"must hold the array 'example_pictures'"):
        write_report(save_run(tmp_path / "a", make_rows(("resnet",)), analysis, {}))
    with pytest.raises(ValueError, match=r"an object in the row 'resnet', got 3"):
        write_report(save_run(tmp_path / "b", {"resnet": 3}, STREAM_ONLY, {}))
    with pytest.raises(ValueError, match=r"the number 'macs' in the row 'resnet'"):
        write_report(save_run(tmp_path / "c", {"resnet": {"macs": None}}, STREAM_ONLY, {}))


@pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path")
def test_in_a_browser(run: Path, tmp_path: Path) -> None:
    assert_shows_well(write_report(run), tmp_path)
