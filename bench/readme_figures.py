"""Writes the measured numbers of README.md, and all of them to `results/README.md`.

From `results/`, where `demo_metrics.json` is the `metrics.json` of a run of `make demo`,
`concentrate_metrics.json`, `adaptive_metrics.json` and `stream_metrics.json` are those of the
commands of these names, and `lesion_findings.json` is from the `analysis.json` of
`fastheads lesion`.
`--check` says whether they agree.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys

from .system_tables import RESULTS, SHOWN, systems

ROOT = RESULTS.parents[1]
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
# Cases of each CSV in README.md, by what their operation, pass, shape and dtype contain; the file
# beside the CSVs has all.
HEADLINES = {
    "squeeze_excite": r"8x256x56x56 float32$",
    "model": "",
    "senet": r"\[(1|8), .*",
    "multilabel_margin": r"\[64, .*float32",
    "gated_block": r"\[32, 1024.* (41|59)% float32",
    "adaptive": "",
    "sc_linear": r"^sc_linear forward (uniform|2000 tiny|10240).*B=64 float32",
    "sc_sigmoid_loss": r"forward \+ backward(, memory kept)? B=64 N=1?00000",
    "heads": r"topk_logits .*FC1024.*\[1\]",
    "topk_confusion": r"32, 100000\] k=100 float32",
    "csr_matmul": r"100000x.*B=32 float32",
    "clustering": r"(20000|100000)x",
    "concentrate": r"step.* B=64 N=50000 float32|student",
    "augment": r"^group_heads forward paper 000 \[32\] float32",
}
BENCHES = sorted(path.stem for path in RESULTS.glob("*.csv"))
# What ours is called where there are more forms of it, or its memory is in the name.
FORMS = {"model": "fastheads( compiled)?", "sc_sigmoid_loss": r"fastheads( \d+( of \d+)? MB)?",
         "concentrate": r"fastheads.*"}  # fmt: skip

Contest = tuple[str, dict[str, str], dict[str, str] | None]


def contests(name: str) -> list[Contest]:
    """Of each of our rows of one CSV: its case, the row, the best peer of the same run."""
    cases: dict[str, list[dict[str, str]]] = {}
    with (RESULTS / f"{name}.csv").open() as file:
        for row in csv.DictReader(file):
            case = " ".join(row[key] for key in ("op", "pass", "shape", "dtype"))
            cases.setdefault(case, []).append(row)
    found: list[Contest] = []
    for case, rows in cases.items():
        # "fastheads ..." is another form of ours, no peer.
        peers = [row for row in rows if not row["provider"].startswith("fastheads")]
        best = min(peers, key=lambda row: float(row["median_us"]), default=None)
        ours = (r for r in rows if re.fullmatch(FORMS.get(name, "fastheads"), r["provider"]))
        found += [(case, row, best) for row in ours]
    return found


def bench_rows(name: str, wanted: str = "") -> tuple[list[str], dict[str, str]]:
    """The lines of one CSV that are wanted; the last of its rows."""
    found = contests(name)
    lines = []
    for case, row, best in found:
        if not re.search(wanted, case):
            continue
        form = row["provider"].removeprefix("fastheads")
        operation = (
            row["op"] if row["pass"] == "forward" else f"{row['op']}, {row['pass']}"
        ) + form
        took = duration(row["median_us"])
        against = f"{best['provider']} {duration(best['median_us'])}" if best else ""
        ratio = f"{float(row['ratio_to_best_peer']):.2f}" if best else ""
        lines.append(
            f"| {operation} | {row['shape']} {row['dtype']} | {took} | {against} | {ratio} |"
        )
    return lines, found[-1][1]


def behind() -> str:
    """In how many rows ours is slower than the best peer, where, and by how much at most."""
    ratios = {
        name: [
            (float(row["ratio_to_best_peer"]), case) for case, row, best in contests(name) if best
        ]
        for name in BENCHES
    }
    slower = {name: [each for each in of if each[0] < 1] for name, of in ratios.items()}
    where = [f"`{name}` {len(of)} of {len(ratios[name])}" for name, of in slower.items() if of]
    missed, rows = (sum(map(len, each.values())) for each in (slower, ratios))
    least, case = min(each for of in slower.values() for each in of)
    return (
        f"Of all {rows} rows with a peer {rows - missed} are ahead of the best of them; behind it "
        f"are {missed} ({', '.join(where)}), the least {least:.2f} ({case}).\n"
    )


def bench_table(lines: list[str], ran: list[dict[str, str]]) -> str:
    head = ["| operation | shape | ours | best peer | ratio |", "|---|---|---|---|---|"]
    where = sorted({f"{row['device'].removeprefix('cpu: ')}, {row['threads']} threads, "
                    f"PyTorch {row['torch']}" for row in ran})  # fmt: skip
    dates = sorted({row["date"] for row in ran})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return "\n".join(head + lines) + f"\n\n{'; '.join(where)}, {when}.\n"


def scaling_table() -> str:
    """Time and memory of the loss over groups of labels, by labels and by batch, with memory kept.

    The names of the rows end in "HELD of PEAK MB": beside the gradients, and at the most.
    """
    head = ["| labels | batch | ours | held | best peer | held |", "|---|---|---|---|---|---|"]
    lines = {}
    for case, row, best in contests("sc_sigmoid_loss"):
        size = re.fullmatch(
            r"sc_sigmoid_loss forward \+ backward, memory kept B=(\d+) N=(\d+) .*", case
        )
        if size and best:
            batch, labels = map(int, size.groups())
            of_both = [
                f"{duration(each['median_us'])} | {held[1]} MB"
                for each in (row, best)
                if (held := re.search(r"(\d+) of \d+ MB", each["provider"]))
            ]
            lines[labels, batch] = f"| {labels:,} | {batch:,} | {' | '.join(of_both)} |"
    return "\n".join([*head, *(lines[size] for size in sorted(lines))]) + "\n"


def duration(microseconds: str) -> str:
    value = float(microseconds)
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} µs"


def short() -> str:
    """What README.md holds."""
    lines, ran = [], []
    for name, wanted in HEADLINES.items():
        found, row = bench_rows(name, wanted)
        lines += found
        ran.append(row)
    title = (
        "`fastheads bench`, peers in the same run (ratio above 1: faster than the best of them):"
    )
    return _joined([*systems(SHOWN), title, bench_table(lines, ran), behind()])


def whole() -> str:
    """What the file beside the CSVs holds."""
    parts = ["# Measured", "Written by `python -m bench.readme_figures`.", *systems()]
    parts += ["Loss and gradients of a layer of 512 inputs a group, float32 (held: beside the "
              "gradients; rows and machine below):", scaling_table()]  # fmt: skip
    for name in BENCHES:
        lines, row = bench_rows(name)
        parts += [f"`fastheads bench {name}` (ratio above 1: faster than the best peer of the "
                  "same run):", bench_table(lines, [row])]  # fmt: skip
    return _joined([*parts, behind()])


def _joined(parts: list[str]) -> str:
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def main(argv: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--check", action="store_true", help="change nothing, exit 1 if different")
    check = options.parse_args(argv).check
    readme, beside = ROOT / "README.md", RESULTS / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    wanted = {readme: before + BEGIN + short() + END + after, beside: whole()}
    if check:
        return int(any(not p.exists() or p.read_text() != text for p, text in wanted.items()))
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
