"""Losses over sparse targets."""

from fastheads.losses.multilabel_margin import multilabel_margin
from fastheads.losses.multilabel_soft_margin import multilabel_soft_margin
from fastheads.losses.self_paced_sigmoid_cross_entropy import self_paced_sigmoid_cross_entropy
from fastheads.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from fastheads.losses.softmax_cross_entropy import softmax_cross_entropy
from fastheads.losses.target_rate import target_rate_loss
from fastheads.losses.weight_penalty import weight_penalty

__all__ = [
    "multilabel_margin",
    "multilabel_soft_margin",
    "self_paced_sigmoid_cross_entropy",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "target_rate_loss",
    "weight_penalty",
]
