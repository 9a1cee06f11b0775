"""Networks."""

from fastheads.models.augmented import AugmentedNetwork, Tap
from fastheads.models.base import BaseConfig, BaseNetwork, logistic_units

__all__ = ["AugmentedNetwork", "BaseConfig", "BaseNetwork", "Tap", "logistic_units"]
