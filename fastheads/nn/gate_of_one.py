"""The gate of a batch of one on the CPU: its arithmetic, called without an operator.

With the caches as a convolution leaves them, an operator that takes nine tensors and returns three
costs some ten times as much as the arithmetic of a gate on one sample.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_POINTERS = ("weight1", "bias1", "weight2", "bias2", "mean", "variance", "norm_weight", "norm_bias")


class _Weights(ctypes.Structure):
    """``GateOfOne`` of csrc/cpu/gate.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("channels", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("eps", ctypes.c_float),
        ("format", ctypes.c_int),
    ]


# What is decided for here, as FloatFormat of csrc/cpu/float_format.h has it.
_FORMATS = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}


# Not CDLL: to let other threads run meanwhile takes longer than the call.
_decide = ctypes.PyDLL(str(Path(__file__).parents[1] / "libfastheads.so")).fastheads_gate_of_one
_decide.argtypes = (
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_bool,
    ctypes.c_double,
)
_decide.restype = ctypes.c_float


class GateOfOne:
    """Decides for one sample by the weights of a :class:`fastheads.nn.Gate`, where they lie.

    Args:
        gate: in evaluation mode.

    Raises:
        KeyError: if a weight is no parameter of its layer, as with a parametrization.
        AttributeError: if there is none.
    """

    def __init__(self, gate: nn.Module) -> None:
        modules: dict[str, Any] = gate._modules
        self.places = places(modules)
        norm = modules.get("norm")
        layers = [modules["fc1"].weight, modules["fc1"].bias]
        layers += [modules["fc2"].weight, modules["fc2"].bias]
        if norm is not None:
            layers += [norm.running_mean, norm.running_var, norm.weight, norm.bias]
        # Kept, so that as long as a place is the same, so is what lies there.
        self._kept = [t.detach() for t in layers]
        self._channels, self._address = -1, 0
        hidden, channels = layers[0].shape
        shapes = [(hidden, channels), (hidden,), (2, hidden), (2,), *[(hidden,)] * 4]
        dtype = layers[0].dtype
        plain = all(t.is_cpu and t.dtype == dtype and t.is_contiguous() for t in layers)
        if plain and dtype in _FORMATS and [t.shape for t in layers] == shapes[: len(layers)]:
            pointers = dict(zip(_POINTERS, self.places, strict=False))
            sizes = {"channels": channels, "hidden": hidden, "format": _FORMATS[dtype]}
            eps = 0.0 if norm is None else norm.eps
            self._weights = _Weights(**pointers, **sizes, eps=eps)
            self._channels, self._address = channels, ctypes.addressof(self._weights)

    def __call__(self, x: Tensor, temperature: float) -> float | None:
        """The probability for ``x``, ``[1, C, H, W]``, with a minus, also before 0, where z is 0.

        None if ``x``, the weights or the temperature are for the operator.
        """
        number_format = _FORMATS.get(x.dtype)
        if number_format is None or x.dim() != 4 or not x.is_cpu:
            return None
        _, channels, height, width = x.shape
        contiguous, pixels = x.is_contiguous(), height * width
        if channels != self._channels or not pixels or not 0 < temperature < math.inf:
            return None
        if not (contiguous or x.is_contiguous(memory_format=torch.channels_last)):
            return None
        return _decide(
            self._address, x.data_ptr(), number_format, pixels, not contiguous, temperature
        )


def places(modules: dict[str, Any]) -> tuple[float, ...]:
    """Where the weights of a gate lie, in the order of ``GateOfOne`` in csrc, and its ``eps``.

    By dictionaries, as attributes of modules take longer.

    Raises:
        KeyError: if a weight is no parameter of its layer, as with a parametrization.
        AttributeError: if there is none.
    """
    fc1, fc2, norm = modules["fc1"]._parameters, modules["fc2"]._parameters, modules.get("norm")
    layers = (
        fc1["weight"].data_ptr(),
        fc1["bias"].data_ptr(),
        fc2["weight"].data_ptr(),
        fc2["bias"].data_ptr(),
    )
    if norm is None:
        return layers
    running, affine = norm._buffers, norm._parameters
    return (
        *layers,
        running["running_mean"].data_ptr(),
        running["running_var"].data_ptr(),
        affine["weight"].data_ptr(),
        affine["bias"].data_ptr(),
        norm.eps,
    )
