"""What lets an exported program run where fastheads is not installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload

import fastheads.ops  # noqa: F401  the operators


def decompositions() -> dict[OpOverload, Callable[..., Tensor]]:
    """Structurally connected layers as one plain matrix product a group.

    To be given to ``torch.export``, alone or beside ``torch.export.default_decompositions()``::

        program = torch.export.export(model, inputs).run_decompositions(decompositions())
        torch.export.save(program, "model.pt2")  # loads and runs with torch alone
    """
    return {torch.ops.fastheads.sc_linear.default: _sc_linear}


def _sc_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    generic: Tensor | None,
    in_offsets: Sequence[int] | None,
    out_offsets: Sequence[int],
) -> Tensor:
    # No len(x): it would fix the size of a batch that the program leaves open.
    shared = 0 if generic is None else generic.shape[1]
    if in_offsets is None:  # the groups read the same columns: one matrix
        in_offsets, out_offsets = (0, x.shape[1]), (0, out_offsets[-1])
    parts, begin = [], 0
    for (left, right), (top, bottom) in zip(
        pairwise(in_offsets), pairwise(out_offsets), strict=True
    ):
        own = x[:, left:right]
        read = own if generic is None else torch.cat([generic, own], 1)
        width = shared + right - left
        end = begin + (bottom - top) * width
        matrix = weight[begin:end].view(bottom - top, width)
        parts.append(F.linear(read, matrix, None if bias is None else bias[top:bottom]))
        begin = end
    return torch.cat(parts, 1) if parts else x.new_empty(x.shape[0], 0)
