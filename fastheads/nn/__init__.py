"""Modules to use in a network."""

from fastheads.nn.augmented_classifier import AugmentedClassifier, ConditionalClassifier
from fastheads.nn.gate import Gate
from fastheads.nn.gated_graphs import GatedGraphs
from fastheads.nn.gated_residual import GatedResidual
from fastheads.nn.group_heads import GroupHeads, head_widths, relu_stack
from fastheads.nn.patch import PatchReport, patch, unpatch
from fastheads.nn.squeeze_excite import SqueezeExcite
from fastheads.nn.standardize import Standardize

__all__ = [
    "AugmentedClassifier",
    "ConditionalClassifier",
    "Gate",
    "GatedGraphs",
    "GatedResidual",
    "GroupHeads",
    "PatchReport",
    "SqueezeExcite",
    "Standardize",
    "head_widths",
    "patch",
    "relu_stack",
    "unpatch",
]
