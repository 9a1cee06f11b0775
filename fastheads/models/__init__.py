"""Networks."""

from fastheads.models.augmented import AugmentedNetwork, Tap
from fastheads.models.base import BaseConfig, BaseNetwork, logistic_units, small_trunk
from fastheads.models.headed import HeadedNetwork, feature_shape

__all__ = [
    "AugmentedNetwork",
    "BaseConfig",
    "BaseNetwork",
    "HeadedNetwork",
    "Tap",
    "feature_shape",
    "logistic_units",
    "small_trunk",
]
