"""The rows of the lesion study."""

from __future__ import annotations

from fastheads.report.row import Row, System
from fastheads.report.rows_adaptive import STOCHASTIC_DEPTH, TOP_METRICS

RESNET = Row("resnet", "ResNet (residual network)", "ResNet", "#0b62a7", "#4aa3ed", "o")
VGG = Row("vgg", "VGG (no shortcuts)", "VGG", "#a3123d", "#f27092", "s")
_ROWS = (
    RESNET,
    VGG,
    STOCHASTIC_DEPTH,
    Row("effective_paths", "residual network, trained on effective paths only",
        "effective paths", "#00815f", "#2ec19c", "D"),
    Row("network", "the given network", "given network", "#0b62a6", "#4aa3ec", "o"),
)  # fmt: skip
LESION = System("lesion", _ROWS, TOP_METRICS, ("top1",), "resnet", False)
