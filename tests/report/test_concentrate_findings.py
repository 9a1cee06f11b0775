from __future__ import annotations

import math

import pytest

from fastheads.report.concentrate_findings import (
    compared_losses,
    final_losses,
    findings,
    headline,
    ranking,
    student_of,
    vertical_claims,
)
from fastheads.report.rows import CONCENTRATE, VERTICAL_METRICS


def rows(**means: float) -> dict:
    """Rows whose every metric has this mean and a deviation of 0.01."""
    return {
        key: {
            **{name: {"mean": mean, "std": 0.01, "seeds": [mean] * 3} for name in VERTICAL_METRICS},
            "macs": 100, "parameters": 500 if key == "specialists" else 10,
        }
        for key, mean in means.items()
    }  # fmt: skip


def curve(row: str, *ends: float | None) -> list[dict]:
    """A curve a seed that ends at these losses."""
    return [{"row": row, "seed": seed, "step": list(range(20)), "loss": [1.0] * 18 + [end] * 2}
            for seed, end in enumerate(ends)]  # fmt: skip


def test_claims_in_the_paper_s_own_numbers() -> None:
    published = rows(**{row.key: row.paper[0] for row in CONCENTRATE.rows if row.paper})
    found = vertical_claims(published)
    assert len(found) == 10
    for claim in found:
        assert claim.published == pytest.approx(claim.main.mean) and claim.published > 0
    # All differences above the sum of two deviations of a point agree, the others are open.
    assert {claim.verdict() == "agrees" for claim in found if claim.published > 0.02} == {True}
    assert {claim.verdict() for claim in found if claim.published < 0.02} == {"undecided"}


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ({"generalist": 0.2, "fc_fc": 0.3}, "raises mpvap of the same FC-FC student from 20.00"),
        ({"generalist": 0.3, "fc_fc": 0.2}, "lowers mpvap of the same FC-FC student from 30.00"),
        ({"generalist": 0.3, "fc_fc": 0.31}, "leaves mpvap of the same FC-FC student where it was"),
        ({"sc_sc_annotated": 0.2, "sc_sc": 0.3}, "raises mpvap of the same SC-SC student from"),
        ({"fc_fc": 0.2, "fc_sc": 0.3}, "(FC-SC instead of FC-FC) raises mpvap"),
        ({"fc_fc": 0.2, "fc_sc": 0.3, "sc_sc": 0.2}, "as well (SC-SC) lowers mpvap"),
        ({"fc_sc": 0.3, "fc_sc_generic_25": 0.31}, "A generic part of the top-2 layer does not"),
        ({"fc_sc": 0.3, "fc_sc_generic_75": 0.33}, "helps: 30.00\u00a0±\u00a01.00\u00a0% without"),
        ({"fc_sc": 0.3, "paced": 0.4}, "Self-pacing with a factor a vertical raises mpvap of the"),
        ({"fc_sc": 0.3, "paced": 0.2}, "Self-pacing with a factor a vertical lowers mpvap of the"),
        ({"fc_sc": 0.3, "paced_label": 0.3}, "factor a label leaves mpvap of the same"),
        ({"paced": 0.3, "worded": 0.1}, "the bias has to stand outside"),
        ({"paced": 0.1, "worded": 0.3}, "the paper's form is the better one"),
        ({"paced": 0.3, "worded": 0.3}, "the spread does not tell them apart"),
        ({"fc_sc": 0.3, "found": 0.4}, "more than on the given ones (30.00\u00a0±\u00a01.00"),
        ({"paced": 0.3, "found_paced": 0.2}, "less than on the given ones"),
        ({"generalist": 0.2, "paced": 0.3, "specialists": 0.6}, "covers 25\u00a0% of the way"),
        ({"generalist": 0.2, "paced": 0.1, "specialists": 0.6}, "no nearer to them than the gener"),
        ({"generalist": 0.2, "paced": 0.7, "specialists": 0.6}, "no upper bound here: the student "
         "lies 10.00 points above"),
        ({"fc_fc": 0.4, "paced": 0.3}, "Ahead of that student is “FC-FC + D” with 40.00"),
        ({"generalist": 0.2, "paced": 0.6, "specialists": 0.6}, "does not tell the student and"),
    ],
)  # fmt: skip
def test_findings_say_what_the_numbers_say(means: dict[str, float], said: str) -> None:
    metrics = rows(**means)
    assert said in " ".join(findings(metrics, [], student_of(metrics)))


def test_nothing_is_said_of_rows_that_are_not_there() -> None:
    assert findings(rows(generalist=0.3), [], None) == []
    assert vertical_claims(rows(generalist=0.3)) == []


def test_headline_and_the_student() -> None:
    metrics = rows(generalist=0.2, fc_sc=0.3, my_row=0.35, specialists=0.6)
    assert student_of(metrics) == "fc_sc" and student_of(metrics, "my_row") == "my_row"
    assert student_of(rows(generalist=0.2, sc_sc=0.3, fc_fc=0.4)) == "fc_fc"
    assert headline(metrics, "fc_sc", 5547, 20) == (
        "One student (FC-SC, distilled) over 5,547 labels in 20 verticals reaches "
        "30.00\u00a0±\u00a01.00\u00a0% mpvap; the generalist, from annotations alone, "
        "20.00\u00a0±\u00a01.00\u00a0%; the "
        "specialists, 50.0 times its parameters in all, 60.00\u00a0±\u00a01.00\u00a0%."
    )
    alone = headline(rows(generalist=0.2), None)
    assert alone == "The row “generalist” reaches 20.00\u00a0±\u00a01.00\u00a0% mpvap."


def test_a_single_seed_is_said() -> None:
    metrics = rows(generalist=0.2, fc_fc=0.201)
    for row in metrics.values():
        row["mpvap"]["seeds"] = row["mpvap"]["seeds"][:1]
    said = findings(metrics, [], None)
    assert said[0].endswith(
        "raises mpvap of the same FC-FC student from 20.00\u00a0% to 20.10\u00a0%."
    )
    assert said[-1].startswith("There is a single seed")


def test_final_losses_are_those_of_the_last_tenth() -> None:
    losses = final_losses([*curve("paced", 0.1, 0.3), *curve("paced_10", None)])
    assert losses["paced"]["mean"] == pytest.approx(0.2)
    assert losses["paced"]["std"] == pytest.approx(0.2 / math.sqrt(2))
    assert math.isnan(losses["paced_10"]["mean"])


def test_settings_are_ranked_and_compared_by_loss() -> None:
    ends = {"paced": (0.10, 0.11), "paced_label": (0.10, 0.12), "paced_fixed": (0.5, 0.5),
            "paced_10": (0.05, 0.05), "paced_label_10": (None, None)}  # fmt: skip
    curves = [one for row, values in ends.items() for one in curve(row, *values)]
    losses = final_losses(curves)
    assert ranking(losses) == ["paced_10", "paced", "paced_label", "paced_fixed", "paced_label_10"]
    verdicts = {text[-14:]: verdict for text, _, verdict in compared_losses(losses)}
    assert verdicts == {" (4) below (1)": "agrees", " (4) below (5)": "undecided",
                        " (4) below (2)": "contradicts"}  # fmt: skip
    (said,) = findings(rows(paced=0.3), curves, "paced")
    order = "rank (2)\u00a00.05 < (4)\u00a00.105 ≈ (5)\u00a00.11 < (1)\u00a00.5 < (3)\u00a0diverged"
    assert order in said and "in the paper, other than here" in said
