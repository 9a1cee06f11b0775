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
LESION = {
    "resnet": "ResNet of 54 blocks",
    "vgg": "VGG of 13 layers",
    "stochastic_depth": "stochastic depth",
    "effective_paths": "trained on 23 of 54 blocks at a time",
}
STREAM = {
    "resnet": "ResNet-18",
    "senet": "SENet-18",
    "senet_2x": "SENet-18, 2x expansion",
    "senet_4x": "SENet-18, 4x expansion",
    "senet_r8": "SENet-18, reduction 8",
    "senet_r32": "SENet-18, reduction 32",
    "senet_sqrt": "SENet-18, square-root reduction",
    "senet_2x_r32": "SENet-18, 2x expansion, reduction 32",
    "inception_48": "Inception-ResNet 48",
    "inception_96": "Inception-ResNet 96",
    "inception_senet": "Inception-SENet 48",
    "vgg": "VGG-16",
    "kept_low_lr": "a tenth of the learning rate",
    "kept_freeze_layers": "early layers frozen",
    "kept_freeze_norms": "batch norms frozen",
    "kept_averaging": "weights averaged, 30 % of those before",
    "kept_distillation": "held to its old outputs",
    "kept_replay": "1,600 old pictures mixed in",
    "kept_together": "early layers frozen, old outputs, old pictures, averaged weights",
    "kept_together_last": "these, with all frozen but the last stage",
    "retrained": "trained from scratch on everything",
}
# What README.md shows of each.
SHOWN = {
    "demo": ("base", "retrained", "confusions", "randomized_confusions"),
    "concentrate": ("generalist", "fc_fc", "fc_sc", "paced", "specialists"),
    "adaptive": ("plain", "plain_continued", "adaptive_80", "adaptive_70", "adaptive_60",
                 "adaptive_50", "adaptive_40"),
    "stream": ("resnet", "senet", "senet_2x_r32", "kept_distillation", "kept_replay",
               "kept_together", "kept_together_last", "retrained"),
}  # fmt: skip
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
    return "\n".join(lines) + f"\n\n{spread(metrics[base]['top1'])}.\n"


def adaptive_table(metrics: dict, rows: dict[str, str]) -> str:
    """Accuracy, what is executed and what it takes, the times as parts of the plain network's."""
    names = {"ms_1": "alone", "ms_32": "in batches of 32"}
    lines = [
        f"| | top-1 | layers | multiply-adds | time {' | time '.join(names.values())} |",
        "|---" * (len(names) + 4) + "|",
    ]
    plain = metrics["plain"]
    for row, name in rows.items():
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
    took = ", ".join(f"{plain[key]['mean']:.2f} ms an image {when}" for key, when in names.items())
    return (
        "\n".join(lines)
        + f"\n\n{spread(plain['top1'])}; times as parts of the plain network's, measured in turns "
        f"({took}).\n"
    )


def stream_table(metrics: dict, rows: dict[str, str]) -> str:
    """Accuracy before and after learning the stream, and how long that takes."""
    columns = {
        "base_top5": "base set before",
        "original_top5": "base set after",
        "streamed_top5": "streamed set: one label",
        "streamed_all": "all labels",
    }
    lines = [
        f"| | {' | '.join(columns.values())} | seconds |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row, name in rows.items():
        values = metrics[row]
        cells = [cell(values[key]) if key in values else "" for key in columns]
        seconds = values.get("stream_seconds") or values["base_seconds"]
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds['mean']:.0f} |")
    return (
        "\n".join(lines)
        + f"\n\n{spread(metrics['resnet']['base_top5'])}: of pictures with one of their labels, or "
        "all of them, among the best five.\n"
    )


def lesion_findings() -> str:
    """What the paper says of lesions, and whether it holds."""
    found = json.loads((RESULTS / "lesion_findings.json").read_text())
    verdict = {True: "Holds", False: "Does not hold", None: "Undecided"}
    lines = [f"- {verdict[each['holds']]}: {each['sentence']}" for each in found["findings"]]
    top1 = ", ".join(f"{100 * found['top1'][row]:.1f} ({name})" for row, name in LESION.items())
    return "\n".join(lines) + f"\n\nTop-1 of the whole networks: {top1}; {found['seeds']} seed.\n"


def spread(metric: dict) -> str:
    return f"Percent, mean ± standard deviation over {len(metric['seeds'])} seeds"


def cell(metric: dict) -> str:
    """Percent, with its spread if there is any to speak of."""
    mean = f"{100 * metric['mean']:.1f}"
    return mean if len(metric["seeds"]) == 1 else f"{mean} ± {100 * metric['std']:.1f}"


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


def duration(microseconds: str) -> str:
    value = float(microseconds)
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} µs"


def systems(shown: dict[str, tuple[str, ...]] | None = None) -> list[str]:
    """Titles and tables of the systems: all rows, or those shown."""

    def of(name: str, rows: dict[str, str]) -> dict[str, str]:
        return rows if shown is None else {row: rows[row] for row in shown[name]}

    names = ("demo", "concentrate", "adaptive", "stream")
    demo, concentrated, adaptive, streamed = (
        json.loads((RESULTS / f"{name}_metrics.json").read_text()) for name in names
    )
    return [
        "`make demo`, on glyphs (mAP, top-1 and top-5 on drawings that were never trained on):",
        results_table(demo, of("demo", ROWS), METRICS, "base"),
        "`fastheads concentrate`, on glyphs, verticals by script (mpvap: "
        "average precision within the vertical, mean over verticals):",
        results_table(concentrated, of("concentrate", STUDENTS), RANKED, "generalist"),
        "`fastheads adaptive`, on Greek and Cyrillic letters (layers: executed residual blocks):",
        adaptive_table(adaptive, of("adaptive", ADAPTIVE)),
        "`fastheads stream`, composed characters with the letters and marks that they are made of "
        "(guards on the row above them):",
        stream_table(streamed, of("stream", STREAM)),
        "`fastheads lesion`, on Latin letters:",
        lesion_findings(),
    ]


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
    parts = ["# Measured", "Written by `python bench/readme_figures.py`.", *systems()]
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
