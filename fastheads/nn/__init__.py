"""Modules to use in a network."""

from fastheads.nn.augmented_classifier import AugmentedClassifier, ConditionalClassifier
from fastheads.nn.group_heads import GroupHeads, head_widths, relu_stack
from fastheads.nn.standardize import Standardize

__all__ = [
    "AugmentedClassifier",
    "ConditionalClassifier",
    "GroupHeads",
    "Standardize",
    "head_widths",
    "relu_stack",
]
