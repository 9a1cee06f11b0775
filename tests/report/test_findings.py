from __future__ import annotations

import pytest

from fastheads.report.findings import claims, difference, summary, where_it_pays
from fastheads.report.rows import METRICS


def rows(**means: float) -> dict:
    """Rows whose every metric has this mean and a deviation of 0.01."""
    metric = {key: {"mean": mean, "std": 0.01, "seeds": [mean] * 3} for key, mean in means.items()}
    return {key: {**dict.fromkeys(METRICS, metric[key]), "macs": 100, "parameters": 10}
            for key in means}  # fmt: skip


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(0.05, "higher"), (-0.05, "lower"), (0.015, "within the spread"), (0.0, "within the spread")],
)
def test_difference_has_to_pass_the_sum_of_deviations(gain: float, verdict: str) -> None:
    found = difference(rows(a=0.3 + gain, b=0.3), "a", "b", "top1")
    assert found.mean == pytest.approx(gain) and found.spread == pytest.approx(0.02)
    assert found.verdict == verdict


def test_claims_in_the_paper_s_own_numbers() -> None:
    published = rows(base=0.3680, confusions=0.3941, randomized_confusions=0.3297,
                     co_detections=0.3807, randomized_co_detections=0.3213)  # fmt: skip
    found = claims(published)
    assert len(found) == 7
    for claim in found:
        assert claim.published == pytest.approx(claim.ours["map50_per_label"].mean)
    assert {claim.verdict() for claim in found} == {"agrees", "undecided"}


def test_claims_that_do_not_hold_contradict() -> None:
    found = claims(rows(base=0.1, confusions=0.3, randomized_confusions=0.4))
    verdicts = {(claim.above, claim.below): claim.verdict() for claim in found}
    assert verdicts == {
        ("confusions", "base"): "agrees",
        ("confusions", "randomized_confusions"): "contradicts",
        ("base", "randomized_confusions"): "contradicts",
    }


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ((0.1, 0.12, 0.3, 0.2), ["raise mAP@50", "due to the heads", "it matters which labels"]),
        (
            (0.1, 0.29, 0.3, 0.3),
            ["raise mAP@50", "gained by training longer", "does not show that it matters"],
        ),
        ((0.1, 0.5, 0.3, 0.4), ["raise mAP@50", "do not win", "no good guide"]),
        ((0.3, 0.3, 0.1, 0.05), ["lower mAP@50", "do not win", "it matters which labels"]),
        (
            (0.3, 0.2, 0.31, 0.3),
            ["leave mAP@50 per label where it was", "does not show that it matters"],
        ),
    ],
)
def test_summary_says_what_the_numbers_say(means: tuple[float, ...], said: list[str]) -> None:
    keys = ("base", "retrained", "confusions", "randomized_confusions")
    text = " ".join(summary(rows(**dict(zip(keys, means, strict=True))), 12))
    assert text.startswith("12 specialist heads")
    for words in said:
        assert words in text
    for mean in means:
        assert f"{100 * mean:.2f}\u00a0±\u00a01.00\u00a0%" in text


def test_a_single_seed_is_said_and_has_no_spread() -> None:
    metrics = rows(base=0.1, confusions=0.3)
    for row in metrics.values():
        for name in METRICS:
            row[name] = {"mean": row[name]["mean"], "std": 0.0, "seeds": [row[name]["mean"]]}
    assert difference(metrics, "confusions", "base", "top1").spread is None
    assert summary(metrics)[-1].startswith("This is a single seed")
    text = where_it_pays([{"bottleneck": 32, "rows": metrics}])
    assert text.startswith("The heads gain at a bottleneck of 32. Some widths have a single seed")


def test_summary_with_the_base_network_alone() -> None:
    assert summary(rows(base=0.25)) == [
        "The base network reaches 25.00\u00a0±\u00a01.00\u00a0% mAP@50 per label."
    ]


def test_where_it_pays() -> None:
    gains = {128: 0.0, 16: 0.2, 32: 0.1, 64: -0.2}
    points = [
        {"bottleneck": width, "rows": rows(base=0.1, retrained=0.3, confusions=0.3 + gain)}
        for width, gain in gains.items()
    ]
    assert where_it_pays(points) == (
        "The heads gain more than the spread at a bottleneck of 16 and 32. "
        "The difference stays within the spread at 128. The heads lose at 64."
    )
    assert where_it_pays([{"bottleneck": 8, "rows": rows(base=0.1)}]) == ""
