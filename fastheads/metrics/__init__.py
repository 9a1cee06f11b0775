"""Metrics at 100,000 labels, and the cost of networks."""

from fastheads.metrics.cost import cost_ratio, count_bytes, count_macs, count_parameters
from fastheads.metrics.evaluate import evaluate
from fastheads.metrics.mean_average_precision import (
    MeanAveragePrecisionPerImage,
    MeanAveragePrecisionPerLabel,
)
from fastheads.metrics.per_vertical_average_precision import (
    PerVerticalAveragePrecision,
    evaluate_verticals,
)
from fastheads.metrics.top_k_accuracy import TopKAccuracy

__all__ = [
    "MeanAveragePrecisionPerImage",
    "MeanAveragePrecisionPerLabel",
    "PerVerticalAveragePrecision",
    "TopKAccuracy",
    "cost_ratio",
    "count_bytes",
    "count_macs",
    "count_parameters",
    "evaluate",
    "evaluate_verticals",
]
