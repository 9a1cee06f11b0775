"""Networks."""

from fastheads.models.augmented import AugmentedNetwork, Tap
from fastheads.models.base import BaseConfig, BaseNetwork, logistic_units, small_trunk
from fastheads.models.headed import HeadedNetwork, feature_shape
from fastheads.models.inception_v2 import InceptionV2, inception_v2
from fastheads.models.resnet import (
    PadShortcut,
    Residual,
    ResNet,
    imagenet_resnet,
    resnet,
    resnet110,
)
from fastheads.models.vgg import vgg15

__all__ = [
    "AugmentedNetwork",
    "BaseConfig",
    "BaseNetwork",
    "HeadedNetwork",
    "InceptionV2",
    "PadShortcut",
    "ResNet",
    "Residual",
    "Tap",
    "feature_shape",
    "imagenet_resnet",
    "inception_v2",
    "logistic_units",
    "resnet",
    "resnet110",
    "small_trunk",
    "vgg15",
]
