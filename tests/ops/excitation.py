"""Arguments of squeeze_excite, and what comes of a call of it or of its reference."""

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def arguments(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
    *,
    weight_dtype: torch.dtype | None = None,
    seed: int = 0,
    residual: bool = False,
    affine: bool = False,
    bias: bool = True,
    **options: object,
) -> tuple[list[Tensor | None], dict[str, object]]:
    """Inputs that need a gradient, and keyword options, for both functions."""
    *map_shape, hidden = shape
    channels = shape[1]
    generator = torch.Generator().manual_seed(sum(shape) + seed)

    def normal(*size: int, factor: float = 1.0) -> Tensor:
        return torch.randn(size, generator=generator) * factor

    maps = [normal(*map_shape) for _ in range(1 + residual)]
    maps = [x.to(device, dtype).contiguous(memory_format=layout).requires_grad_() for x in maps]
    weights = [
        normal(hidden, channels, factor=channels**-0.5),
        normal(hidden),
        normal(channels, hidden, factor=hidden**-0.5),
        normal(channels),
    ]
    weights = [w.to(device, weight_dtype or dtype).requires_grad_() for w in weights]
    if not bias:
        weights[1] = weights[3] = None
    if affine:
        options |= {"scale": normal(channels).to(device, dtype), "shift": normal(channels)}
        options["shift"] = options["shift"].to(device, dtype)
    return [maps[0], *weights, *maps[1:]], options


def results(function, args, options, grad: Tensor) -> list[Tensor]:
    y = function(*args, **options)
    inputs = [t for t in args if t is not None]
    return [y, *torch.autograd.grad(y, inputs, grad.to(y.dtype))]
