"""Contestants are checked, timed in turns and written as rows."""

import csv
import math
import time

import pytest
import torch
from fastheads_bench import harness
from fastheads_bench.harness import COLUMNS, OURS, SETTINGS, Case, Settings

CPU = torch.device("cpu")


def summing(shape="[100]", dtype="float32", wrong=0.0, providers=(OURS, "peer", "slow peer")):
    x = torch.arange(100.0)

    def call(name):
        for _ in range(200 if name.startswith("slow") else 1):
            total = x.sum()
        return total + (wrong if name == OURS else 0)

    return Case(
        *("sum", shape, dtype, CPU, {name: lambda name=name: call(name) for name in providers}),
        error=lambda _, total: abs(float(total) - 4950),
        bytes=400,
        macs=99,
        tolerance=0.5,
    )


@pytest.fixture
def settings():
    """Sets what a command asks of its benchmarks, for one test."""
    tokens = []
    yield lambda **asked: tokens.append(SETTINGS.set(Settings(**asked)))
    for token in reversed(tokens):
        SETTINGS.reset(token)


def test_rows_of_a_case():
    rows = harness.measure(summing(wrong=0.25), budget=0.0)
    assert [row["provider"] for row in rows] == [OURS, "peer", "slow peer"]
    assert [row["max_error"] for row in rows] == [0.25, 0, 0]
    for row in rows:
        assert tuple(row) == tuple(COLUMNS)
        assert (row["op"], row["pass"], row["shape"]) == ("sum", "forward", "[100]")
        assert (row["bytes"], row["macs"], row["threads"]) == (400, 99, torch.get_num_threads())
        assert 0 < row["q25_us"] <= row["median_us"] <= row["q75_us"]
    best = min(row["median_us"] for row in rows[1:])
    for row in rows:
        assert row["ratio_to_best_peer"] == pytest.approx(best / row["median_us"], rel=1e-2)


def test_variants_of_ours_are_no_peers():
    rows = harness.measure(summing(providers=(OURS, "fastheads compiled", "slow peer")), budget=0.0)
    assert rows[2]["ratio_to_best_peer"] == 1
    assert not harness.is_ours("fastheadsy") and harness.is_ours("fastheads compiled")
    (alone,) = harness.measure(summing(providers=[OURS]), budget=0.0)
    assert math.isnan(alone["ratio_to_best_peer"])


def test_a_wrong_result_is_not_timed():
    with pytest.raises(RuntimeError, match=r"sum \[100\]: fastheads is off by 1\.0"):
        harness.measure(summing(wrong=1.0))
    with pytest.raises(RuntimeError, match="off by nan"):
        harness.measure(summing(wrong=math.nan))


def test_warm_caches_are_said(settings):
    settings(warm=True)
    assert {row["pass"] for row in harness.measure(summing(), budget=0.0)} == {"forward, warm"}


def test_kept_memory_is_said(settings):
    settings(keep_memory=True)
    passes = {row["pass"] for row in harness.measure(summing(), budget=0.0)}
    assert passes == {"forward, memory kept"}


def test_only_one_dtype(settings, tmp_path):
    settings(dtype="float64")
    cases = [summing(dtype=dtype) for dtype in ("float32", "float64", "int32")]
    harness.run(cases, tmp_path / "out.csv", device=CPU, quick=True)
    assert {row["dtype"] for row in harness.read(tmp_path / "out.csv")} == {"float64"}


def test_no_case_begins_after_the_budget(settings, tmp_path, capsys):
    settings(deadline=time.monotonic())

    def cases():
        yield summing()
        raise AssertionError("a second case")

    harness.run(cases(), tmp_path / "out.csv", device=CPU, quick=True)
    assert len(harness.read(tmp_path / "out.csv")) == 3
    assert "the budget is spent" in capsys.readouterr().out


def test_stopped_between_cases(tmp_path):
    """What was measured before is whole."""
    out = tmp_path / "out.csv"

    def cases():
        yield summing(shape='[100], "quoted"')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harness.run(cases(), out, device=CPU, quick=True)
    assert [row["shape"] for row in harness.read(out)] == ['[100], "quoted"'] * 3


def test_rows_are_appended(tmp_path):
    out = tmp_path / "deep" / "out.csv"
    assert harness.read(out) == []
    rows = harness.measure(summing(), budget=0.0)
    harness.append(out, rows)
    first = out.read_text()
    harness.append(out, rows[:1])
    assert out.read_text().startswith(first) and out.read_text().count("\n") == 1 + 3 + 1
    assert list(out.parent.iterdir()) == [out]
    with out.open() as file:
        assert csv.DictReader(file).fieldnames == COLUMNS


def test_line_ups():
    rows = [
        {"op": op, "pass": "forward", "shape": "[1]", "dtype": "float32", "provider": provider}
        for provider in (OURS, "peer")
        for op in ("a", "b")
    ]
    cases = harness.line_ups(rows)
    assert [key[0] for key in cases] == ["a", "b"]
    assert all([row["provider"] for row in case] == [OURS, "peer"] for case in cases.values())
