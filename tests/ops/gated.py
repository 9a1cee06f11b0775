"""Tensors and dtypes that the tests of gates and gated_residual share."""

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
# One, primes, whole vectors, more than one part a sample, empty in either way, many samples.
SHAPES = [(1, 1), (5, 7, 3, 5), (4, 64, 4, 4), (3, 129), (3, 37, 31, 29), (0, 8), (3, 0)]
SHAPES += [(301, 5, 3, 2)]
FIRST_STAGE = (1, 9, 112, 112)


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def samples(shape, dtype, device, seed=0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)


def gates(count, dtype, device) -> Tensor:
    """0, 1 and between, in turns."""
    return torch.tensor([0.0, 1.0, 0.3]).repeat(count)[:count].to(device, sum_dtype(dtype))


def triple(shape, dtype, device, layout="contiguous") -> tuple[Tensor, Tensor, Tensor]:
    x, f = (samples(shape, dtype, device, seed) for seed in (1, 2))
    if len(shape) == 4:
        x, f = (t.contiguous(memory_format=LAYOUTS[layout]) for t in (x, f))
    return x, f, gates(shape[0], dtype, device)
