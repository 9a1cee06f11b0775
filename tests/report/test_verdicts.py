from __future__ import annotations

import pytest

from fastheads.report.verdicts import Finding, compared, verdict_item, verdict_notice, verdict_table

from .html_reader import Reader

FOUND = [Finding("A is so", "figure 1", "It is.", True), Finding("B is so", "1.5", "Not.", False),
         Finding("C is so", "2", "Perhaps.", None), Finding("D is so", "3")]  # fmt: skip


def metric(mean: float, seeds: int = 3) -> dict:
    return {"x": {"mean": mean, "std": 0.01, "seeds": [mean] * seeds}}


def test_verdicts() -> None:
    verdicts = ["agrees", "contradicts", "undecided", "not measured"]
    assert [one.verdict for one in FOUND] == verdicts
    read = Reader(verdict_table(FOUND, "caption"))
    assert [row[1] for row in read.tables[0][1:]] == verdicts
    assert read.tables[0][2] == ["B is so.", "contradicts", "Not.", "1.5"]
    assert read.tables[0][4][2] == "–"
    assert Reader(verdict_item(FOUND[0])).text == "A is so: agrees. It is."


def test_the_notice_names_what_contradicts() -> None:
    notice = verdict_notice(FOUND)
    assert notice and "Contradicts the paper in 1 of 3 statements." in notice
    assert "Not so here: B is so." in notice
    assert verdict_notice(FOUND[2:]) is None and verdict_notice([FOUND[3]]) is None
    agrees = verdict_notice([FOUND[0], FOUND[3]])
    assert agrees and "All 1 statements hold here." in agrees


@pytest.mark.parametrize(
    ("above", "below", "seeds", "verdict"),
    [(0.5, 0.4, 3, "agrees"), (0.4, 0.5, 3, "contradicts"), (0.5, 0.49, 3, "undecided"),
     (0.5, 0.499, 1, "agrees"), (0.499, 0.5, 1, "contradicts")],
)  # fmt: skip
def test_rows_are_compared(above: float, below: float, seeds: int, verdict: str) -> None:
    rows = {"a": metric(above, seeds), "b": metric(below, seeds)}
    found = compared("A is better", "", rows, "a", "b", "x")
    assert found.verdict == verdict
    assert f"{100 * above:.2f} against {100 * below:.2f}" in found.ours
    assert ("±" in found.ours) == (seeds > 1)


def test_a_missing_row_is_not_measured() -> None:
    rows = {"a": metric(0.5)}
    assert compared("A", "", rows, "a", "b", "x").verdict == "not measured"
    assert compared("A", "", rows, "a", "a", "y").verdict == "not measured"
