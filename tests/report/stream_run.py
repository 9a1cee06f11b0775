"""A finished run with streamed labels, as the pipeline leaves it, with made-up numbers."""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np

from .adaptive_run import spread
from .conftest import draw

# Top-5 on base pictures before and after the stream, on streamed ones; seconds of an epoch on each.
NETWORKS = {
    "vgg": (0.736, 0.58, 0.41, 30.2, 1.9), "resnet": (0.774, 0.562, 0.273, 39.6, 2.1),
    "senet": (0.878, 0.763, 0.698, 40.9, 2.5), "senet_2x": (0.903, 0.843, 0.767, 42.1, 2.7),
    "senet_4x": (0.891, 0.637, 0.926, 46.6, 2.9), 
    "senet_2x_averaged": (0.899, 0.85, 0.74, 42.0, 2.7),
    "senet_r8": (0.886, 0.796, 0.893, 40.8, 2.6), "senet_r32": (0.864, 0.858, 0.719, 40.6, 2.1),
    "senet_sqrt": (0.859, 0.823, 0.716, 40.3, 2.0), "senet_log": (0.861, 0.82, 0.7, 40.2, 2.0),
    "senet_2x_r32": (0.868, 0.81, 0.754, 41.0, 2.2),
    "inception_48": (0.742, 0.769, 0.692, 30.6, 1.7),
    "inception_96": (0.761, 0.691, 0.744, 58.7, 3.7),
    "inception_senet": (0.79, 0.73, 0.77, 63.0, 4.0),
}  # fmt: skip
SOFT = {"resnet_soft": 0.693, "senet_soft": 0.647}
# Top-5 on base pictures after the stream, on streamed ones, seconds of the whole stream.
GUARDS = {
    "kept_low_lr": (0.83, 0.61, 8.8), "kept_freeze_layers": (0.82, 0.70, 6.1),
    "kept_freeze_norms": (0.835, 0.72, 8.5), "kept_distillation": (0.85, 0.74, 12.9),
    "kept_replay": (0.861, 0.75, 11.7), "kept_averaging": (0.857, 0.70, 8.9),
    "kept_together": (0.866, 0.745, 15.0), "kept_together_last": (0.863, 0.73, 12.0),
}  # fmt: skip
KEPT, COUNT = "senet_2x_r32", 5
PARAMETERS, MACS = 11_238_072, 560_000_000
KINDS = "éàñçöûåžşćęŷ"


def make_rows(keys: tuple[str, ...] | None = None, seeds: int = 3) -> dict:
    """Rows as in ``metrics.json``, of all rows or of ``keys``."""
    generator = np.random.default_rng(7)

    def near(value: float, scale: float = 0.004) -> dict:
        return spread(value, generator, scale, seeds)

    rows: dict[str, dict] = {}
    for i, (key, (base, original, streamed, epoch, short)) in enumerate(NETWORKS.items()):
        rows[key] = {
            "base_top1": near(base / 2), "base_top5": near(base), "original_top5": near(original),
            "original_top1": near(original / 2), "streamed_top5": near(streamed),
            "streamed_all": near(streamed - 0.2), "streamed_exact": near(streamed / 3),
            "before_top5": near(0.2), "before_all": near(0.04),
            "base_seconds": near(15 * epoch, 0.3), "stream_seconds": near(4 * short, 0.05),
            "base_epoch_seconds": near(epoch, 0.2), "stream_epoch_seconds": near(short, 0.02),
            "parameters": PARAMETERS + 90_000 * i, "macs": MACS + 1_500_000 * i,
        }  # fmt: skip
    for key, base in SOFT.items():
        rows[key] = {"base_top1": near(base / 2), "base_top5": near(base)}
    for key, (original, streamed, time) in GUARDS.items():
        rows[key] = {
            "original_top5": near(original), "original_top1": near(original / 2),
            "streamed_top5": near(streamed), "streamed_all": near(streamed - 0.2),
            "streamed_exact": near(streamed / 3), "stream_seconds": near(time, 0.1),
        }  # fmt: skip
    rows["retrained"] = {
        "original_top5": near(0.872), "streamed_top5": near(0.76), "streamed_all": near(0.6),
        "base_seconds": near(690.0, 2.0), "parameters": PARAMETERS, "macs": MACS,
    }  # fmt: skip
    return rows if keys is None else {key: rows[key] for key in keys}


def make_analysis(seeds: int = 3) -> tuple[dict, dict[str, np.ndarray]]:
    """The content of ``analysis.json`` and ``analysis.npz``, the caller's to change."""
    pictures = np.stack([draw(kind, "DejaVuSans.ttf") for kind in KINDS])[:, None]
    analysis = {
        "system": "stream",
        "title": "New labels stream in",
        "command": "fastheads stream --output_dir runs/stream",
        "environment": {"torch": "2.15.0", "cpu": "AMD EPYC", "threads": 2},
        "durations": [{"stage": "base training", "seconds": 3021.4},
                      {"stage": "streams", "seconds": 140.1}],
        "settings": {"seeds": seeds, "loss": "margin", "epochs": 15, "stream_epochs": 4},
        "kept": KEPT,
        "dataset": {"labels": 312, "train": 18217, "holdout": 1547, "test": 3547, "faces": 16,
                    "kinds": 896,
                    "streamed_train": 6500, "streamed_holdout": 910, "streamed_test": 1890,
                    "skipped": 1},
        "curves": _curves(seeds),
        "epochs": _epochs(seeds),
        "forgotten": _forgotten(),
        "arrivals": _arrivals(seeds),
        "retraining": {"row": "retrained", "seconds": {"mean": 690.0},
                       "ratio": {"mean": 46.0, "std": 0.8, "seeds": [45.2, 46.0, 46.8][:seeds]}},
        "guard": {"row": "kept_together", "within": True},
        "examples": [_example(kind) for kind in KINDS],
        "costs": {"rows": {
            key: {"parameters": PARAMETERS + 90_000 * i, "macs": MACS + 1_500_000 * i,
                  "ms_1": 3.1 + 0.1 * i, "ms_32": 1.4 + 0.06 * i}
            for i, key in enumerate(NETWORKS)}},
    }  # fmt: skip
    return analysis, {"example_pictures": pictures}


def _example(kind: str) -> dict:
    letter, mark = unicodedata.normalize("NFD", kind)[:2]
    return {"kind": kind, "labels": [letter, mark], "before": ["e", "б", letter, "<", "\u0307"],
            "after": [mark, letter, "e", "ö"[0], "o"]}  # fmt: skip


def _epochs(seeds: int) -> list[dict]:
    generator = np.random.default_rng(3)
    epochs = np.arange(1, 16)
    entries = []
    for row, top in (("senet", 0.45), ("resnet", 0.41)):
        for seed in range(seeds):
            rise = 1 - np.exp(-epochs / 5) + generator.normal(0, 0.01, 15)
            entries.append({
                "row": row, "seed": seed, "epoch": epochs.tolist(),
                "train_top1": (top * rise * (1 + epochs / 30)).tolist(),
                "valid_top1": (top * rise).tolist(),
                "train_top5": (2 * top * rise * (1 + epochs / 150)).clip(0, 1).tolist(),
                "valid_top5": (1.9 * top * rise).tolist(),
            })  # fmt: skip
    return entries


def _forgotten() -> dict:
    generator = np.random.default_rng(4)
    names = [*"abcdefghijklmnopqrstuvwxyzαβγδεζηθабвгджз", *map(chr, range(0x300, 0x318))]
    labels = []
    for i, name in enumerate(names):
        before = generator.uniform(0.6, 1.0)
        component = i < 26 or i > 40
        lost = generator.exponential(0.05 if component else 0.16) - 0.03
        after = float(np.clip(before - lost, 0, 1))
        images = int(generator.integers(2, 30))
        labels.append({"label": name, "images": images, "before": float(before), "after": after,
                       "component": component})  # fmt: skip
    return {"row": KEPT, "labels": labels}


def _arrivals(seeds: int) -> dict:
    generator = np.random.default_rng(5)
    rows = {}

    def noise(count: int) -> np.ndarray:
        return generator.normal(0, 0.006, (seeds, count))

    for key, fall, learns in ((KEPT, 0.05, 0.5), ("kept_distillation", 0.015, 0.5),
                              ("kept_replay", 0.008, 0.52), ("kept_averaging", 0.012, 0.46),
                              ("kept_together", 0.004, 0.53)):  # fmt: skip
        steps = np.arange(COUNT + 1)
        rows[key] = {
            "original_top5": (0.868 - fall * steps + noise(COUNT + 1)).tolist(),
            "learned_all": (learns - fall * steps[1:] / 2 + noise(COUNT)).tolist(),
            "first_all": (learns + 0.05 - fall * steps[1:] * 2 + noise(COUNT)).tolist(),
        }  # fmt: skip
    return {"count": COUNT, "rows": rows}


@cache
def _curves(seeds: int) -> list[dict]:
    generator = np.random.default_rng(6)
    lengths = {"base": 1500, "stream": 120, "retrain": 1900}
    rows = {"base": ("resnet", "senet", KEPT), "stream": ("resnet", KEPT, "kept_replay"),
            "retrain": ("retrained",)}  # fmt: skip
    curves = []
    for stage, last in lengths.items():
        steps = np.linspace(1, last, 40).astype(int)
        curves += [
            {"row": row, "seed": seed, "stage": stage, "step": steps.tolist(), "seconds": 60.0,
             "loss": (0.02 + 0.005 * generator.random(40) + np.exp(-5 * steps / last)).tolist()}
            for row in rows[stage] for seed in range(seeds)
        ]  # fmt: skip
    return curves
