"""Squeeze-and-excitation with adaptive widths and an expanded squeeze, by one operator."""

from __future__ import annotations

import math
import operator
from numbers import Integral
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from fastheads.nn.folded_norm import excite, is_unseen
from fastheads.nn.hooks import changed
from fastheads.nn.whole_numbers import whole_number

_INNER = ("relu", "silu", "identity", "hard_swish")
_GATE = ("sigmoid", "hard_sigmoid")


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate that sees the mean of all channels.

    ``s = gate(fc2(inner(fc1(squeeze))))``, ``y = s * x``; Hu, Shen, Albanie, Sun, Wu,
    "Squeeze-and-Excitation Networks", 2017, arXiv:1709.01507, eq. 2-4, and Huang, "Scalable large
    scale visual recognition using multi-label image classification", 2019, sections 3.2 and 3.3;
    there the adaptive widths and the expansion as well, in sections 5.1.1 and 6.1. Before the
    squeeze, a 1x1 convolution E, here without bias, makes ``expansion`` times as many channels,
    which may be averaged in groups.

    E is linear, and so are means over pixels and over groups (a matrix A)::

        fc1(A mean(E x)) = (W1 A E) mean(x) + b1

    so the pixels are never expanded: ``W1 A E`` is the one ``[R, C]`` matrix of the operator. It is
    multiplied in each forward (:meth:`merged` does so once). For the same reason E adds
    parameters, which change how the module trains, but no function that ``fc1`` alone could not
    compute at the same R.

    Its state dict is that of ``torchvision.ops.SqueezeExcitation`` and timm's ``SEModule``, and it
    also loads timm's ``conv_reduce``, ``conv_expand`` and ``[R, C]`` weights of linear layers;
    :meth:`state_dict_for` is the way back.

    Args:
        channels: C, of input and output.
        reduction: the excitation has width ``c // reduction`` inside, of the c channels that it
            reads; ``"sqrt"`` for ``sqrt(c)`` and ``"log"`` for ``ln(c)``, rounded down (the paper
            leaves the base open; natural here). At least 1.
        rd_channels: that width itself, in place of ``reduction``.
        expansion: channels of the squeeze for each channel of the input; 1 for no convolution.
        squeeze: the excitation reads ``"all"`` expanded channels (c = expansion C), or their
            means over groups of ``expansion`` neighbours (``"averaged"``, c = C).
        inner: ``"relu"``, ``"silu"``, ``"identity"`` or ``"hard_swish"``.
        gate: ``"sigmoid"`` or ``"hard_sigmoid"``.
        bias: whether ``fc1`` and ``fc2`` have biases.
        device: of the parameters.
        dtype: of the parameters.

    Shapes: ``[N, C, H, W]``, contiguous or channels-last, to the same.

    Example::

        block = SqueezeExcite(256, reduction=32, expansion=2)
        y = block(torch.randn(8, 256, 14, 14))
    """

    def __init__(
        self,
        channels: int,
        reduction: int | Literal["sqrt", "log"] = 16,
        *,
        rd_channels: int | None = None,
        expansion: int = 1,
        squeeze: Literal["all", "averaged"] = "all",
        inner: str = "relu",
        gate: str = "sigmoid",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        channels = whole_number("channels", channels, least=1)
        expansion = whole_number("expansion", expansion, least=1)
        for name, value, known in (
            ("squeeze", squeeze, ("all", "averaged")),
            ("inner", inner, _INNER),
            ("gate", gate, _GATE),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.channels, self.expansion, self.squeeze = channels, expansion, squeeze
        self.inner, self.gate = inner, gate
        read = channels * expansion if squeeze == "all" else channels
        if rd_channels is None:
            hidden = _reduced(read, reduction)
        else:
            hidden = whole_number("rd_channels", rd_channels, least=1)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.expand: nn.Conv2d | None = None
        if expansion > 1:
            self.expand = nn.Conv2d(channels, channels * expansion, 1, bias=False, **made)
        self.fc1 = nn.Conv2d(read, hidden, 1, bias=bias, **made)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=bias, **made)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, relu: bool = False, **norm: Any
    ) -> Tensor:
        """``s * x``, then ``+ residual``, then a ReLU, as asked for.

        ``norm`` and ``unseen`` are those of :func:`fastheads.nn.folded_norm.excite`.
        """
        fc1, fc2 = self.fc1, self.fc2
        layers = (self.merged_weight(), fc1.bias, fc2.weight, fc2.bias)
        return excite(x, layers, residual, inner=self.inner, gate=self.gate, relu=relu, **norm)

    def merged_weight(self) -> Tensor:
        """``W1 A E``, ``[R, C, 1, 1]``: the first layer on the means of the channels of x."""
        if self.expand is None:
            return self.fc1.weight
        expand = self.expand.weight.flatten(1)
        if self.squeeze == "averaged":
            expand = expand.unflatten(0, (self.channels, self.expansion)).mean(1)
        # Autocast multiplies in its own dtype.
        weight = (self.fc1.weight.flatten(1) @ expand).to(self.fc2.weight.dtype)
        return weight[:, :, None, None]

    def merged(self) -> SqueezeExcite:
        """The same function without expansion, for inference; with copied weights."""
        out = SqueezeExcite(
            self.channels,
            rd_channels=self.fc1.out_channels,
            inner=self.inner,
            gate=self.gate,
            bias=self.fc1.bias is not None,
            device=self.fc1.weight.device,
            dtype=self.fc1.weight.dtype,
        )
        out.load_state_dict(self.state_dict_for())
        return out.train(self.training)

    def state_dict_for(self, fc1: str = "fc1", fc2: str = "fc2") -> dict[str, Tensor]:
        """Copies of the weights for an SE module of another library, the expansion merged.

        Args:
            fc1: what that module calls its first layer, a 1x1 convolution; timm's EfficientNets
                say ``"conv_reduce"``.
            fc2: what it calls the second, there ``"conv_expand"``.
        """
        tensors = {
            f"{fc1}.weight": self.merged_weight(),
            f"{fc1}.bias": self.fc1.bias,
            f"{fc2}.weight": self.fc2.weight,
            f"{fc2}.bias": self.fc2.bias,
        }
        return {name: t.detach().clone() for name, t in tensors.items() if t is not None}

    def extra_repr(self) -> str:
        parts = [f"{self.channels}", f"rd_channels={self.fc1.out_channels}"]
        if self.expansion > 1:
            parts += [f"expansion={self.expansion}", f"squeeze={self.squeeze}"]
        return ", ".join([*parts, f"inner={self.inner}", f"gate={self.gate}"])

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for ours, theirs in (("fc1", "conv_reduce"), ("fc2", "conv_expand")):
            for part in ("weight", "bias"):
                if (key := f"{prefix}{theirs}.{part}") in state_dict:
                    state_dict[f"{prefix}{ours}.{part}"] = state_dict.pop(key)
            weight = state_dict.get(key := f"{prefix}{ours}.weight")
            if isinstance(weight, Tensor) and weight.dim() == 2:
                state_dict[key] = weight[:, :, None, None]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def up_to_norm(branch: nn.Module, se: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """``branch(x)`` without the norm that it ends in, where ``se`` computes that too.

    Without gradients, of a plain sequence in front of a plain :class:`SqueezeExcite`.

    Returns:
        What the branch gives so far, and further arguments for ``se``.
    """
    if (
        torch.is_grad_enabled()
        or type(branch) is not nn.Sequential
        or len(branch) < 2
        or type(se) is not SqueezeExcite
        or changed(branch, se)
    ):
        return branch(x), {}
    *layers, norm = branch
    for layer in layers:
        x = layer(x)
    return x, {"norm": norm, "unseen": is_unseen(layers[-1])}


class ExcitedBranch(nn.Sequential):
    """``se(branch(x))`` with the bits that both give in a block of their own."""

    def forward(self, x: Tensor) -> Tensor:
        branch, se = self
        y, norm = up_to_norm(branch, se, x)
        return cast(Tensor, se(y, **norm))


def _reduced(channels: int, reduction: int | str) -> int:
    if reduction == "sqrt":
        return math.isqrt(channels)
    if reduction == "log":
        return max(1, int(math.log(channels)))
    if not isinstance(reduction, Integral) or reduction < 1:
        raise ValueError(
            f"reduction must be a whole number of at least 1, sqrt or log, got {reduction!r}"
        )
    return max(1, channels // operator.index(reduction))
