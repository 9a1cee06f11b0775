"""Logits that are normalised within each group and scaled by a factor that the group learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, compress
from typing import Literal

import torch
from torch import Tensor, nn

from fastheads.nn.whole_numbers import whole_numbers


class SelfPacedLogits(nn.Module):
    """``z_g = gamma_g * l_g / |l_g| + label_bias_g``: every group learns at its own pace.

    Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single
    CNN", 2017, arXiv:1711.07607, section 3.3, eq. 3-4; ``sqrt(N_v)`` recovers the scale of the
    gradient that normalising takes away (eq. 6). The logits of a row that are all 0 within a group
    have no direction: there ``z = label_bias``, and the gradient of these logits is 0; so it is if
    their norm is below the smallest normal number.

    The paper has no ``label_bias``. A direction cannot hold what all labels of a group share, such
    as that each is rare, unless gamma grows far beyond ``sqrt(N_v)``; a bias after the scaling can.

    Args:
        out_sizes: labels of each group, in whose order the logits are.
        level: one gamma a ``"group"``, or one a ``"label"``.
        trainable: whether gamma is a parameter, or a fixed buffer.
        init: mean of gamma at first: ``"sqrt"`` of the labels in the group, or a number.
        std: its standard deviation.
        label_bias: ``label_bias`` is a parameter that starts here, at a number or one a label;
            ``None`` for no such bias. The log-odds of how often each label is positive are a good
            start: training need not find them first.
        log: the parameter is ``log_gamma``, and a step changes gamma by a share of what it is. Of
            gamma itself a step of Adam or Adagrad is about the learning rate, however large gamma
            is; those of a short run do not reach the several ``sqrt(N_v)`` that it tends to.
        device: of the parameters.
        dtype: of the parameters.

    Shapes: ``[N, labels]``, in group order, to the same. Sums of squares are taken in float32, or
    float64 for float64 logits.
    """

    gamma: Tensor  # or log_gamma, see factors
    log_gamma: nn.Parameter
    label_bias: nn.Parameter | None

    def __init__(
        self,
        out_sizes: Sequence[int],
        level: Literal["group", "label"] = "group",
        trainable: bool = True,
        init: Literal["sqrt"] | float = "sqrt",
        std: float = 1e-3,
        label_bias: float | Tensor | None = None,
        log: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if level not in ("group", "label"):
            raise ValueError(f"level must be group or label, got {level!r}")
        if isinstance(init, str) and init != "sqrt":
            raise ValueError(f"init must be sqrt or a number, got {init!r}")
        if log and not (trainable and (init == "sqrt" or init > 0)):
            raise ValueError(
                "log must be False unless gamma is trained and starts above 0, "
                f"got trainable {trainable} and init {init!r}"
            )
        self.out_sizes = whole_numbers("out_sizes", out_sizes)
        self.out_offsets = tuple(accumulate(self.out_sizes, initial=0))
        self.level, self.init, self.std, self.initial_bias = level, init, std, label_bias
        self.log, labels = log, self.out_offsets[-1]
        if isinstance(label_bias, Tensor) and label_bias.shape != (labels,):
            raise ValueError(
                f"label_bias must be a number or [{labels}], got {list(label_bias.shape)}"
            )
        shape = len(self.out_sizes) if level == "group" else labels
        made = torch.empty(shape, device=device, dtype=dtype)
        if log:
            self.log_gamma = nn.Parameter(made)
        elif trainable:
            self.gamma = nn.Parameter(made)
        else:
            self.register_buffer("gamma", made)
        self.label_bias = None if label_bias is None else nn.Parameter(made.new_empty(labels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws gamma anew and sets the biases of the labels back."""
        sizes = torch.tensor(self.out_sizes)
        mean = sizes.double().sqrt() if self.init == "sqrt" else sizes.double().fill_(self.init)
        if self.level == "label":
            mean = mean.repeat_interleave(sizes)
        gamma = self.log_gamma if self.log else self.gamma
        gamma.normal_(0, self.std).add_(mean.to(gamma))
        if self.log:
            gamma.clamp_(min=1e-3).log_()  # a group may have no labels
        if self.label_bias is not None and self.initial_bias is not None:
            self.label_bias.copy_(torch.as_tensor(self.initial_bias))

    @property
    def factors(self) -> Tensor:
        """Gamma of each group, or of each label."""
        return self.log_gamma.exp() if self.log else self.gamma

    def forward(self, logits: Tensor) -> Tensor:
        return self.part(logits, 0, len(self.out_sizes))

    def part(self, logits: Tensor, first: int, last: int) -> Tensor:
        """The same of groups ``first`` to ``last - 1``, whose logits alone are given."""
        return self._paced(logits, first, last, in_place=False)

    @torch.no_grad()
    def part_(self, logits: Tensor, first: int, last: int) -> Tensor:
        """:meth:`part`, which overwrites the logits; not differentiable."""
        return self._paced(logits, first, last, in_place=True)

    def _paced(self, logits: Tensor, first: int, last: int, in_place: bool) -> Tensor:
        labels = slice(self.out_offsets[first], self.out_offsets[last])
        columns = labels.stop - labels.start
        if logits.dim() != 2 or logits.shape[1] != columns:
            raise ValueError(f"logits must be [N, {columns}], got {list(logits.shape)}")
        wide = logits if logits.dtype == torch.float64 else logits.float()
        bias = None if self.label_bias is None else self.label_bias[labels].to(wide)
        gamma = self.factors[slice(first, last) if self.level == "group" else labels].to(wide)
        sizes = self.out_sizes[first:last]
        parts = [part for part in wide.split(sizes, 1) if part.shape[1]]
        if not parts:
            return logits
        div, mul, add = (
            (Tensor.div_, Tensor.mul_, Tensor.add_)
            if in_place
            else (Tensor.div, Tensor.mul, Tensor.add)
        )

        def of_each(f: Callable[..., Tensor]) -> Tensor:
            return torch.cat([f(part, dim=1, keepdim=True) for part in parts], 1)

        # First by the largest of a group, whose square may leave the range of float32.
        smallest = torch.finfo(wide.dtype).tiny
        largest = torch.maximum(of_each(torch.amax), -of_each(torch.amin)).detach()
        largest = largest.clamp(min=smallest)
        parts = [div(part, n) for part, n in zip(parts, largest.split(1, 1), strict=True)]
        norm = of_each(torch.linalg.vector_norm)
        there = norm * largest >= smallest
        factor = torch.where(there, 1 / torch.where(there, norm, 1), 0)  # no NaN behind where
        if self.level == "group":
            factor = factor * torch.cat(list(compress(gamma.split(1), sizes)))
        parts = [mul(part, f) for part, f in zip(parts, factor.split(1, 1), strict=True)]
        out = wide if in_place else torch.cat(parts, 1)
        out = mul(out, gamma) if self.level == "label" else out
        out = out if bias is None else add(out, bias)
        if in_place and out.dtype != logits.dtype:
            return logits.copy_(out)
        return out.to(logits.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.out_offsets[-1]}, groups={len(self.out_sizes)}, level={self.level}, "
            f"trainable={self.log or isinstance(self.gamma, nn.Parameter)}, log={self.log}, "
            f"label_bias={self.label_bias is not None}"
        )
