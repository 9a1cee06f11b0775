"""A whole run that takes seconds, and frozen outputs made up for the tests."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from fastheads.data import Augmentation, DataConfig, Normalize
from fastheads.models import BaseConfig
from fastheads.nn import AugmentedClassifier
from fastheads.pipelines.augment import AugmentConfig
from fastheads.pipelines.frozen import Frozen
from fastheads.pipelines.heads import HeadsConfig
from fastheads.targets import SparseTargets
from fastheads.training import TrainConfig

STEPS = TrainConfig(epochs=1, batch_size=32, lr=5e-3, accelerator="cpu", threads=1)
# What no pictures have: two channels.
ODD = Augmentation(normalize=Normalize((0.1, 0.2)))
ROWS = [
    "base",
    "retrained",
    "confusions",
    "randomized_confusions",
    "co_detections",
    "randomized_co_detections",
]
COUNTS = ["macs", "parameters", "heads"]
METRICS = ["map50_per_label", "map50_per_image", "top1", "top5"]


def config(folder, cache_dir, **changes):
    """60 glyphs, 4 heads, two seeds."""
    tiny = AugmentConfig(
        output_dir=folder,
        data=DataConfig(limit_labels=60, cache_dir=cache_dir),
        base=BaseConfig(channels=(8, 16), hidden=(32, 8)),
        trunk_width=32,
        trunk=replace(STEPS, epochs=2, lr=4e-3),
        top=STEPS,
        passes=2,
        holdout_passes=2,
        heads=HeadsConfig(num_groups=4, widths=(8, 8), top_k=5),
        heads_training=STEPS,
        fine_tune=replace(STEPS, lr=2e-4),
        seeds=(0, 1),
        contrast=(),
    )
    return replace(tiny, **changes)


def frozen(rows=40, labels=12, feature_shape=(6,), hidden=5, passes=2, seed=0):
    """Random outputs with one to three labels a row; the first labels tell what the labels are."""
    rng = np.random.default_rng(seed)
    targets = SparseTargets.from_lists(
        [rng.choice(labels, rng.integers(1, 4), replace=False).tolist() for _ in range(rows)]
    )
    torch.manual_seed(seed)
    shape = (passes, rows, *feature_shape)
    return Frozen(torch.randn(shape), torch.randn(passes, rows, hidden), targets)


def classifier(labels=12, hidden=5, seed=0):
    torch.manual_seed(seed)
    return AugmentedClassifier(nn.Linear(hidden, labels)).eval().requires_grad_(False)
