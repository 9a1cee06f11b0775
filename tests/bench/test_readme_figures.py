"""The numbers in the README are those of the results, not typed by hand."""

import re

import pytest
from fastheads_bench import readme_figures, system_tables
from fastheads_bench.harness import line_ups, read


def test_readme_holds_the_measured_numbers():
    assert readme_figures.main(["--check"]) == 0, "run `python -m bench.readme_figures`"


def test_duration_units():
    durations = [readme_figures.duration(us) for us in ("12.34", "1500", "2500000")]
    assert durations == ["12.3 µs", "1.5 ms", "2.5 s"]


@pytest.mark.parametrize("path", sorted(system_tables.RESULTS.glob("*.csv")), ids=lambda p: p.stem)
def test_the_page_beside_the_results_leaves_out_no_case(path):
    page = (system_tables.RESULTS / "README.md").read_text()
    section = page.split(f"`fastheads bench {path.stem}`")[1].split("`fastheads bench")[0]
    for case, rows in line_ups(read(path)).items():
        assert f"| {case[2]} {case[3]} |" in section, case
        ours = [row for row in rows if row["provider"] == "fastheads"]
        for row in ours if len(rows) > len(ours) else ():
            assert f"| {float(row['ratio_to_best_peer']):.2f} |" in section


def test_how_many_rows_are_behind():
    """Those below 1 in the page: a ratio that is rounded up to 1 may be one of them."""
    page = (system_tables.RESULTS / "README.md").read_text()
    every, ahead, behind = map(int, re.findall(r"\d+", page[page.index("Of all") :])[:3])
    tables = page[page.index("`fastheads bench") :]
    ratios = [float(r) for r in re.findall(r"\| (\d+\.\d\d) \|$", tables, re.MULTILINE)]
    assert every == len(ratios) == ahead + behind
    below, one = sum(r < 1 for r in ratios), ratios.count(1.0)
    assert below <= behind <= below + one
