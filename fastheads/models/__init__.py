"""Networks."""

from fastheads.models.augmented import AugmentedNetwork, Tap
from fastheads.models.base import BaseConfig, BaseNetwork, logistic_units, small_trunk
from fastheads.models.headed import HeadedNetwork, feature_shape
from fastheads.models.inception_resnet import InceptionResNet, inception_resnet
from fastheads.models.inception_v2 import InceptionV2, inception_v2
from fastheads.models.resnet import (
    PadShortcut,
    Residual,
    ResNet,
    imagenet_resnet,
    resnet,
    resnet110,
)
from fastheads.models.senet import SENet, SEResidual, senet
from fastheads.models.vgg import vgg15, vgg16

__all__ = [
    "AugmentedNetwork",
    "BaseConfig",
    "BaseNetwork",
    "HeadedNetwork",
    "InceptionResNet",
    "InceptionV2",
    "PadShortcut",
    "ResNet",
    "Residual",
    "SENet",
    "SEResidual",
    "Tap",
    "feature_shape",
    "imagenet_resnet",
    "inception_resnet",
    "inception_v2",
    "logistic_units",
    "resnet",
    "resnet110",
    "senet",
    "small_trunk",
    "vgg15",
    "vgg16",
]
