"""A finished run of networks that skip layers, as the pipeline leaves it, with made-up numbers."""

from __future__ import annotations

from functools import cache

import numpy as np

from .conftest import GROUPS, draw, faces_of

GATES, SHRINKING = 8, (2, 5)
MACS, PARAMETERS = 38_500_000, 912_000
NAMES = tuple(f"stages.{stage}.{i}" for stage, n in ((0, 2), (1, 3), (2, 3)) for i in range(n))
# Top-1, executed layers, milliseconds of one image and of one in a batch of 32, over the plain's.
ROWS = {
    "plain": (0.902, 8.0, 1.0, 1.0), "plain_continued": (0.906, 8.0, 1.0, 1.0),
    "preactivation": (0.905, 8.0, 1.02, 1.0), "stochastic_depth": (0.899, 8.0, 1.0, 1.0),
    "adaptive_40": (0.889, 4.6, 0.58, 0.55), "adaptive_50": (0.899, 5.2, 0.66, 0.62),
    "adaptive_60": (0.908, 5.8, 0.73, 0.7), "adaptive_70": (0.916, 6.3, 0.79, 0.77),
    "adaptive_80": (0.917, 7.0, 0.88, 0.87), "adaptive_90": (0.915, 7.6, 0.98, 0.97),
    "adaptive_70_all": (0.919, 8.0, 1.02, 1.01), "adaptive_70_soft": (0.907, 6.5, 0.82, 0.8),
    "adaptive_70_sampled": (0.909, 6.3, 0.8, 0.78),
    "adaptive_70_worded": (0.9, 5.9, 0.75, 0.73), "random_70": (0.83, 6.3, 0.79, 0.77),
    "budget_6": (0.911, 6.0, 0.75, 0.76),
}  # fmt: skip


def spread(mean: float, generator: np.random.Generator, scale: float, seeds: int = 3) -> dict:
    drawn = mean + generator.normal(0, scale, seeds)
    std = float(drawn.std(ddof=1)) if seeds > 1 else 0.0
    return {"mean": float(drawn.mean()), "std": std, "seeds": drawn.tolist()}


def make_rows(means: dict[str, float] | None = None, seeds: int = 3) -> dict:
    """Rows as in ``metrics.json``; ``means`` are other accuracies, and which rows there are."""
    generator = np.random.default_rng(6)
    rows = {}
    for key in ROWS if means is None else means:
        top1, layers, single, batch = ROWS.get(key, (0.9, 8.0, 1.0, 1.0))
        top1 = top1 if means is None else means[key]
        gates = 21_000 if key.startswith(("adaptive", "random", "budget")) else 0
        rows[key] = {
            "top1": spread(top1, generator, 0.001, seeds),
            "top5": spread(top1 + 0.07, generator, 0.001, seeds),
            "layers": spread(layers, generator, 0.0, seeds),
            "ms_1": spread(1.31 * single, generator, 0.002, seeds),
            "ms_32": spread(0.48 * batch, generator, 0.002, seeds),
            "macs": int(MACS * (0.06 + 0.94 * layers / 8)), "parameters": PARAMETERS + gates,
        }  # fmt: skip
    return rows


def make_execution() -> tuple[dict, np.ndarray]:
    """``execution`` of the analysis and its array: groups of very different sizes."""
    generator = np.random.default_rng(7)
    sizes = np.array([2300, 1400, 700, 420, 300, 220, 160, 47])
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    groups = [
        {"name": name, "first": int(first), "last": int(end - 1)}
        for name, first, end in zip(GROUPS, bounds, bounds[1:], strict=False)
    ]
    means = generator.uniform(0.2, 0.95, (len(sizes), GATES))
    means[:, :2] = 0.85
    means[:, [*SHRINKING, GATES - 1]] = 1.0
    rates = means.repeat(sizes, 0) + generator.normal(0, 0.1, (bounds[-1], GATES))
    content = {"row": "adaptive_70", "labels": [f"l{i}" for i in range(bounds[-1])],
               "groups": groups, "gates": list(NAMES)}  # fmt: skip
    return content, rates.clip(0, 1).astype(np.float32)


def make_analysis() -> tuple[dict, dict[str, np.ndarray]]:
    """The content of ``analysis.json`` and ``analysis.npz``, the caller's to change."""
    execution, rates = make_execution()
    shown = list(GROUPS.items())[:3]
    arrays = {"execution": rates}
    extremes = []
    for number, (name, labels) in enumerate(shown):
        entry: dict = {"group": name}
        for end, face, layers in (("fewest", 0, [3, 4, 4, 4]), ("most", -1, [8, 8, 7, 7])):
            arrays[f"{end}_{number}"] = np.stack(
                [draw(label, faces_of(label)[face]) for label in labels[:4]]
            )
            entry[end] = {"pictures": f"{end}_{number}", "labels": list(labels[:4]),
                          "layers": layers}  # fmt: skip
        extremes.append(entry)
    blocks = [
        {"name": name, "macs": 4_500_000, "channels": 64, "downsampling": i in SHRINKING,
         "gated": True}
        for i, name in enumerate(NAMES)
    ]  # fmt: skip
    analysis = {
        "system": "adaptive",
        "title": "Networks that skip layers",
        "settings": {"seeds": 3, "hidden": 16, "rates": [0.4, 0.9]},
        "command": "fastheads adaptive --output_dir runs/adaptive",
        "environment": {"torch": "2.15.0", "cpu": "AMD EPYC", "threads": 2},
        "durations": [{"stage": "plain", "seconds": 171.4}, {"stage": "gates", "seconds": 2540.1}],
        "dataset": {"labels": 5547, "train": 38217, "holdout": 5547, "test": 5547, "faces": 16},
        "kept": "adaptive_70",
        "network": {"name": "ResNet of 8 blocks", "blocks": blocks, "macs": MACS,
                    "unskippable_macs": 2_310_000, "parameters": PARAMETERS,
                    "gate_parameters": 21_000, "gate_macs": 17_000},
        "counts": _counts(),
        "rates": _rates(),
        "trajectories": _trajectories(),
        "execution": execution,
        "histogram": _histogram(),
        "extremes": extremes,
        "latency": _latency(),
        "attack": _attack(),
        "budget": [{"k": k, "top1": 0.916 - 0.004 * (6 - k) ** 2, "layers": float(k),
                    "macs": int(MACS * (0.06 + 0.94 * k / 8)), "ms_1": 1.31 * (0.08 + 0.115 * k)}
                   for k in range(3, 9)],
        "curves": _curves(),
    }  # fmt: skip
    return analysis, arrays


def _counts() -> list[dict]:
    names = ("parameters", "gated_parameters", "macs")
    found = {"ResNet-110": (1_727_962, 1_763_878, 252_887_040),
             "ResNet-50": (25_557_032, 25_768_264, 3_857_973_248),
             "ResNet-101": (44_549_160, 45_040_315, 7_570_194_432)}  # fmt: skip
    expected = ((1_727_962, 1_763_878, 0.2529e9), (25_557_032, 25_768_264, 3.858e9),
                (44_549_160, 45_040_314, 7.570e9))  # fmt: skip
    published = ((1.7e6, 1.78e6, 0.5e9), (25.56e6, 26.56e6, 3.8e9), (44.54e6, 46.23e6, 7.6e9))
    return [
        {"network": network, **dict(zip(names, ours, strict=True)),
         "expected": dict(zip(names, own, strict=True)),
         "published": dict(zip(names, paper, strict=True))}
        for (network, ours), own, paper in zip(found.items(), expected, published, strict=True)
    ]  # fmt: skip


def _rates() -> dict:
    generator = np.random.default_rng(8)
    rates = {}
    for key in ROWS:
        if key.startswith("adaptive"):
            target = int(key.split("_")[1]) / 100
            layers = generator.normal(target, 0.03, (3, GATES)).clip(0, 1)
            layers[:, SHRINKING] = 1.0
            layers[:, -1] = 0.997
            rates[key] = {"target": target, "layers": layers.tolist()}
    return rates


def _trajectories() -> list[dict]:
    epochs = np.arange(0, 12.5, 0.5)
    entries = []
    for key in ("adaptive_40", "adaptive_70"):
        ends = np.array(_rates()[key]["layers"][0])
        towards = 1 - np.exp(-epochs / 3)[:, None]
        layers = 0.85 + (ends - 0.85) * towards
        entries.append({"row": key, "seed": 0, "epochs": epochs.tolist(),
                        "layers": layers.tolist()})  # fmt: skip
    return entries


def _histogram() -> dict:
    generator = np.random.default_rng(9)

    def summary(mean: float, images: int) -> dict:
        drawn = generator.normal(mean, 0.9, images).round().clip(0, GATES).astype(int)
        return {"mean": float(drawn.mean()), "std": float(drawn.std()),
                "counts": np.bincount(drawn, minlength=GATES + 1).tolist()}  # fmt: skip

    names = (*GROUPS, *(f"script {i}" for i in range(9)))
    groups = [{"name": name, **summary(5.6 + 0.1 * i, 900 - 50 * i), "images": 900 - 50 * i}
              for i, name in enumerate(names)]  # fmt: skip
    return {"row": "adaptive_70", "all": summary(6.3, 5547), "groups": groups}


def _latency() -> dict:
    def times(single: float, batch: float) -> dict:
        return {"1": {"ms": single, "low": 0.97 * single, "high": 1.05 * single},
                "32": {"ms": batch, "low": 0.98 * batch, "high": 1.04 * batch}}  # fmt: skip

    rows = {key: times(1.31 * row[2], 0.48 * row[3]) for key, row in ROWS.items()}
    peers = {"masked": times(1.4, 0.5), "skip_batch_of_one": times(1.05, 0.5),
             "compiled_plain": times(0.9, 0.41)}  # fmt: skip
    return {"threads": 2, "rows": rows, "peers": peers}


def _attack() -> dict:
    epsilons = [0.0, 0.004, 0.008, 0.016, 0.031, 0.047, 0.063]
    fall = np.exp(-np.array(epsilons) * 40)
    before = np.array(_rates()["adaptive_70"]["layers"]).mean(0)
    return {
        "epsilons": epsilons,
        "rows": {
            "plain": {"direct": (0.902 * fall).tolist(), "jpeg": (0.89 * fall**0.7).tolist()},
            "adaptive_70": {"direct": (0.916 * fall**0.9).tolist(),
                            "jpeg": (0.9 * fall**0.6).tolist()},
        },
        "gates": {"epsilon": 0.047, "before": before.tolist(),
                  "after": (before - 0.02).tolist(), "group": None},
        "quality": 75,
    }  # fmt: skip


@cache
def _curves() -> list[dict]:
    generator = np.random.default_rng(5)
    steps = np.arange(0, 3000, 60)
    return [
        {"row": row, "seed": seed, "step": steps.tolist(), "seconds": 300.0 + 4 * seed,
         "loss": (0.4 + 0.1 * generator.random(50) + 5 * np.exp(-steps / 300)).tolist()}
        for row in ("plain", "adaptive_40", "adaptive_70") for seed in range(3)
    ]  # fmt: skip
