"""A finished lesion study, as the pipeline leaves it, with made-up numbers."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from .adaptive_run import spread

BLOCKS, LAYERS, SHRINKING = 54, 14, (18, 36)
WHOLE = {"resnet": 0.11, "vgg": 0.16, "stochastic_depth": 0.105, "effective_paths": 0.108}
CHANCE = 0.996
RESIDUAL = tuple(key for key in WHOLE if key != "vgg")


def make_rows(means: dict[str, float] | None = None, seeds: int = 3) -> dict:
    """Rows as in ``metrics.json``; ``means`` are other errors, and which rows there are."""
    generator = np.random.default_rng(10)
    return {
        key: {"top1": spread(1 - error, generator, 0.002, seeds),
              "top5": spread(1 - error / 3, generator, 0.001, seeds),
              "macs": 16_000_000, "parameters": 440_000}
        for key, error in (WHOLE if means is None else means).items()
    }  # fmt: skip


def make_analysis() -> tuple[dict, dict[str, np.ndarray]]:
    """The content of ``analysis.json`` and ``analysis.npz``, the caller's to change."""
    lengths = list(range(BLOCKS + 1))
    counts = [math.comb(BLOCKS, x) / 2**BLOCKS for x in lengths]
    product = np.array(counts) * np.exp(-0.72 * np.array(lengths))
    product /= product.sum()
    deleted = [1, 10, 20]
    analysis = {
        "system": "lesion",
        "title": "What the layers and paths of residual networks are worth",
        "settings": {"seeds": [0, 1, 2], "lesions.deletions": 5},
        "command": "fastheads lesion --config runs/lesion/config.yaml",
        "environment": {"torch": "2.15.0", "cpu": "AMD EPYC", "threads": 2},
        "durations": [{"stage": "training", "seconds": 2871.4}, {"stage": "single", "seconds": 90}],
        "dataset": {"labels": 950, "train": 8217, "holdout": 950, "test": 950, "faces": 16},
        "networks": {
            key: {"name": f"{key} of glyphs", "depth": LAYERS if key == "vgg" else BLOCKS,
                  "blocks": [{"name": f"b{i}", "downsampling": key != "vgg" and i in SHRINKING}
                             for i in range(LAYERS if key == "vgg" else BLOCKS)]}
            for key in WHOLE
        },
        "chance": CHANCE,
        "single": {key: _single(key) for key in WHOLE},
        "many": {key: _many(key) for key in RESIDUAL},
        "reorder": {key: _reorder(key) for key in RESIDUAL},
        "paths": {key: {"n": BLOCKS, "counts": counts} for key in RESIDUAL},
        "gradients": {key: _gradients(key) for key in RESIDUAL},
        "effective": {key: {"low": 9, "high": 22, "share_of_gradient": 0.957,
                            "share_of_paths": 0.108, "product": product.tolist()}
                      for key in RESIDUAL},
        "remaining": {"n": BLOCKS, "deleted": deleted,
                      "fraction": [[math.comb(BLOCKS - d, x) / math.comb(BLOCKS, x)
                                    for x in lengths] for d in deleted]},
        "training": {"modules": 23, "of": BLOCKS, "rows": ["resnet", "effective_paths"]},
        "findings": [
            {"key": "single_mild", "holds": True, "sentence": "Without one block it stays mild."},
            {"key": "smooth_decay", "holds": True, "sentence": "It rises without a leap."},
            {"key": "short_paths", "holds": False, "sentence": "Paths of 9 to 22 of 54 blocks."},
        ],
        "curves": _curves(),
    }  # fmt: skip
    return analysis, {}


def _single(key: str) -> dict:
    generator = np.random.default_rng([11, len(key)])
    whole = WHOLE[key] + generator.normal(0, 0.003, 3)
    if key == "vgg":
        errors = np.full((3, LAYERS), 0.99) + generator.normal(0, 0.003, (3, LAYERS))
    else:
        errors = whole[:, None] + np.abs(generator.normal(0.004, 0.004, (3, BLOCKS)))
        errors[:, SHRINKING] += 0.02 if key == "stochastic_depth" else 0.15
        errors[:, 0] += 0.08
    return {"error": errors.tolist(), "whole": whole.tolist()}


def _many(key: str) -> dict:
    generator = np.random.default_rng([12, len(key)])
    counts = np.arange(1, 21)
    errors = WHOLE[key] + 0.85 / (1 + np.exp(-(counts - 14) / 2.5))[None, :, None]
    errors = errors + generator.normal(0, 0.03, (3, counts.size, 5))
    return {"deleted": counts.tolist(), "error": errors.clip(0, 1).tolist()}


def _reorder(key: str) -> dict:
    generator = np.random.default_rng([13, len(key)])
    swaps = np.repeat([1, 2, 4, 8, 16, 32], 5)
    tau = (1 - 0.018 * swaps + generator.normal(0, 0.03, swaps.size)).clip(-1, 1)
    error = WHOLE[key] + 1.5 * (1 - tau) ** 2 + generator.normal(0, 0.02, swaps.size)
    return {"swaps": swaps.tolist(), "tau": tau.tolist(), "error": error.clip(0, 1).tolist()}


def _gradients(key: str) -> dict:
    generator = np.random.default_rng([14, len(key)])
    decay = 0.05 * len(key) + 0.42
    norms = [np.exp(-decay * x + generator.normal(0, 0.6, 20)).tolist() for x in range(BLOCKS + 1)]
    return {"lengths": list(range(BLOCKS + 1)), "norm": norms}


@cache
def _curves() -> list[dict]:
    generator = np.random.default_rng(15)
    steps = np.arange(0, 3000, 60)
    return [
        {"row": row, "seed": seed, "step": steps.tolist(), "seconds": 300.0 + 4 * seed,
         "loss": (0.4 + 0.1 * generator.random(50) + 5 * np.exp(-steps / 300)).tolist()}
        for row in WHOLE for seed in range(3)
    ]  # fmt: skip
