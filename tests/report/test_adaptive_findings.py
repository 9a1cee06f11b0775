from __future__ import annotations

import re

import numpy as np
import pytest

from fastheads.report.adaptive_findings import (
    budget_sentence,
    controls,
    cost_findings,
    headline,
    kept_of,
    rates_of,
    share_of,
)
from fastheads.report.adaptive_layer_findings import attack_findings, layer_findings

BEATS, TIME, ORDER, PEAK, SCALED, REGULAR, SKIPS, SOFT = range(8)
DOWN, LAST, NEVER, DIFFER, SETS, LATE = range(6)


def row(top1: float, time: float = 1.0, macs: float = 100.0, seeds: int = 3) -> dict:
    """A row with a deviation of a point (of 0.01 percent in time)."""
    return {"top1": {"mean": top1, "std": 0.01, "seeds": [top1] * seeds}, "macs": macs,
            "ms_1": {"mean": 2 * time}, "ms_32": {"mean": time}, "layers": {"mean": 5.0},
            "parameters": 1}  # fmt: skip


def verdicts(metrics: dict, kept: str | None = "adaptive_60") -> list[str]:
    return [found.verdict for found in cost_findings(metrics, kept)]


def test_rates_and_the_kept_row() -> None:
    rows = {"adaptive_90": row(0.8), "adaptive_40": row(0.9), "adaptive_40_all": row(0.95),
            "plain": row(0.99)}  # fmt: skip
    assert rates_of(rows) == ["adaptive_40", "adaptive_90"]
    assert kept_of(rows) == "adaptive_40" and kept_of(rows, "adaptive_90") == "adaptive_90"
    assert kept_of(rows, "adaptive_30") == "adaptive_40" and kept_of({"plain": row(1)}) is None
    assert share_of(rows | {"plain": row(1, 2.0)}, "adaptive_90", "ms_32") == 0.5
    assert share_of({"plain": row(1)}, "adaptive_90", "ms_32") is None


@pytest.mark.parametrize(
    ("top1", "time", "verdict", "said"),
    [
        (0.93, 0.7, "agrees", "So does the target rate 60\u00a0%: +3.00 points against the plain "
         "network, 70\u00a0% (at batch 1) and 70\u00a0% (at batch 32) of its time."),
        (0.89, 0.8, "agrees", "−1.00 points against the plain network, 80\u00a0% (at batch 1) and "
         "80\u00a0% (at batch 32) of its time, within the spread over seeds."),
        (0.93, 0.81, "contradicts", "No rate does; nearest is the target rate 60\u00a0%: +3.00"),
        (0.85, 0.5, "contradicts", "No rate does; nearest is the target rate 60\u00a0%: −5.00"),
    ],
)  # fmt: skip
def test_time_needs_accuracy_and_speed(top1: float, time: float, verdict: str, said: str) -> None:
    found = cost_findings({"plain": row(0.9), "adaptive_60": row(top1, time)}, "adaptive_60")[TIME]
    assert found.verdict == verdict and said in found.ours


def test_both_batch_sizes_must_be_fast() -> None:
    slow = row(0.95, 0.7)
    slow["ms_1"]["mean"] = 1.9
    found = cost_findings({"plain": row(0.9), "adaptive_60": slow}, "adaptive_60")[TIME]
    assert found.verdict == "contradicts" and "95\u00a0% (at batch 1)" in found.ours


def test_the_plain_network_that_trained_as_long_is_what_counts() -> None:
    rows = {"plain": row(0.9), "plain_continued": row(0.95), "adaptive_60": row(0.91, 0.7)}
    found = cost_findings(rows, "adaptive_60")
    assert found[BEATS].verdict == "contradicts"
    assert found[TIME].verdict == "contradicts"
    assert "−4.00 points against the plain network trained as long" in found[TIME].ours
    assert "with less training is matched by the target rate 60" in found[TIME].ours
    said = controls(rows, "adaptive_60")
    assert "more than with gates" in said[0]


@pytest.mark.parametrize(
    ("macs", "verdict"), [((60, 70, 80), "agrees"), ((60, 90, 80), "contradicts")]
)
def test_cost_by_rate(macs: tuple[float, ...], verdict: str) -> None:
    rows = {f"adaptive_{40 + 10 * i}": row(0.9, macs=value) for i, value in enumerate(macs)}
    found = cost_findings(rows | {"plain": row(0.9)}, None)[ORDER]
    assert found.verdict == verdict and "0.60 to 0.80 of the plain" in found.ours


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.85, 0.95, "agrees"), (0.95, 0.90, "contradicts"), (0.85, 0.87, "contradicts"),
     (0.94, 0.95, "undecided")],
)  # fmt: skip
def test_a_limit_first_helps_and_then_costs(low: float, high: float, verdict: str) -> None:
    rows = {"plain": row(0.9), "adaptive_40": row(low), "adaptive_80": row(high)}
    assert verdicts(rows)[PEAK] == verdict


def test_forms_of_gates_are_compared_with_the_kept_row() -> None:
    rows = {"plain": row(0.9), "adaptive_60": row(0.95), "adaptive_60_all": row(0.99),
            "adaptive_60_soft": row(0.98), "stochastic_depth": row(0.9)}  # fmt: skip
    found = verdicts(rows)
    assert [found[i] for i in (SCALED, REGULAR, SKIPS, SOFT)] == [
        "agrees", "agrees", "agrees", "contradicts",
    ]  # fmt: skip
    assert verdicts({"plain": row(0.9)}, None)[BEATS:] == ["not measured"] * 8


def test_headline_controls_and_budget() -> None:
    rows = {"plain": row(0.9), "adaptive_60": row(0.95, 0.7), "random_60": row(0.7)}
    assert headline(rows, "adaptive_60", 8) == (
        "A residual network whose gates choose its layers for every image, trained towards a rate "
        "of 60\u00a0%, executes 5.0 of 8 layers an image and reaches 95.00\u00a0±\u00a01.00\u00a0% "
        "top-1; the plain network reaches 90.00\u00a0±\u00a01.00\u00a0%. It needs 70\u00a0% (at "
        "batch 1) and 70\u00a0% (at batch 32) of the plain network's measured time."
    )
    alone = headline({"plain": row(0.9, seeds=1)}, None, None)
    assert alone == "The row “plain” reaches 90.00\u00a0% top-1."
    (said,) = controls(rows, "adaptive_60")
    assert said.endswith("70.00\u00a0±\u00a01.00\u00a0%: it matters which layers an image skips.")
    assert "single seed" in controls({"plain": row(0.9, seeds=1)}, None)[0]
    budget = [{"k": 5, "top1": 0.955}, {"k": 4, "top1": 0.951}, {"k": 3, "top1": 0.8}]
    assert "a budget of 4 open gates for every image" in budget_sentence(
        budget, rows, "adaptive_60"
    )
    assert "stays below" in budget_sentence(budget[2:], rows, "adaptive_60")
    assert budget_sentence([], rows, "adaptive_60") == ""


def analysis(rates: list[float], down: tuple[int, ...] = (1, 3)) -> dict:
    blocks = [{"name": f"b{i}", "downsampling": i in down, "gated": True}
              for i in range(len(rates))]  # fmt: skip
    return {"network": {"blocks": blocks}, "rates": {"adaptive_60": {"layers": [rates, rates]}}}


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([0.5, 1.0, 0.6, 0.995, 1.0], ["agrees", "agrees", "agrees"]),
        ([0.5, 0.9, 0.6, 1.0, 0.98], ["contradicts", "contradicts", "agrees"]),
        ([0.005, 1.0, 0.6, 1.0, 1.0], ["agrees", "agrees", "contradicts"]),
    ],
)
def test_which_layers_are_always_on(rates: list[float], expected: list[str]) -> None:
    found = layer_findings(analysis(rates), None, "adaptive_60")
    assert [one.verdict for one in found[:3]] == expected
    assert f"{100 * rates[1]:.1f}\u00a0% (gate 2) and {100 * rates[3]:.1f}" in found[DOWN].ours
    assert f"{100 * rates[4]:.1f}\u00a0% (gate 5)" in found[LAST].ours


def test_blocks_without_gates_do_not_shift_the_numbers() -> None:
    content = analysis([0.5, 1.0], ())
    content["network"]["blocks"].insert(0, {"name": "x", "downsampling": True, "gated": False})
    found = layer_findings(content, None, "adaptive_60")
    assert found[DOWN].verdict == "not measured" and found[LAST].verdict == "agrees"
    content["network"]["blocks"].pop()  # a gate more than blocks: nothing is said
    assert layer_findings(content, None, "adaptive_60")[LAST].verdict == "not measured"


def test_groups_differ_by_standard_errors() -> None:
    def found(apart: float, images: int) -> str:
        groups = [{"name": name, "mean": 5 + apart * i, "std": 1.0, "images": images}
                  for i, name in enumerate(("birds", "cups"))]  # fmt: skip
        groups.append({"name": "tiny", "mean": 9.0, "std": 0.0, "images": 2})
        return layer_findings({"histogram": {"groups": groups}}, None, None)[DIFFER].verdict

    assert found(0.5, 100) == "agrees" and found(0.5, 25) == "undecided"
    assert found(0.5, 1) == "not measured"


def execution(apart: float) -> tuple[dict, np.ndarray]:
    """Two groups of 50 labels, ``apart`` in the last gate, beside noise of 0.1."""
    rates = 0.5 + 0.1 * np.random.default_rng(0).standard_normal((100, 4))
    rates[50:, 3] += apart
    groups = [{"name": "birds", "first": 0, "last": 49}, {"name": "cups", "first": 50, "last": 99}]
    return {"execution": {"groups": groups}}, rates.astype(np.float32)


def test_groups_explain_more_than_chance() -> None:
    content, rates = execution(0.3)
    found = layer_findings(content, rates, None)[SETS]
    assert found.verdict == "agrees" and "furthest apart in gate 4" in found.ours
    # Of the variance, 4 gates of 0.01 and (0.3 / 2)² between the groups.
    share = re.match(r"Groups explain ([\d.]+)", found.ours)
    assert share and float(share[1]) == pytest.approx(100 * 0.0225 / 0.0625, abs=2)
    content, rates = execution(0.0)
    assert layer_findings(content, rates, None)[SETS].verdict == "contradicts"
    assert layer_findings({}, rates, None)[SETS].verdict == "not measured"


def test_labels_differ_late() -> None:
    content, rates = execution(0.6)
    late = analysis([0.5] * 4, (1, 2)) | content
    assert layer_findings(late, rates, None)[LATE].verdict == "agrees"
    early = layer_findings(late, rates[:, ::-1], None)[LATE]
    assert early.verdict == "contradicts"
    assert layer_findings(analysis([0.5] * 4, (1,)), rates, None)[LATE].verdict == "not measured"


def test_attacks() -> None:
    rows = {"plain": {"direct": [0.9, 0.5, 0.1], "jpeg": [0.9, 0.5, 0.3]},
            "adaptive_60": {"direct": [0.8, 0.6, 0.2], "jpeg": [0.9, 0.6, 0.3]}}  # fmt: skip
    gates = {"epsilon": 0.05, "before": [1.0, 0.5], "after": [1.0, 0.42]}
    content = {"attack": {"epsilons": [0.0, 0.02, 0.05], "rows": rows, "gates": gates}}
    direct, jpeg, changed = attack_findings(content, "adaptive_60")
    assert direct.verdict == "agrees"  # without attack does not count
    assert direct.ours == (
        "More accurate at 2 of 2 strengths; at ε = 0.05 20.00 against 10.00\u00a0%."
    )
    assert jpeg.verdict == "contradicts" and "1 of 2" in jpeg.ours
    assert changed.verdict == "agrees" and "at most by 8.0 (gate 2)" in changed.ours
    gates["after"] = [0.5, 0.5]
    assert attack_findings(content, "adaptive_60")[2].verdict == "contradicts"
    assert [one.verdict for one in attack_findings({}, None)] == ["not measured"] * 3
