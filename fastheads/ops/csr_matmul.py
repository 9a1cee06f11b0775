"""csr_matmul: a sparse matrix times a block of vectors, the work of a block eigensolver."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .dispatch import not_differentiable


def csr_matmul_reference(
    crow_indices: Tensor, col_indices: Tensor, values: Tensor, x: Tensor
) -> Tensor:
    """:func:`csr_matmul` in plain PyTorch: every nonzero's row of ``x``, scaled and summed."""
    lengths = crow_indices.diff().long()
    rows = torch.arange(len(lengths), device=x.device).repeat_interleave(lengths)
    scaled = values[:, None] * x[col_indices]
    return x.new_zeros(len(lengths), x.shape[1]).index_add_(0, rows, scaled)


def csr_matmul(crow_indices: Tensor, col_indices: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """Multiplies a matrix in CSR form by a block of vectors.

    ``y[i, b] = sum_e values[e] x[col_indices[e], b]`` over the nonzeros ``e`` of row ``i``, that is
    from ``crow_indices[i]`` to ``crow_indices[i + 1]``. Meant for blocks of 16 to 64 vectors, whose
    sums stay in registers while each nonzero is read once.

    Args:
        crow_indices: ``[M + 1]``, int32 or int64, ascending from 0 to the number of nonzeros.
        col_indices: ``[nonzeros]``, dtype of ``crow_indices``, from 0 to L - 1, in any order.
        values: ``[nonzeros]``, dtype of ``x``.
        x: ``[L, B]``, float32 or float64, CPU or CUDA.

    Returns:
        ``[M, B]``, contiguous, dtype of ``x``.

    Raises:
        RuntimeError: if shapes, dtypes or devices disagree; on the CPU also if an index is out of
            range. CUDA does not wait for the device to find out: rows with such an index are NaN.

    Not differentiable. Deterministic: the sums of a row do not depend on the number of threads.
    """
    return torch.ops.fastheads.csr_matmul.default(crow_indices, col_indices, values, x)


@torch.library.register_fake("fastheads::csr_matmul")
def _(crow_indices: Tensor, col_indices: Tensor, values: Tensor, x: Tensor) -> Tensor:
    return x.new_empty((crow_indices.shape[0] - 1, x.shape[1]))


not_differentiable("csr_matmul")


@register_flop_formula(torch.ops.fastheads.csr_matmul)
def _flops(
    crow_indices: Any, col_indices: Any, values: Any, x: Any, *args: Any, **kwargs: Any
) -> int:
    """A multiply and an add for each nonzero and vector; arguments are shapes."""
    return 2 * values[0] * x[1]
