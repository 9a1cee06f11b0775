"""The numbers in the README are those of the results, not typed by hand."""

from fastheads_bench import readme_figures


def test_readme_holds_the_measured_numbers():
    assert readme_figures.main(["--check"]) == 0, "run `python bench/readme_figures.py`"


def test_duration_units():
    durations = [readme_figures.duration(us) for us in ("12.34", "1500", "2500000")]
    assert durations == ["12.3 µs", "1.5 ms", "2.5 s"]
