"""Modules to use in a network."""

from fastheads.nn.augmented_classifier import AugmentedClassifier, ConditionalClassifier
from fastheads.nn.export import decompositions
from fastheads.nn.gate import Gate
from fastheads.nn.gated_graphs import GatedGraphs
from fastheads.nn.gated_residual import GatedResidual
from fastheads.nn.group_heads import GroupHeads, head_widths, relu_stack
from fastheads.nn.heads import TopLayers, fc_fc, fc_sc, sc_sc
from fastheads.nn.patch import PatchReport, patch, unpatch
from fastheads.nn.sc_linear import SCLinear
from fastheads.nn.self_paced import SelfPacedLogits
from fastheads.nn.squeeze_excite import SqueezeExcite
from fastheads.nn.standardize import Standardize
from fastheads.nn.topk_logits import topk_logits

__all__ = [
    "AugmentedClassifier",
    "ConditionalClassifier",
    "Gate",
    "GatedGraphs",
    "GatedResidual",
    "GroupHeads",
    "PatchReport",
    "SCLinear",
    "SelfPacedLogits",
    "SqueezeExcite",
    "Standardize",
    "TopLayers",
    "decompositions",
    "fc_fc",
    "fc_sc",
    "head_widths",
    "patch",
    "relu_stack",
    "sc_sc",
    "topk_logits",
    "unpatch",
]
