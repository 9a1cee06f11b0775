"""A linear layer whose groups of outputs read only the inputs of their own group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from fastheads.nn.whole_numbers import whole_number, whole_numbers
from fastheads.ops import sc_linear, sc_linear_, sc_linear_conditional


class SCLinear(nn.Module):
    """``y[:, group g] = cat([generic, x_g]) @ W_g.T + b_g`` for static groups of any sizes.

    A structurally connected layer: Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K
    Object Classifiers in a Single CNN", 2017, arXiv:1711.07607, section 3.2 and figure 3.

    ``weight`` is flat: the matrices ``[outputs of g, generic + inputs of g]`` one after the other,
    so that the state dict holds ``weight`` and ``bias`` however many groups there are;
    :meth:`group_weights` shows the matrices. Each group starts as an ``nn.Linear`` of its own
    would: weights and biases uniform within ``1 / sqrt(generic + inputs of g)``.

    Args:
        in_sizes: columns of ``x`` that each group reads, one after the other and 0 or more; or one
            number, and every group reads all of ``x``, which has so many columns.
        out_sizes: outputs of each group, 0 or more.
        generic: columns that every group reads in front of its own (figure 3 (d)).
        bias: whether there is one.
        device: of the parameters.
        dtype: of the parameters: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: if sizes are no whole numbers of at least 0, or not as many as groups.

    Shapes: x ``[N, in_features]`` and generic ``[N, generic]`` to ``[N, out_features]``, the groups
    side by side.

    Example::

        layer = SCLinear([512] * 3, [5000, 70, 1], bias=True)
        y = layer(torch.randn(8, 1536))
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_sizes: Sequence[int] | int,
        out_sizes: Sequence[int],
        *,
        generic: int = 0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.out_sizes = whole_numbers("out_sizes", out_sizes)
        self.shared_input = isinstance(in_sizes, Integral)
        if isinstance(in_sizes, (int, Integral)):
            self.in_features = whole_number("in_sizes", in_sizes)
            self.in_sizes = (self.in_features,) * len(self.out_sizes)
        else:
            self.in_sizes = whole_numbers("in_sizes", in_sizes)
            self.in_features = sum(self.in_sizes)
        generic = whole_number("generic", generic)
        if len(self.in_sizes) != len(self.out_sizes):
            raise ValueError(
                f"in_sizes must be one number, or one for each of the {len(self.out_sizes)} groups "
                f"of out_sizes, got {len(self.in_sizes)}"
            )
        if min((generic, *self.in_sizes, *self.out_sizes)) < 0:
            raise ValueError("in_sizes, out_sizes and generic must be at least 0, got less")
        self.generic = generic
        self.out_features = sum(self.out_sizes)
        self.out_offsets = _offsets(self.out_sizes)
        self.in_offsets = None if self.shared_input else _offsets(self.in_sizes)
        self.weight_offsets = _offsets(
            [n * (generic + k) for n, k in zip(self.out_sizes, self.in_sizes, strict=True)]
        )
        made = torch.empty(self.weight_offsets[-1], device=device, dtype=dtype)
        self.weight = nn.Parameter(made)
        self.bias = nn.Parameter(made.new_empty(self.out_features)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws every group anew, as ``nn.Linear`` would."""
        for g, weight in enumerate(self.group_weights()):
            bound = 1 / math.sqrt(weight.shape[1]) if weight.shape[1] else 0.0
            weight.uniform_(-bound, bound)
            if self.bias is not None:
                self.bias[self.out_offsets[g] : self.out_offsets[g + 1]].uniform_(-bound, bound)

    def forward(self, x: Tensor, generic: Tensor | None = None) -> Tensor:
        """The outputs of all groups, side by side."""
        return self.part(x, 0, self.num_groups, generic)

    def part(self, x: Tensor, first: int, last: int, generic: Tensor | None = None) -> Tensor:
        """The outputs of groups ``first`` to ``last - 1`` alone, from the ``x`` of all groups."""
        self._check_generic(generic)
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        inputs = self.in_offsets
        outputs = self.out_offsets[first : last + 1]
        if (first, last) != (0, self.num_groups):
            weight = weight[self.weight_offsets[first] : self.weight_offsets[last]]
            bias = None if bias is None else bias[outputs[0] : outputs[-1]]
            outputs = tuple(offset - outputs[0] for offset in outputs)
            if inputs is not None:
                inputs = inputs[first : last + 1]
                x = x[:, inputs[0] : inputs[-1]]
                inputs = tuple(offset - inputs[0] for offset in inputs)
        return sc_linear(x, weight, bias, inputs, outputs, generic=generic)

    def add_(self, logits: Tensor, x: Tensor, generic: Tensor | None = None) -> Tensor:
        """Adds the outputs of all groups to ``logits`` in place: heads beside a dense classifier.

        Without gradients no ``[N, out_features]`` is held beside ``logits``::

            logits = heads.add_(classifier(hidden), features)

        Args:
            logits: ``[N, out_features]`` in group order, dtype of ``x``, or any under autocast;
                columns of a larger matrix too.
            x: as in the forward, and so is ``generic``.
            generic: ``[N, generic]`` or None.

        Returns:
            ``logits``. Differentiable in all of them.

        Raises:
            RuntimeError: if shapes, dtypes or devices disagree.
            ValueError: if ``generic`` has other columns than the layer.
        """
        self._check_generic(generic)
        places = self.in_offsets, self.out_offsets
        return sc_linear_(logits, x, self.weight, self.bias, *places, generic=generic)

    def conditional(
        self, x: Tensor, groups: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The outputs of some groups for some rows: heads where a base network points.

        The best three groups of every image, whose logits are not computed for the others::

            chosen = masses.topk(3, 1).indices  # [N, 3]
            rows = torch.arange(len(x), device=x.device).repeat_interleave(3)
            values, offsets = layer.conditional(x, chosen.flatten(), rows)

        Args:
            x: ``[N, in_features]``; without ``rows``, ``[P, inputs of a group]``, row p for pair p,
                where all groups have as many inputs.
            groups: ``[P]``, int64, the group of each pair.
            rows: ``[P]``, int64, the row of ``x`` of each pair, or None.

        Returns:
            ``values``, ``[V]``, and ``offsets``, ``[P + 1]``, int64: the outputs of pair p are
            ``values[offsets[p]:offsets[p + 1]]``. Differentiable in ``x`` and the parameters.

        Raises:
            RuntimeError: if shapes, dtypes or devices disagree, or a row or a group is out of
                range.
            ValueError: if the layer has generic columns.
        """
        if self.generic:
            raise ValueError(f"conditional must have 0 generic columns, got {self.generic}")
        places = self.in_offsets, self.out_offsets
        return sc_linear_conditional(x, self.weight, self.bias, rows, groups, *places)

    def _check_generic(self, generic: Tensor | None) -> None:
        if (0 if generic is None else generic.shape[1]) != self.generic:
            raise ValueError(
                f"generic must have {self.generic} columns, "
                f"got {'none' if generic is None else generic.shape[1]}"
            )

    @property
    def num_groups(self) -> int:
        return len(self.out_sizes)

    @property
    def macs(self) -> int:
        """Multiply-adds of one sample: every weight once."""
        return self.weight.numel()

    @property
    def num_parameters(self) -> int:
        """Weights and biases."""
        return self.weight.numel() + (0 if self.bias is None else self.bias.numel())

    def group_weights(self) -> list[Tensor]:
        """Views ``[outputs, generic + inputs]`` of the weights, one a group."""
        return [
            self.weight[a:b].view(n, self.generic + k)
            for (a, b), n, k in zip(
                pairwise(self.weight_offsets), self.out_sizes, self.in_sizes, strict=True
            )
        ]

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """The same function of ``cat([generic, x], 1)`` as one matrix, with zeros between groups.

        Rows are in group order; the generic columns come first. The weights are copied.
        """
        made = {"device": self.weight.device, "dtype": self.weight.dtype}
        columns = self.generic + self.in_features
        dense = skip_init(nn.Linear, columns, self.out_features, self.bias is not None, **made)
        dense.weight.zero_()
        for group, weight in zip(self._blocks(dense.weight), self.group_weights(), strict=True):
            for block, values in zip(group, weight.tensor_split([self.generic], 1), strict=True):
                block.copy_(values)
        if self.bias is not None:
            dense.bias.copy_(self.bias)
        return dense.train(self.training)

    @classmethod
    @torch.no_grad()
    def from_dense(
        cls,
        dense: nn.Linear,
        mask: Tensor | None = None,
        *,
        in_sizes: Sequence[int] | int | None = None,
        out_sizes: Sequence[int] | None = None,
        generic: int = 0,
    ) -> SCLinear:
        """The layer that computes what a masked matrix does; weights outside groups are dropped.

        Args:
            dense: reads ``cat([generic, x], 1)``, with its rows in group order.
            mask: ``[out_features, in_features]``, 0 where there is no connection. Its groups are
                found: equal rows in succession are one group, leading columns that all rows have
                are generic, and each group has a block of columns right of the one before.
            in_sizes: as of the constructor, in place of a mask.
            out_sizes: likewise.
            generic: likewise.
        """
        if mask is not None:
            if mask.shape != dense.weight.shape:
                raise ValueError(
                    f"mask must be {list(dense.weight.shape)} as the weight, got {list(mask.shape)}"
                )
            in_sizes, out_sizes, generic = _sizes_of(mask)
        if in_sizes is None or out_sizes is None:
            raise ValueError("from_dense must get a mask, or in_sizes and out_sizes, got neither")
        made = {"device": dense.weight.device, "dtype": dense.weight.dtype}
        has_bias = dense.bias is not None
        layer = skip_init(cls, in_sizes, out_sizes, generic=generic, bias=has_bias, **made)
        shape = (layer.out_features, generic + layer.in_features)
        if shape != dense.weight.shape:
            raise ValueError(
                f"dense must have a weight of {list(shape)}, got {list(dense.weight.shape)}"
            )
        for group, weight in zip(layer._blocks(dense.weight), layer.group_weights(), strict=True):
            weight.copy_(torch.cat(group, 1))
        if layer.bias is not None:
            layer.bias.copy_(dense.bias)
        return layer.train(dense.training)

    def _blocks(self, matrix: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The generic and the own block of each group in a dense weight, as views."""
        starts = self.in_offsets or (0,) * self.num_groups
        blocks = []
        for (top, bottom), start, size in zip(
            pairwise(self.out_offsets), starts, self.in_sizes, strict=False
        ):
            own = slice(self.generic + start, self.generic + start + size)
            blocks.append((matrix[top:bottom, : self.generic], matrix[top:bottom, own]))
        return blocks

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, groups={self.num_groups}, "
            f"shared_input={self.shared_input}, generic={self.generic}, "
            f"bias={self.bias is not None}"
        )


def _offsets(sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(accumulate(sizes, initial=0))


def _sizes_of(mask: Tensor) -> tuple[list[int], list[int], int]:
    """in_sizes, out_sizes and generic columns of a mask of blocks."""
    mask = mask.bool().cpu()
    if mask.numel():
        patterns, counts = mask.unique_consecutive(dim=0, return_counts=True)
    else:  # all rows are equal, if there are any
        patterns, counts = mask[:1], torch.tensor([len(mask)])[: len(mask)]
    blocks = int(patterns.int().diff(dim=1).gt(0).sum() + patterns[:, :1].sum())
    alone = len(patterns) == 0 or (len(patterns) == 1 and blocks <= 1)
    generic = 0 if alone else int(patterns.all(0).cumprod(0).sum())
    in_sizes, out_sizes, end = [], [], 0
    for pattern, count in zip(patterns[:, generic:], counts.tolist(), strict=True):
        columns = pattern.nonzero().flatten().tolist() or [end]
        size = int(pattern.sum())
        if columns[0] < end or columns[-1] - columns[0] + 1 != max(size, 1):
            raise ValueError(
                "mask must hold one block of columns a group, right of the block before, "
                f"got columns {columns} after column {generic + end - 1}"
            )
        if columns[0] > end:  # columns that nobody reads: a group without outputs
            in_sizes.append(columns[0] - end)
            out_sizes.append(0)
        in_sizes.append(size)
        out_sizes.append(count)
        end = columns[0] + size
    if end < mask.shape[1] - generic:
        in_sizes.append(mask.shape[1] - generic - end)
        out_sizes.append(0)
    return in_sizes, out_sizes, generic
