"""Networks."""

from fastheads.models.augmented import AugmentedNetwork, Tap
from fastheads.models.base import BaseConfig, BaseNetwork, logistic_units, small_trunk
from fastheads.models.headed import HeadedNetwork, feature_shape
from fastheads.models.inception_v2 import InceptionV2, inception_v2

__all__ = [
    "AugmentedNetwork",
    "BaseConfig",
    "BaseNetwork",
    "HeadedNetwork",
    "InceptionV2",
    "Tap",
    "feature_shape",
    "inception_v2",
    "logistic_units",
    "small_trunk",
]
