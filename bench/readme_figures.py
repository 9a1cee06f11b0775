"""Writes the measured numbers of README.md from `results/`; `--check` says whether they agree.

`results/demo_metrics.json` is the `metrics.json` of a run of `make demo`,
`results/concentrate_metrics.json` and `results/adaptive_metrics.json` those of `fastheads
concentrate` and `fastheads adaptive`.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
ROWS = {
    "base": "base network",
    "retrained": "its classifier trained equally long again",
    "confusions": "heads, groups by confusions",
    "randomized_confusions": "heads, random groups of the same sizes",
    "co_detections": "heads, groups by co-detections",
    "randomized_co_detections": "heads, random groups of the same sizes",
}
STUDENTS = {
    "generalist": "FC-FC on the labels as annotated",
    "fc_fc": "FC-FC, distilled",
    "fc_sc": "FC-SC, distilled",
    "sc_sc": "SC-SC, distilled",
    "paced": "FC-SC, distilled, self-paced",
    "found": "FC-SC, distilled, verticals found by confusions",
    "specialists": "the specialists, told the vertical",
}
ADAPTIVE = {
    "plain": "plain network",
    "plain_continued": "plain, trained on as long as the rows with gates",
    "preactivation": "pre-activation, trained as long in all",
    "stochastic_depth": "stochastic depth, trained as long in all",
    "adaptive_90": "gates, target rate 90 %",
    "adaptive_80": "gates, target rate 80 %",
    "adaptive_70": "gates, target rate 70 %",
    "adaptive_60": "gates, target rate 60 %",
    "adaptive_50": "gates, target rate 50 %",
    "adaptive_40": "gates, target rate 40 %",
    "adaptive_60_worded": "each gate held at 60 % (eq. 5.8 as worded)",
    "random_60": "blocks left out at random, at the rates of 60 %",
}
# The cases that README.md shows, by what their operation, pass, shape and dtype contain; `results/`
# holds all.
BENCHES = {
    "squeeze_excite": r"8x(256x56x56|2048x7x7) ",
    "model": "",
    "gated_block": r"\[32, (512|1024).* float32",
    "sc_linear": r"^sc_linear\S* .*(uniform|tiny|masked|of 20x).*(B=1|B=64|B=32) +float32",
    "sc_sigmoid_loss": r"",
    "heads": r"topk_logits .*FC1024|^heads ",
    "topk_confusion": "",
    "csr_matmul": "",
    "clustering": "",
    "adaptive": "",
    "concentrate": r"B=(64|256) N=50000 float32|student|soft",
    "augment": r"paper 000 \[(32|256)\] float32|glyphs \[32\]",
}
# What ours is called where there are more forms of it, or its memory is in the name.
FORMS = {"model": "fastheads( compiled)?", "sc_sigmoid_loss": r"fastheads( \d+ MB)?",
         "concentrate": r"fastheads.*"}  # fmt: skip
RANKED = {"mpvap": "mpvap", "mpvap_per_label": "mpvap per label", "top1": "top-1", "top5": "top-5"}
METRICS = {"map50_per_label": "mAP@50 per label", "map50_per_image": "mAP@50 per image",
           "top1": "top-1", "top5": "top-5"}  # fmt: skip


def results_table(metrics: dict, rows: dict[str, str], columns: dict[str, str], base: str) -> str:
    lines = [
        f"| | {' | '.join(columns.values())} | multiply-adds | × base |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for row, name in rows.items():
        values = metrics[row]
        cells = [cell(values[metric]) for metric in columns]
        ratio = values["macs"] / metrics[base]["macs"]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {values['macs'] / 1e6:.2f} M | {ratio:.3f} |"
        )
    seeds = len(metrics[base]["top1"]["seeds"])
    return "\n".join(lines) + f"\n\nPercent, mean ± standard deviation over {seeds} seeds.\n"


def adaptive_table(metrics: dict) -> str:
    """Accuracy, what is executed and what it takes, the times as parts of the plain network's."""
    names = {"ms_1": "alone", "ms_32": "in batches of 32"}
    lines = [
        f"| | top-1 | layers | multiply-adds | time {' | time '.join(names.values())} |",
        "|---" * (len(names) + 4) + "|",
    ]
    plain = metrics["plain"]
    for row, name in ADAPTIVE.items():
        values = metrics[row]
        times = [
            f"{values[key]['mean'] / plain[key]['mean']:.2f}" if key in values else ""
            for key in names
        ]
        layers = f"{values['layers']['mean']:.1f}"
        macs = f"{values['macs'] / 1e6:.1f} M"
        lines.append(
            f"| {name} | {cell(values['top1'])} | {layers} | {macs} | {' | '.join(times)} |"
        )
    seeds = len(plain["top1"]["seeds"])
    took = ", ".join(f"{plain[key]['mean']:.2f} ms an image {when}" for key, when in names.items())
    return (
        "\n".join(lines)
        + f"\n\nPercent, mean ± standard deviation over {seeds} seeds; times as parts of the plain "
        f"network's, measured in turns ({took}).\n"
    )


def cell(metric: dict) -> str:
    """Percent, with its spread if there is any to speak of."""
    mean = f"{100 * metric['mean']:.1f}"
    return mean if len(metric["seeds"]) == 1 else f"{mean} ± {100 * metric['std']:.1f}"


def bench_table(name: str, wanted: str) -> str:
    """Our rows of one CSV that are wanted, with the best peer of the same run."""
    with (RESULTS / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    cases: dict[tuple, list[dict]] = {}
    for row in rows:
        cases.setdefault((row["op"], row["pass"], row["shape"], row["dtype"]), []).append(row)
    lines = ["| operation | shape | ours | best peer | ratio |", "|---|---|---|---|---|"]
    for (op, pass_, shape, dtype), contestants in cases.items():
        if not re.search(wanted, f"{op} {pass_} {shape} {dtype}"):
            continue
        # "fastheads ..." is another form of ours, no peer.
        peers = [row for row in contestants if not row["provider"].startswith("fastheads")]
        best = min(peers, key=lambda row: float(row["median_us"]), default=None)
        against = f"{best['provider']} {duration(best['median_us'])}" if best else ""
        for row in contestants:
            if not re.fullmatch(FORMS.get(name, "fastheads"), row["provider"]):
                continue
            ratio = f"{float(row['ratio_to_best_peer']):.2f}" if best else ""
            form = row["provider"].removeprefix("fastheads")
            operation = (op if pass_ == "forward" else f"{op}, {pass_}") + form
            took = duration(row["median_us"])
            lines.append(f"| {operation} | {shape} {dtype} | {took} | {against} | {ratio} |")
    last = rows[-1]
    where = f"{last['device'].removeprefix('cpu: ')}, {last['threads']} threads"
    return "\n".join(lines) + f"\n\n{where}, PyTorch {last['torch']}, {last['date']}.\n"


def duration(microseconds: str) -> str:
    value = float(microseconds)
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} µs"


def block() -> str:
    demo, concentrated, adaptive = (
        json.loads((RESULTS / f"{name}_metrics.json").read_text())
        for name in ("demo", "concentrate", "adaptive")
    )
    parts = [
        "`make demo`, on glyphs (mAP, top-1 and top-5 on drawings that were never trained on):",
        results_table(demo, ROWS, METRICS, "base"),
        "`fastheads concentrate`, on glyphs, verticals by script (mpvap: "
        "average precision within the vertical, mean over verticals):",
        results_table(concentrated, STUDENTS, RANKED, "generalist"),
        "`fastheads adaptive`, on Greek and Cyrillic letters (layers: executed residual blocks):",
        adaptive_table(adaptive),
        "`fastheads bench`, peers in the same run (ratio above 1: faster than the best of them):",
        *(bench_table(name, wanted) for name, wanted in BENCHES.items()),
    ]
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def main(argv: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--check", action="store_true", help="change nothing, exit 1 if different")
    check = options.parse_args(argv).check
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = before + BEGIN + block() + END + after
    if check:
        return int(wanted != text)
    readme.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
