from __future__ import annotations

import re

import pytest

from fastheads.report.blocks import mark
from fastheads.report.rows import (
    ADAPTIVE,
    AUGMENT,
    CONCENTRATE,
    LESION,
    ROWS,
    STREAM,
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
from fastheads.report.rows_adaptive import target_rate
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


def test_systems_of_the_same_metric_are_known_by_their_rows() -> None:
    row = {"top1": {}}
    assert system_of({"plain": row, "stochastic_depth": row}) is ADAPTIVE
    assert system_of({"adaptive_55": row}) is ADAPTIVE
    assert system_of({"resnet": row, "stochastic_depth": row}) is LESION
    assert system_of({"network": row}) is LESION
    assert system_of({"resnet": {"base_top5": {}}, "vgg": {}}) is STREAM


def test_a_key_of_two_systems_is_named_by_the_rows_beside_it() -> None:
    whole, classifier = ordered(["retrained", "senet"])[1], ordered(["retrained", "base"])[1]
    assert whole.short == "retrained" and classifier.short == "classifier retrained"
    assert "var(--row-from_scratch," in mark(whole) and "var(--row-retrained," in mark(classifier)
    assert row_for("retrained") == classifier


def test_a_row_of_two_systems_stands_in_the_order_of_the_other_rows() -> None:
    assert [row.key for row in ordered(["stochastic_depth", "effective_paths", "resnet"])] == [
        "resnet", "stochastic_depth", "effective_paths",
    ]  # fmt: skip
    keys = ["adaptive_40", "stochastic_depth", "plain"]
    assert [row.key for row in ordered(keys)] == ["plain", "stochastic_depth", "adaptive_40"]


@pytest.mark.parametrize(
    ("key", "short", "like", "rate"),
    [("adaptive_55", "adaptive 55 %", "adaptive_70", 0.55),
     ("adaptive_60_all", "* 60 %", "adaptive_70_all", None),
     ("adaptive_35_soft", "soft 35 %", "adaptive_70_soft", None),
     ("random_60", "random 60 %", "random_70", None), ("budget_11", "exactly 11", "budget", None),
     ("adaptive_70", "adaptive 70 %", None, 0.7),
     ("adaptive_60_odd", "adaptive 60 odd", None, None)],
)  # fmt: skip
def test_other_rates_look_like_the_listed_ones(
    key: str, short: str, like: str | None, rate: float | None
) -> None:
    row = row_for(key)
    assert (row.key, row.short, row.like) == (key, short, like) and target_rate(key) == rate
    if like:
        assert (row.color, row.marker) == (row_for(like).color, row_for(like).marker)
        assert f"var(--row-{like}," in mark(row)
