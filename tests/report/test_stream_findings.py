from __future__ import annotations

import pytest

from fastheads.report.stream_findings import accuracy_findings, headline, stream_findings
from fastheads.report.stream_guard_findings import (
    arrivals_sentence,
    guard_findings,
    retraining_ratio,
    time_findings,
    times,
)
from fastheads.report.stream_measures import (
    at_least,
    best_row,
    every,
    keeps,
    kept_of,
    metric_of,
    paired,
    ratio_of,
    with_changes,
)

SE, VGG, RESNET_LOSS, SENET_LOSS, EXPANSION, ALIKE, INCEPTION, OVERFITTING = range(8)
FORGETS, LEARNS, FOUR, EIGHT, COMPROMISE, ROOT, NARROW, PROPOSED = range(8)
RETRAINING, EPOCH, SE_TIME, FOUR_TIME = range(4)
KEPT = "senet_2x_r32"


def metric(mean: float, std: float = 0.01, seeds: int = 3) -> dict:
    """One value a seed, evenly about the mean."""
    return metric_of([mean + std * (i - (seeds - 1) / 2) for i in range(seeds)])


def network(base: float, original: float, streamed: float, std: float = 0.001) -> dict:
    after = {"original_top5": original, "streamed_top5": streamed, "streamed_all": streamed / 2}
    before = {"base_top5": base, "before_all": 0.0}
    return {name: metric(value, std) for name, value in after.items()} | {
        name: metric(value, 0.0) for name, value in before.items()
    }


def found(rows: dict, number: int) -> str:
    return stream_findings(with_changes(rows))[number].verdict


def test_differences_are_paired_where_seeds_are_the_same() -> None:
    first, second = metric_of([0.8, 0.9]), metric_of([0.7, 0.8])
    assert paired(first, second)["std"] == pytest.approx(0) and first["std"] > 0.07
    longer = paired(metric_of([0.8, 0.9, 1.0]), second)
    assert longer["mean"] == pytest.approx(0.15)
    assert longer["std"] == pytest.approx(0.1 + second["std"])
    assert at_least(paired(first, metric_of([0.6])), 0.0) is True  # spread is not known


def test_ratios_are_paired_or_add_their_relative_spreads() -> None:
    assert ratio_of(metric_of([10, 20]), metric_of([1, 2]))["std"] == 0
    both = ratio_of({"mean": 10, "std": 1}, {"mean": 2, "std": 0.2})
    assert both == {"mean": 5, "std": pytest.approx(1.0), "seeds": []}
    assert ratio_of(metric_of([10, 20]), metric_of([0, 2])) is None
    assert times(metric_of([46.0])) == "46.0×" and times(metric_of([1.0, 1.1])) == (
        "1.050\u00a0±\u00a00.071×"
    )


def test_conditions() -> None:
    assert every(True, True) is True and every(True, None) is None
    assert every(None, False) is False
    assert at_least(metric(0.5), 0.48) and at_least(metric(0.5), 0.52) is False
    assert at_least(metric(0.5), 0.505) is None and at_least(None, 0.0) is None


def test_changes_of_guards_are_over_the_kept_network() -> None:
    rows = {KEPT: network(0.9, 0.8, 0.7), "kept_replay": network(0.0, 0.88, 0.6)}
    del rows["kept_replay"]["base_top5"], rows["kept_replay"]["before_all"]
    changed = with_changes(rows)
    assert changed["kept_replay"]["change"]["mean"] == pytest.approx(-0.02)
    assert changed["kept_replay"]["learned"]["mean"] == pytest.approx(0.3)
    assert changed[KEPT]["balance"]["mean"] == pytest.approx(0.75)
    assert "change" not in rows[KEPT]  # the metrics are not changed
    assert kept_of(changed) == KEPT and kept_of(changed, "other") == KEPT
    assert kept_of({}) is None and best_row({}, None) is None


def test_the_best_row_keeps_the_base_and_learns_most() -> None:
    rows = {KEPT: network(0.9, 0.8, 0.9), "kept_replay": network(0.9, 0.89, 0.6),
            "kept_averaging": network(0.9, 0.88, 0.7),
            "kept_low_lr": network(0.9, 0.87, 0.8, 0.01)}  # fmt: skip
    changed = with_changes(rows)
    assert [keeps(changed[key]) for key in rows] == [False, True, True, None]
    assert best_row(changed, KEPT) == "kept_averaging"
    assert best_row(changed, KEPT, "kept_replay") == "kept_replay"
    beyond = with_changes({KEPT: network(0.9, 0.7, 0.9), "kept_replay": network(0.9, 0.8, 0.1)})
    assert best_row(beyond, KEPT) == "kept_replay"  # that which forgets least


@pytest.mark.parametrize(
    ("number", "above", "below"),
    [(SE, "senet", "resnet"), (VGG, "resnet", "vgg"), (RESNET_LOSS, "resnet", "resnet_soft"),
     (SENET_LOSS, "senet", "senet_soft"), (EXPANSION, "senet_2x", "senet"),
     (INCEPTION, "senet", "inception_96")],
)  # fmt: skip
def test_base_accuracies_are_compared(number: int, above: str, below: str) -> None:
    def verdict(high: float, low: float) -> str:
        rows = {above: {"base_top5": metric(high)}, below: {"base_top5": metric(low)}}
        return accuracy_findings(rows, {})[number].verdict

    assert verdict(0.9, 0.85) == "agrees" and verdict(0.85, 0.9) == "contradicts"
    assert verdict(0.9, 0.89) == "undecided"
    assert accuracy_findings({}, {})[number].verdict == "not measured"


@pytest.mark.parametrize(
    ("apart", "verdict"), [(0.005, "agrees"), (0.03, "undecided"), (0.06, "contradicts")]
)
def test_reductions_hardly_matter(apart: float, verdict: str) -> None:
    rows = {"senet": {"base_top5": metric(0.9)}, "senet_r8": {"base_top5": metric(0.9 - apart)}}
    assert accuracy_findings(rows, {})[ALIKE].verdict == verdict


@pytest.mark.parametrize(
    ("gap", "verdict"), [(0.2, "agrees"), (0.05, "contradicts"), (0.11, "undecided")]
)
def test_training_and_validation_drift_apart(gap: float, verdict: str) -> None:
    entries = [{"row": "senet", "seed": seed, "epoch": [1, 2], "train_top1": [0.2, 0.5],
                "valid_top1": [0.1, 0.5 - gap - 0.01 * seed]} for seed in (-1, 0, 1)]  # fmt: skip
    assert accuracy_findings({}, {"epochs": entries})[OVERFITTING].verdict == verdict
    assert (
        accuracy_findings({}, {"epochs": [{"row": "resnet", "epoch": [1, 2]}]})[OVERFITTING].verdict
        == "not measured"
    )


def test_the_plain_network_forgets_more_and_learns_less() -> None:
    rows = {"resnet": network(0.77, 0.56, 0.27), "senet": network(0.88, 0.76, 0.70)}
    assert found(rows, FORGETS) == found(rows, LEARNS) == "agrees"
    other = {"resnet": rows["senet"], "senet": rows["resnet"]}
    assert found(other, FORGETS) == found(other, LEARNS) == "contradicts"
    wide = {key: network(0.8, 0.6, 0.5, 0.1) for key in rows}
    assert found(wide, FORGETS) == found(wide, LEARNS) == "undecided"


@pytest.mark.parametrize(
    ("number", "more", "less"),
    [(FOUR, "senet_4x", "senet_2x"), (EIGHT, "senet_r8", "senet_r32")],
)
def test_overfitting_is_to_learn_more_and_to_forget_more(number: int, more: str, less: str) -> None:
    small = network(0.9, 0.89, 0.7)
    assert found({more: network(0.9, 0.6, 0.9), less: small}, number) == "agrees"
    assert found({more: network(0.9, 0.6, 0.6), less: small}, number) == "contradicts"
    assert found({more: network(0.9, 0.899, 0.9), less: small}, number) == "contradicts"
    assert found({more: network(0.9, 0.6, 0.7), less: small}, number) == "undecided"
    assert found({more: small}, number) == "not measured"


def test_the_compromise() -> None:
    rows = {KEPT: network(0.868, 0.862, 0.754), "senet_r32": network(0.864, 0.858, 0.719),
            "senet_4x": network(0.891, 0.637, 0.926)}  # fmt: skip
    assert found(rows, COMPROMISE) == "agrees"  # the paper's table 4
    assert found(rows | {"senet": network(0.87, 0.86, 0.9)}, COMPROMISE) == "contradicts"
    # A better learner that may be beyond the limit decides nothing.
    assert found(rows | {"senet": network(0.89, 0.86, 0.9, 0.01)}, COMPROMISE) == "undecided"
    rows[KEPT] = network(0.9, 0.8, 0.9)
    beyond = stream_findings(with_changes(rows))[COMPROMISE]
    assert beyond.verdict == "contradicts" and beyond.ours.endswith("within them: SENet /32.")
    alone = {KEPT: rows[KEPT], "senet_4x": rows["senet_4x"]}
    assert stream_findings(with_changes(alone))[COMPROMISE].ours.endswith("them: no network.")
    rows = {KEPT: network(0.9, 0.89, 0.7), "senet_4x": rows["senet_4x"]}
    assert found(rows, COMPROMISE) == "agrees"


def test_narrow_and_proposed_networks() -> None:
    rows = {"inception_48": network(0.74, 0.77, 0.69), "senet": network(0.87, 0.86, 0.7)}
    assert found(rows, NARROW) == "agrees"
    rows["senet"] = network(0.8, 0.85, 0.7)
    assert found(rows, NARROW) == "contradicts"
    rows = {KEPT: network(0.87, 0.86, 0.75), "inception_senet": network(0.9, 0.9, 0.8)}
    assert found(rows, PROPOSED) == "agrees" and found({}, ROOT) == "not measured"


def test_with_and_without_guards() -> None:
    def verdicts(*rows: dict) -> list[str]:
        keys = (KEPT, "kept_replay", "kept_averaging")
        changed = with_changes(dict(zip(keys, rows, strict=False)))
        return [one.verdict for one in guard_findings(changed, KEPT)]

    within, beyond = network(0.9, 0.89, 0.7), network(0.9, 0.8, 0.7)
    assert verdicts(within) == ["agrees", "not measured"]
    assert verdicts(beyond, beyond, within) == ["contradicts", "agrees"]
    assert verdicts(beyond, beyond) == ["contradicts", "contradicts"]
    assert verdicts(beyond, beyond, network(0.9, 0.87, 0.7, 0.01)) == ["contradicts", "undecided"]
    nothing = network(0.9, 0.9, 0.0)  # keeps all and learns nothing
    assert verdicts(nothing, nothing) == ["undecided", "undecided"]
    assert [one.verdict for one in guard_findings({}, None)] == ["not measured"] * 2


def test_the_guard_that_learns_most_is_named() -> None:
    rows = {KEPT: network(0.9, 0.8, 0.7), "kept_replay": network(0.9, 0.89, 0.6),
            "kept_averaging": network(0.9, 0.89, 0.5)}  # fmt: skip
    ours = guard_findings(with_changes(rows), KEPT)[1].ours
    assert ours.startswith("“replay” learns most: −1.00\u00a0±\u00a00.10 points; 30.00\u00a0% of")
    assert ours.endswith("So do, learning less, “averaged weights”.")


@pytest.mark.parametrize(
    ("ratio", "original", "streamed", "verdict"),
    [(40.0, 0.87, 0.7, "agrees"), (9.0, 0.87, 0.7, "contradicts"), (40.0, 0.8, 0.7, "contradicts"),
     (40.0, 0.87, 0.6, "contradicts"), (10.05, 0.87, 0.7, "undecided"),
     (40.0, 0.851, 0.7, "undecided")],
)  # fmt: skip
def test_retraining_needs_time_and_accuracy(
    ratio: float, original: float, streamed: float, verdict: str
) -> None:
    kept, whole = network(0.9, original, streamed, 0.005), network(0.9, 0.88, 0.71)
    rows = {KEPT: kept | {"stream_seconds": metric(10, 0.0)},
            "retrained": whole | {"base_seconds": metric(10 * ratio, 1.0)}}  # fmt: skip
    found = time_findings(with_changes(rows), {}, KEPT, KEPT)[RETRAINING]
    assert found.verdict == verdict


def test_the_ratio_of_the_analysis_comes_first() -> None:
    given = {"retraining": {"ratio": metric(12.0)}}
    assert retraining_ratio({}, given, None) == metric(12.0)
    assert retraining_ratio({}, {}, KEPT) is None


def test_retraining_is_beside_the_quickest_that_keeps() -> None:
    rows = {KEPT: network(0.9, 0.2, 0.7, 0.005) | {"stream_seconds": metric(10, 0.0)},
            "kept_replay": network(0.9, 0.89, 0.7, 0.005) | {"stream_seconds": metric(30, 0.0)},
            "retrained": network(0.9, 0.88, 0.71) | {"base_seconds": metric(360, 1.0)}}  # fmt: skip
    given = {"retraining": {"beside": "kept_replay"}}
    found = time_findings(with_changes(rows), given, KEPT, KEPT)[RETRAINING]
    assert found.verdict == "agrees"
    assert found.ours.startswith("It takes 12.0 ± 0.0× as long. Against it “replay” has")


def test_times_of_epochs() -> None:
    def verdicts(base: float, stream: float, resnet: float, four: float) -> list[str]:
        rows = {"senet": {"base_epoch_seconds": metric(base, 0.1),
                          "stream_epoch_seconds": metric(stream, 0.0)},
                "resnet": {"base_epoch_seconds": metric(resnet, 0.1)},
                "senet_4x": {"base_epoch_seconds": metric(four, 0.1)}}  # fmt: skip
        return [one.verdict for one in time_findings(rows, {}, "senet", None)][1:]

    assert verdicts(41.7, 2.5, 40.4, 42.6) == ["agrees"] * 3
    assert verdicts(41.7, 10, 35, 40) == ["contradicts"] * 3
    assert [one.verdict for one in time_findings({}, {}, None, None)] == ["not measured"] * 4


def test_sentences() -> None:
    rows = with_changes({KEPT: network(0.9, 0.8, 0.7), "kept_replay": network(0.9, 0.89, 0.6)})
    said = headline(rows, KEPT, "kept_replay")
    assert "35.00\u00a0% have all their labels among its best five." in said
    assert "changes by −10.00\u00a0±\u00a00.10 points (top-5)" in said
    assert "With the guard “replay” it changes by −1.00" in said
    assert headline({}, None, None).startswith("Networks of one label")
    curves = {KEPT: {"original_top5": [[0.9, 0.8, 0.7], [0.9, 0.8, 0.72]]}}
    said = arrivals_sentence(curves, 2, KEPT, "kept_replay")
    assert said.startswith("Over 2 arrivals, top-5 on base pictures goes for SENet 2×/32 from "
                           "90.00 to 71.00\u00a0% (−19.00")  # fmt: skip
    assert arrivals_sentence({}, 2, KEPT, None) == ""
