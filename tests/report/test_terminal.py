from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fastheads.report.rows import row_for
from fastheads.report.terminal import print_results

from . import adaptive_run, concentrate_run, stream_run
from .conftest import METRICS, make_rows


def printed(width: int, rows: dict | None = None) -> str:
    out = io.StringIO()
    path = Path("runs") / ("a long name " * 12) / "report.html"
    print_results(rows or make_rows(), path, Console(file=out, width=width))
    assert out.getvalue().splitlines()[-1] == str(path)  # whole, whatever the width
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 110, 200])
def test_every_number_is_there_at_any_width(width: int) -> None:
    text = printed(width)
    rows = make_rows()
    for row in rows.values():
        for name in METRICS:
            assert f"{100 * row[name]['mean']:.2f}" in text
            assert f"±\u00a0{100 * row[name]['std']:.2f}" in text
        assert f"{row['macs'] / rows['base']['macs']:.3f}×" in text
    assert "…" not in text


def test_one_line_a_row_where_there_is_room() -> None:
    lines = [line for line in printed(120).splitlines() if "randomized co-detections" in line]
    assert len(lines) == 1 and "641 k" in lines[0] and "1.031×" in lines[0]


@pytest.mark.parametrize("width", [80, 120])
def test_students_and_specialists_at_any_width(width: int) -> None:
    rows = concentrate_run.make_rows()
    del rows["specialists"]["top1"], rows["specialists"]["top5"]
    text = printed(width, rows)
    for row in rows.values():
        for name in ("mpvap", "mpvap_per_label", "top1", "top5"):
            assert name not in row or f"{100 * row[name]['mean']:.2f}" in text
        assert f"{row['macs'] / rows['generalist']['macs']:.3f}×" in text
    assert "…" not in text and "5.84 M" in text


@pytest.mark.parametrize("width", [80, 120])
def test_layers_and_times_of_adaptive_networks_at_any_width(width: int) -> None:
    rows = adaptive_run.make_rows()
    text = printed(width, rows)
    for key, row in rows.items():
        assert row_for(key).short.split()[0] in text
        for name in ("layers", "ms_1", "ms_32"):
            assert f"{row[name]['mean']:.2f}" in text
    assert "…" not in text
    del rows["plain"]["layers"]
    assert "–" in printed(width, rows)


def test_without_a_generalist_there_is_no_ratio() -> None:
    text = printed(120, concentrate_run.make_rows({"fc_sc": 0.3}))
    assert "FC-SC + D" in text and "×" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_streams_at_any_width(width: int) -> None:
    rows = stream_run.make_rows()
    text = printed(width, rows)
    for row in rows.values():
        for name in ("base_top5", "original_top5", "streamed_top5", "streamed_all"):
            assert name not in row or f"{100 * row[name]['mean']:.2f}" in text
    assert "…" not in text and f"{rows['kept_replay']['stream_seconds']['mean']:.2f}" in text
    assert "distillation" in text and "averaged" in text  # no name is cut
    del rows["resnet"]["macs"], rows["resnet"]["parameters"]
    assert len(printed(width, rows).splitlines()) == len(text.splitlines())
