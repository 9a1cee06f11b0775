"""The sum of the sizes of all weights: L1 regularisation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fastheads.losses.sparse import wide


def weight_penalty(parameters: Iterable[Tensor]) -> Tensor:
    """Sums ``|w|`` over all weights; times lambda, it is what L1 regularisation adds to a loss.

    Huang, "Scalable large scale visual recognition using multi-label image classification", 2019,
    section 5.2.2. Biases and the scales of normalisations, whose tensors have one dimension, are
    left out, as the optimiser leaves them out of weight decay. Weight decay is the paper's other
    penalty, L2: ``lambda sum w^2`` is a ``weight_decay`` of ``2 lambda``.

    Args:
        parameters: those of a network, floating, of any shapes, on one device.

    Returns:
        A scalar, summed in float32, or in float64 for float64 weights; 0 without weights.

    Differentiable; a weight of 0 has gradient 0.
    """
    sums = [torch.linalg.vector_norm(wide(p), 1) for p in parameters if p.ndim > 1]
    return torch.stack(sums).sum() if sums else torch.zeros(())
