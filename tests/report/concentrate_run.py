"""A finished run of Knowledge Concentration, as the pipeline leaves it, with made-up numbers."""

from __future__ import annotations

from functools import cache

import numpy as np

from .conftest import GROUPS, draw, faces_of

VERTICALS = ("latin", "cyrillic", "greek <&>", "hebrew אב", "arabic", "marks", "pictures", "arrows",
             "hangul", "math", "box", "other")  # fmt: skip
MEANS = {
    "generalist": 0.277, "sc_sc_annotated": 0.276, "fc_fc": 0.315, "fc_sc": 0.333, "sc_sc": 0.319,
    "fc_sc_generic_25": 0.326, "fc_sc_generic_50": 0.318, "fc_sc_generic_75": 0.309,
    "paced": 0.379, "paced_label": 0.335, "paced_fixed": 0.21, "paced_10": 0.24,
    "paced_label_10": 0.23, "worded": 0.29, "worded_label": 0.22, "worded_fixed": 0.12,
    "worded_10": 0.16, "worded_label_10": 0.14, "found": 0.322, "found_paced": 0.36,
    "specialists": 0.68,
}  # fmt: skip
END_LOSSES = {
    "generalist": 0.004, "fc_fc": 0.0062, "fc_sc": 0.006, "paced": 0.0056, "paced_label": 0.006,
    "paced_fixed": 0.016, "paced_10": 0.011, "paced_label_10": 0.013, "worded": 0.009,
    "worded_label": 0.012, "worded_fixed": 0.03, "worded_10": 0.02, "worded_label_10": 0.022,
}  # fmt: skip
_WIDER = {"sc_sc": 1.58, "sc_sc_annotated": 1.58, "fc_sc": 1.37, "specialists": 11.2}


def make_rows(means: dict[str, float] | None = None, seeds: int = 3) -> dict:
    """Rows as in ``metrics.json`` around these means of mpvap."""
    generator = np.random.default_rng(3)
    rows = {}
    for key, mean in (MEANS if means is None else means).items():
        row: dict = {}
        for name, scale in (("mpvap", 1.0), ("mpvap_per_label", 0.8), ("top1", 0.7), ("top5", 1.3)):
            drawn = scale * mean + generator.normal(0, 0.002, seeds)
            std = float(drawn.std(ddof=1)) if seeds > 1 else 0.0
            row[name] = {"mean": float(drawn.mean()), "std": std, "seeds": drawn.tolist()}
        wider = _WIDER.get(key, 1.37 if "fc" not in key and key != "generalist" else 1.0)
        rows[key] = row | {"macs": int(13_203_520 * wider), "parameters": int(521_303 * wider)}
    return rows


def make_analysis() -> tuple[dict, dict[str, np.ndarray]]:
    """The content of ``analysis.json`` and ``analysis.npz``, the caller's to change."""
    generator = np.random.default_rng(4)
    number = len(VERTICALS)
    labels = generator.integers(60, 900, number)
    verticals = [
        {"name": name, "labels": int(n), "nodes": int(n) // 40, "train": int(n) * 7, "test": int(n)}
        for name, n in zip(VERTICALS, labels, strict=True)
    ]
    per_vertical = {}
    for key, mean in MEANS.items():
        drawn = mean + np.linspace(0.12, -0.12, number) + generator.normal(0, 0.01, number)
        means: list[float | None] = drawn.clip(0).tolist()
        if key == "found":
            means[0] = None
        stds = generator.uniform(0.001, 0.02, number).tolist()
        per_vertical[key] = {"mean": means, "std": stds}
    letters = [(label, name) for name, members in GROUPS.items() for label in members[:2]][:12]
    arrays = {"examples": np.stack([draw(label, faces_of(label)[0]) for label, _ in letters])}
    analysis = {
        "system": "concentrate",
        "title": "One student of 12 specialists",
        "settings": {"seeds": 3, "top_k": 100, "level": "script"},
        "command": "fastheads concentrate --output_dir runs/demo",
        "environment": {"torch": "2.15.0", "cpu": "AMD EPYC", "threads": 2},
        "durations": [{"stage": "trunk", "seconds": 171.4}, {"stage": "teachers", "seconds": 540.1},
                      {"stage": "soft targets", "seconds": 33.0},
                      {"stage": "students", "seconds": 1240.7}],
        "dataset": {"labels": 5547, "nodes": 132, "train": 38217, "holdout": 5547, "test": 5547},
        "verticals": verticals,
        "per_vertical": per_vertical,
        "heads": _heads(),
        "curves": _curves(),
        "soft_targets": {"rows": 152868, "entries": 9172080, "bytes": 56_255_456,
                         "dense_bytes": 1_736_580_000, "seconds": 33.0, "top_k": 60,
                         "bytes_per_row": 368.0, "rows_per_second": 4632.4, "mass_kept": 0.9971},
        "latency_ms": {"student": {"1": 0.61, "64": 9.4}, "specialists": {"1": 5.9, "64": 88.1}},
        "memory_bytes": {"student": 2_860_000, "specialists": 23_350_000},
        "gamma": {"paced": (1 + generator.random(number)).tolist(),
                  "worded": (2 + 3 * generator.random(number)).tolist()},
        "examples": [
            {"picture": i, "vertical": vertical, "annotated": [label],
             "top": [[label, 0.91, True], [vertical, 0.85, True], ["Ω", 0.04, False]]}
            for i, (label, vertical) in enumerate(letters)
        ],
        "found": {"num_groups": 4, "ari": 0.412, "purity": 0.785,
                  "mpvap_on_found": {"fc_sc": 0.35, "found": 0.37},
                  "groups": [{"name": f"{VERTICALS[i]} and others", "size": 400 - 50 * i,
                              "verticals": [[VERTICALS[i], 300 - 50 * i], ["math", 100]],
                              "labels": list("ABCDÉÈ")} for i in range(4)]},
    }  # fmt: skip
    return analysis, arrays


def _heads() -> dict[str, dict]:
    plain = {"top1": 256, "top2": 16, "generic": 0, "distilled": True, "pacing": None}
    paced = {"level": "vertical", "trainable": True, "init": "sqrt", "bias": "after"}
    heads = {
        "generalist": {**plain, "kind": "fc_fc", "distilled": False},
        "sc_sc_annotated": {**plain, "kind": "sc_sc", "top1": 16, "distilled": False},
        "fc_fc": {**plain, "kind": "fc_fc"},
        "fc_sc": {**plain, "kind": "fc_sc"},
        "sc_sc": {**plain, "kind": "sc_sc", "top1": 16},
        "paced": {**plain, "kind": "fc_sc", "pacing": paced},
    }
    for share in (25, 50, 75):
        heads[f"fc_sc_generic_{share}"] = {**plain, "kind": "fc_sc", "generic": 16 * share // 100}
    return heads


@cache
def _curves() -> list[dict]:
    generator = np.random.default_rng(5)
    steps = np.arange(0, 4000, 50)
    return [
        {"row": row, "seed": seed, "step": steps.tolist(), "seconds": 31.0 + 4 * seed,
         "loss": (end * (1 + 0.03 * generator.random(80)) + 0.1 * np.exp(-steps / 300)).tolist()}
        for row, end in END_LOSSES.items() for seed in range(3)
    ]  # fmt: skip
