"""The tables of what the systems reach, from the metrics of their runs in `results/`."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
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
RANKED = {"mpvap": "mpvap", "mpvap_per_label": "mpvap per label", "top1": "top-1", "top5": "top-5"}
METRICS = {"map50_per_label": "mAP@50 per label", "map50_per_image": "mAP@50 per image",
           "top1": "top-1", "top5": "top-5"}  # fmt: skip


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
