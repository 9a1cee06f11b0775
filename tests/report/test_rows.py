from __future__ import annotations

import re

import pytest

from fastheads.report.rows import (
    ROWS,
    count,
    full_name,
    mean_and_spread,
    ordered,
    percent,
    ratio,
    row_for,
)
from fastheads.report.styles import CSS


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (12_203_520, "12.2 M"), (999_600, "1.00 M"),
     (621_303, "621 k"), (1.52e9, "1.52 B"), (99_990_000, "100 M"), (3e12, "3.00 T")],
)  # fmt: skip
def test_count(value: float, text: str) -> None:
    assert count(value) == text


def test_formats() -> None:
    assert percent(0.39406) == "39.41" and percent(None) == percent(float("nan")) == "n/a"
    assert ratio(1.026 * 1520, 1520) == "1.026×" and ratio(1, 0) == "n/a"
    metric = {"mean": 0.5, "std": 0.0123, "seeds": [0.4, 0.5, 0.6]}
    assert mean_and_spread(metric) == "50.00\u00a0±\u00a01.23"
    assert mean_and_spread({"mean": 0.5, "std": 0.0, "seeds": [0.5]}) == "50.00"


def test_order_and_names() -> None:
    keys = ["extra_row", "randomized_confusions", "other", "base", "confusions"]
    rows = ordered(keys)
    assert [row.key for row in rows] == [
        "base", "confusions", "randomized_confusions", "extra_row", "other",
    ]  # fmt: skip
    assert rows[3].short == "extra row" and rows[3].color != rows[4].color
    assert full_name(row_for("confusions"), 12) == "base + 12 heads, confusions"
    assert full_name(row_for("confusions")) == "base + heads, confusions"


def test_every_row_has_a_colour_of_its_own_in_light_and_dark() -> None:
    assert len({row.color for row in ROWS}) == len({row.dark for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert CSS.count(f"--row-{row.key}:") == 2
        assert re.fullmatch("#[0-9a-f]{6}", row.color) and re.fullmatch("#[0-9a-f]{6}", row.dark)


def test_published_numbers() -> None:
    published = {row.key: row.paper for row in ROWS if row.paper}
    assert published == {
        "base": (0.3680, 1.52e9, 1.0),
        "confusions": (0.3941, 1.56e9, 1.026),
        "randomized_confusions": (0.3297, 1.56e9, 1.026),
        "co_detections": (0.3807, 1.60e9, 1.053),
        "randomized_co_detections": (0.3213, 1.60e9, 1.053),
    }
