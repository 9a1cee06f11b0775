from __future__ import annotations

import math

import numpy as np
import pytest

from fastheads.report.lesion_findings import _ranks, findings, headline, main_row, rises

MILD, VGG, DOWN, SMOOTH, TEN, ORDER, LENGTHS, EXPONENTIAL, SHORT, TRAINED, STOCHASTIC = range(11)


def single(whole: float, errors: list[float]) -> dict:
    """Two seeds, a point above and below."""
    return {"whole": [whole - 0.01, whole + 0.01],
            "error": [[e - 0.01 for e in errors], [e + 0.01 for e in errors]]}  # fmt: skip


def verdict(number: int, analysis: dict, metrics: dict | None = None) -> str:
    return findings(analysis, metrics or {})[number].verdict


def test_rises_are_over_each_seed_s_own_whole_network() -> None:
    analysis = {"single": {"resnet": single(0.1, [0.1, 0.3])}}
    assert rises(analysis, "resnet") == pytest.approx([0.0, 0.2])
    assert rises(analysis, "vgg") is None and main_row(analysis) == "resnet"
    assert main_row({"networks": {"other": {}, "network": {}}}) == "network"
    assert main_row({}) is None


def test_vgg_is_at_chance_if_every_layer_is() -> None:
    def found(errors: list[float]) -> str:
        return verdict(VGG, {"single": {"vgg": single(0.1, errors)}, "chance": 0.9})

    assert found([0.9, 0.83, 0.95]) == "agrees" and found([0.9, 0.81, 0.95]) == "contradicts"
    assert verdict(VGG, {"single": {"vgg": single(0.1, [0.9])}}) == "not measured"


def test_a_network_that_learned_nothing_tells_nothing() -> None:
    analysis = {"single": {"vgg": {"whole": [0.9], "error": [[0.9, 0.95]]}}, "chance": 0.9}
    one = findings(analysis, {})[VGG]
    assert one.verdict == "undecided" and "hardly better than chance" in one.ours
    analysis["single"]["vgg"]["whole"] = [0.82]
    assert verdict(VGG, analysis) == "undecided"
    analysis["single"]["vgg"]["whole"] = [0.8]
    assert verdict(VGG, analysis) == "agrees"


def test_downsampling_blocks_cost_more() -> None:
    blocks = [{"downsampling": False}, {"downsampling": True}, {"downsampling": False}]
    analysis = {"networks": {"resnet": {"blocks": blocks}},
                "single": {"resnet": single(0.1, [0.1, 0.3, 0.12])}}  # fmt: skip
    one = findings(analysis, {})[DOWN]
    assert one.verdict == "agrees"
    assert "by +20.00 points without one of them, by +1.00 without" in one.ours
    analysis["single"]["resnet"] = single(0.1, [0.3, 0.1, 0.3])
    assert verdict(DOWN, analysis) == "contradicts"


def test_ten_of_fifty_four_in_proportion() -> None:
    def found(few: float) -> str:
        many = {"deleted": [1, 2, 3, 4, 5], "error": [[[0.1], [few], [0.5], [0.6], [0.7]]]}
        whole = {"whole": [0.1], "error": [[0.1] * 11]}  # 10 of 54 are 2 of 11, 20 are 4
        return verdict(TEN, {"single": {"resnet": whole}, "many": {"resnet": many}})

    assert found(0.2) == "agrees" and found(0.5) == "contradicts"


def test_disorder() -> None:
    def found(error: list[float]) -> str:
        tau = [1.0, 0.8, 0.5, 0.2]
        networks = {"resnet": {}}
        return verdict(
            ORDER, {"networks": networks, "reorder": {"resnet": {"tau": tau, "error": error}}}
        )

    assert found([0.1, 0.2, 0.4, 0.9]) == "agrees" and found([0.9, 0.2, 0.3, 0.1]) == "contradicts"
    assert found([0.1] * 4) == "not measured"


def test_equal_values_share_their_rank() -> None:
    assert _ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_path_lengths_are_those_of_section_4_4_1() -> None:
    counts = [math.comb(54, x) / 2**54 for x in range(55)]
    analysis = {"networks": {"resnet": {}}, "paths": {"resnet": {"n": 54, "counts": counts}}}
    assert findings(analysis, {})[LENGTHS].ours == "98.02\u00a0%, exactly."
    analysis["paths"]["resnet"]["n"] = 8
    assert verdict(LENGTHS, analysis) == "not measured"


def test_exponential_decay() -> None:
    def found(norms: list[float]) -> str:
        gradients = {"lengths": list(range(len(norms))), "norm": [[norm] for norm in norms]}
        return verdict(
            EXPONENTIAL, {"networks": {"resnet": {}}, "gradients": {"resnet": gradients}}
        )

    assert found([1.0, 0.5, 0.25, 0.125]) == "agrees"
    assert found([1.0, 2.0, 4.0, 8.0]) == found([1.0, 0.1, 1.0, 0.1]) == "contradicts"
    assert found([1.0, 0.5]) == "not measured"


@pytest.mark.parametrize(
    ("effective", "seeds", "expected"),
    [(0.9404, 3, "agrees"), (0.95, 3, "agrees"), (0.90, 3, "contradicts"), (0.93, 1, "undecided")],
)
def test_training_on_effective_paths(effective: float, seeds: int, expected: str) -> None:
    metrics = {
        key: {"top1": {"mean": mean, "std": 0.002, "seeds": [mean] * seeds}}
        for key, mean in (("resnet", 0.939), ("effective_paths", effective))
    }
    assert verdict(TRAINED, {}, metrics) == expected
    assert f"{100 - 100 * effective:.2f}" in findings({}, metrics)[TRAINED].ours


def test_stochastic_depth() -> None:
    rows = {"resnet": single(0.1, [0.2, 0.2]), "stochastic_depth": single(0.1, [0.1, 0.2])}
    assert verdict(STOCHASTIC, {"single": rows}) == "agrees"
    rows["stochastic_depth"] = single(0.1, [0.3, 0.2])
    assert verdict(STOCHASTIC, {"single": rows}) == "contradicts"


def test_what_the_run_found_is_passed_on() -> None:
    given = [{"key": "smooth_decay", "holds": False, "sentence": "It leaps."}]
    found = findings({"findings": given}, {})
    assert found[SMOOTH].verdict == "contradicts" and found[SMOOTH].ours == "It leaps."
    assert {one.verdict for i, one in enumerate(found) if i != SMOOTH} == {"not measured"}


def test_the_run_itself_may_not_decide() -> None:
    given = [{"key": "single_mild", "holds": None, "sentence": "The seeds differ."}]
    assert findings({"findings": given}, {})[MILD].verdict == "undecided"


def test_headline() -> None:
    rows = {"resnet": single(0.1, [0.12, 0.3, 0.14]), "vgg": single(0.2, [0.9, 0.95])}
    assert headline({"single": rows}) == (
        "Without one of its 3 blocks, a residual network errs on 14.00\u00a0% of the test "
        "images in the median and on 30.00\u00a0% at worst; whole, on 10.00\u00a0%. A network "
        "without shortcuts errs on 92.50\u00a0% without one of its 2 layers."
    )
    assert headline({}) == "Which layers and paths of a residual network matter."
