"""Modules to use in a network."""

from fastheads.nn.augmented_classifier import AugmentedClassifier, ConditionalClassifier
from fastheads.nn.export import decompositions
from fastheads.nn.gate import Gate
from fastheads.nn.gate_budget import BudgetThresholds, clear_budget, fit_budget, use_budget
from fastheads.nn.gate_export import conditional, export_onnx, masked
from fastheads.nn.gate_model import GateReport, gate_model, gated_blocks, ungate
from fastheads.nn.gate_record import GateRecord, force_gates, record_gates
from fastheads.nn.gated_graphs import GatedGraphs
from fastheads.nn.gated_residual import GatedResidual
from fastheads.nn.group_heads import GroupHeads, head_widths, relu_stack
from fastheads.nn.heads import TopLayers, fc_fc, fc_sc, sc_sc
from fastheads.nn.patch import PatchReport, patch, unpatch
from fastheads.nn.residual_blocks import (
    ResidualBlock,
    plain_layers,
    require_residual_blocks,
    residual_blocks,
    set_module,
)
from fastheads.nn.sc_linear import SCLinear
from fastheads.nn.self_paced import SelfPacedLogits
from fastheads.nn.squeeze_excite import SqueezeExcite
from fastheads.nn.standardize import Standardize
from fastheads.nn.switched_block import StochasticDepth, SwitchedBlock, scale_branches, switched
from fastheads.nn.topk_logits import topk_logits

__all__ = [
    "AugmentedClassifier",
    "BudgetThresholds",
    "ConditionalClassifier",
    "Gate",
    "GateRecord",
    "GateReport",
    "GatedGraphs",
    "GatedResidual",
    "GroupHeads",
    "PatchReport",
    "ResidualBlock",
    "SCLinear",
    "SelfPacedLogits",
    "SqueezeExcite",
    "Standardize",
    "StochasticDepth",
    "SwitchedBlock",
    "TopLayers",
    "clear_budget",
    "conditional",
    "decompositions",
    "export_onnx",
    "fc_fc",
    "fc_sc",
    "fit_budget",
    "force_gates",
    "gate_model",
    "gated_blocks",
    "head_widths",
    "masked",
    "patch",
    "plain_layers",
    "record_gates",
    "relu_stack",
    "require_residual_blocks",
    "residual_blocks",
    "sc_sc",
    "scale_branches",
    "set_module",
    "switched",
    "topk_logits",
    "ungate",
    "unpatch",
    "use_budget",
]
