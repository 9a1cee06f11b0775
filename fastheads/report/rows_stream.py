"""The rows of networks that learn new labels as they stream in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fastheads.report.row import Row, System
from fastheads.report.rows_lesion import RESNET, VGG

STREAM_METRICS = {
    "base_top5": "base, top-5", "original_top5": "original, top-5",
    "streamed_top5": "streamed, top-5", "streamed_all": "streamed, all",
}  # fmt: skip
NETWORKS = (
    VGG,
    RESNET,
    Row("senet", "SENet", "SENet", "#007a59", "#33c7a0", "D"),
    Row("senet_2x", "SENet, 2× expansion", "SENet 2×", "#c24a04", "#f08a4d", "^"),
    Row("senet_4x", "SENet, 4× expansion", "SENet 4×", "#8a3303", "#f5b08a", "v"),
    Row("senet_2x_averaged", "SENet, 2× expansion averaged in the squeeze", "SENet 2× averaged",
        "#c24a06", "#f08a4e", "^", True),
    Row("senet_r8", "SENet, reduction 8", "SENet /8", "#7f3f9a", "#c295d7", "P"),
    Row("senet_r32", "SENet, reduction 32", "SENet /32", "#5b4bb4", "#a79cf1", "X"),
    Row("senet_sqrt", "SENet, reduced to √c", "SENet √c", "#3f6b1e", "#8fb86b", "s", True),
    Row("senet_log", "SENet, reduced to log c", "SENet log c", "#5f8a01", "#a3cc4b", "D", True),
    Row("senet_2x_r32", "SENet, 2× expansion, reduction 32", "SENet 2×/32", "#a3123e", "#f27093",
        "*"),
    Row("inception_48", "Inception-ResNet, 48 channels", "Inception 48", "#24649b", "#7bb0dc",
        "<", True),
    Row("inception_96", "Inception-ResNet, 96 channels", "Inception 96", "#24649d", "#7bb0de",
        ">"),
    Row("inception_senet", "Inception-SENet", "Inception SE", "#00767d", "#38b9c5", "<"),
)  # fmt: skip
SOFT = (
    Row("resnet_soft", "ResNet, soft-margin loss", "ResNet, soft", "#0b62a5", "#4aa3eb", "o", True),
    Row("senet_soft", "SENet, soft-margin loss", "SENet, soft", "#007a5b", "#33c7a2", "D", True),
)
GUARDS = (
    Row("kept_low_lr", "lower learning rate", "lower rate", "#7a5c06", "#c9a942", "v"),
    Row("kept_freeze_layers", "first layers frozen", "frozen layers", "#0b62a4", "#4aa3ea", "s"),
    Row("kept_freeze_norms", "batch norms frozen", "frozen norms", "#4ba4ee", "#9fd0f7", "s", True),
    Row("kept_distillation", "distillation from the network before", "distillation",
        "#7f3f9c", "#c295d9", "P"),
    Row("kept_replay", "replay of a few old pictures", "replay", "#c24a07", "#f08a4f", "^"),
    Row("kept_averaging", "weights averaged with those before", "averaged weights",
        "#007a5c", "#33c7a3", "D"),
    Row("kept_together", "guards together", "together", "#1f2a45", "#dfe6f4", "X"),
    Row("kept_together_last", "guards together, all frozen but the last stage", "together, last",
        "#4a5a85", "#a9b8dd", "X", True),
)  # fmt: skip
FROM_SCRATCH = Row("from_scratch", "retrained from scratch on old and new pictures", "retrained",
                   "#4b4b48", "#d5d5cf", "o", True)  # fmt: skip
STREAM = System(
    "stream", (*NETWORKS, *SOFT, *GUARDS, FROM_SCRATCH), STREAM_METRICS, (), "", False,
    {"stream_seconds": "time, s"}, needs_costs=False,
)  # fmt: skip
_OWN = {row.key for row in STREAM.rows} - {RESNET.key, VGG.key}


def stream_row(key: str, others: Iterable[str]) -> Row | None:
    """The row whose key means something else in another system; None for any other key."""
    if key == "retrained" and not _OWN.isdisjoint(others):
        return replace(FROM_SCRATCH, key=key, like=FROM_SCRATCH.key)
    return None
