"""Operators: one file each with its reference, its call and its fake."""

from .csr_matmul import csr_matmul, csr_matmul_reference
from .gate import active_samples, active_samples_reference, gate, gate_reference, gumbel_noise
from .gated_residual import (
    gated_residual,
    gated_residual_,
    gated_residual_reference,
    gated_residual_scatter_,
    gated_residual_scatter_reference,
)
from .multilabel_margin import multilabel_margin, multilabel_margin_reference
from .sc_linear import (
    sc_linear,
    sc_linear_,
    sc_linear_conditional,
    sc_linear_conditional_reference,
    sc_linear_reference,
)
from .sc_sigmoid_loss import (
    sc_sigmoid_loss,
    sc_sigmoid_loss_logits_,
    sc_sigmoid_loss_logits_reference,
    sc_sigmoid_loss_reference,
)
from .squeeze_excite import squeeze_excite, squeeze_excite_, squeeze_excite_reference
from .topk_confusion import (
    topk_co_detection_,
    topk_co_detection_reference,
    topk_confusion_,
    topk_confusion_reference,
    topk_indices,
    topk_indices_reference,
)

__all__ = [
    "active_samples",
    "active_samples_reference",
    "csr_matmul",
    "csr_matmul_reference",
    "gate",
    "gate_reference",
    "gated_residual",
    "gated_residual_",
    "gated_residual_reference",
    "gated_residual_scatter_",
    "gated_residual_scatter_reference",
    "gumbel_noise",
    "multilabel_margin",
    "multilabel_margin_reference",
    "sc_linear",
    "sc_linear_",
    "sc_linear_conditional",
    "sc_linear_conditional_reference",
    "sc_linear_reference",
    "sc_sigmoid_loss",
    "sc_sigmoid_loss_logits_",
    "sc_sigmoid_loss_logits_reference",
    "sc_sigmoid_loss_reference",
    "squeeze_excite",
    "squeeze_excite_",
    "squeeze_excite_reference",
    "topk_co_detection_",
    "topk_co_detection_reference",
    "topk_confusion_",
    "topk_confusion_reference",
    "topk_indices",
    "topk_indices_reference",
]
