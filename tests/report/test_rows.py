from __future__ import annotations

import re

import pytest

from fastheads.report.rows import (
    AUGMENT,
    CONCENTRATE,
    ROWS,
    byte_count,
    count,
    full_name,
    mean_and_spread,
    ordered,
    percent,
    points,
    ratio,
    row_for,
    system_of,
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
    assert points(-0.0123) == "−1.23" and points(0.5) == "+50.00"
    assert byte_count(512) == "512 B" and byte_count(1_736_580_000) == "1.74 GB"
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
    published = {row.key: row.paper for row in AUGMENT.rows if row.paper}
    assert published == {
        "base": (0.3680, 1.52e9, 1.0),
        "confusions": (0.3941, 1.56e9, 1.026),
        "randomized_confusions": (0.3297, 1.56e9, 1.026),
        "co_detections": (0.3807, 1.60e9, 1.053),
        "randomized_co_detections": (0.3213, 1.60e9, 1.053),
    }


def test_published_numbers_of_knowledge_concentration() -> None:
    published = {row.key: row.paper for row in CONCENTRATE.rows if row.paper}
    assert published == {
        "generalist": (0.277, 98e6), "sc_sc_annotated": (0.276, 155e6),
        "fc_fc": (0.315, 98e6), "fc_sc": (0.329, 135e6), "sc_sc": (0.319, 155e6),
        "fc_sc_generic_25": (0.328, 127e6), "fc_sc_generic_50": (0.324, 117e6),
        "fc_sc_generic_75": (0.314, 108e6), "paced": (0.379, 135e6),
        "paced_label": (0.328, 135e6), "specialists": (0.680, 2260e6),
    }  # fmt: skip


def test_a_system_is_known_by_its_main_metric() -> None:
    assert system_of({"x": {"mpvap": {}, "top1": {}}}) is CONCENTRATE
    assert system_of({"x": {"map50_per_label": {}, "top1": {}}}) is AUGMENT
