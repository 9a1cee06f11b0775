"""The figure of results: ceilings, one point a provider and case, ours numbered."""

import re

import matplotlib
import numpy as np
import pytest
from fastheads_bench import figure
from fastheads_bench.harness import COLUMNS, append
from PIL import Image

RED = (200, 16, 46)


def row(op, shape, provider, us, moved, macs, ratio, dtype="float32"):
    values = {"op": op, "pass": "forward", "shape": shape, "dtype": dtype, "provider": provider,
              "device": "cpu: a processor", "threads": 2, "median_us": us, "q25_us": us,
              "q75_us": us, "bytes": moved, "macs": macs, "max_error": 0.0, "torch": "2.15",
              "ratio_to_best_peer": ratio, "version": "1.2", "date": "2026-11-21"}  # fmt: skip
    return {name: str(values[name]) for name in COLUMNS}


COUNTING = [
    row("topk", "[32, 1000]", "fastheads", 10, 1e5, 0, 3.0),
    row("topk", "[32, 1000]", "torch.topk", 30, 1e5, 0, 1.0),
    row("counts", "[64]", "fastheads", 20, 2e5, 500, 0.5, "int32"),
    row("counts", "[64]", "scatter", 10, 2e5, 500, 1.0, "int32"),
    row("clustering", "fit", "fastheads", 99, 1e6, "", "", "int64"),
]
MULTIPLYING = [
    row("gate", "[8]", "fastheads", 5, 1e4, 4e5, 1.5),
    row("gate", "[8]", "fastheads compiled", 5, 1e4, 4e5, 1.5),
    row("gate", "[8]", "eager", 7.5, 1e4, 4e5, 1.0),
]
CEILINGS = [
    row("copy", "[1]", "torch", 1000, 2e7, 0, 1.0),
    row("matmul", "[1]", "torch", 1000, 1e5, 1e8, 1.0),
    row("matmul", "[1]", "torch", 1000, 1e5, 3e8, 1.0, "bfloat16"),
]


def words(rows, tmp_path):
    """All text in the figure."""
    path = tmp_path / "deep" / "figure.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.draw(rows, path)
    found = re.findall(r"<text [^>]*>([^<]*)</text>", path.read_text())
    return [text.replace("&#160;", " ") for text in found]


def test_not_blank_and_ours_stand_out(tmp_path):
    figure.draw(CEILINGS + COUNTING + MULTIPLYING, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 100
    assert (pixels == 255).all(1).mean() < 0.97
    assert (pixels == RED).all(1).sum() > 1000


def test_everything_is_labelled(tmp_path):
    text = words(CEILINGS + COUNTING + MULTIPLYING, tmp_path)
    for wanted in (
        "Roofline", "Memory", "Against peers", "copy 20 GB/s", "float32  100 GMAC/s",
        "a processor, 2 threads, PyTorch 2.15, fastheads 1.2, 2026-11-21",
        "1  topk [32, 1000] float32", "2  counts [64] int32", "3  clustering fit int64",
        "4  gate [8] float32", "4  gate [8] float32 compiled", "3.00", "0.50", "no peer",
        "torch.topk", "fastheads", "eager",
    ):  # fmt: skip
        assert wanted in text
    assert not any("bfloat16" in each for each in text)  # a roof of what was not measured
    # A case is numbered at its points in both panels and in both of ours; counts only in one.
    assert [text.count(str(number)) for number in (1, 2, 3, 4)] == [1, 1, 1, 4]


@pytest.mark.parametrize("ceilings", [CEILINGS, []])
def test_without_multiply_adds(ceilings, tmp_path):
    text = words(ceilings + COUNTING, tmp_path)
    assert "Roofline" not in text and "Memory" in text
    assert ("copy 20 GB/s" in text) == bool(ceilings)


def test_without_ceilings(tmp_path):
    assert "Roofline" in words(MULTIPLYING, tmp_path)


def test_from_a_file_of_several_machines(tmp_path):
    append(tmp_path / "results.csv", [{**MULTIPLYING[0], "device": "elsewhere", "op": "other"}])
    append(tmp_path / "results.csv", COUNTING)
    path = tmp_path / "figure.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.main([str(tmp_path / "results.csv"), str(path)])
    assert "topk" in path.read_text() and "other" not in path.read_text()
