"""Linear layers of groups, for the tests of sc_linear."""

from itertools import accumulate

import torch
from torch import Tensor


def offsets(sizes) -> list[int]:
    return [0, *accumulate(sizes)]


class Layer:
    """Random inputs of one layer; ``read`` None for a shared input of ``shared`` columns."""

    def __init__(self, batch, read, written, *, generic=None, shared=0, bias=True, device="cpu",
                 dtype=torch.float32):  # fmt: skip
        generator = torch.Generator().manual_seed(batch)

        def draw(*shape):
            values = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return values.to(dtype).to(device)

        widths = [shared] * len(written) if read is None else read
        self.ins = None if read is None else offsets(read)
        self.outs = offsets(written)
        size = sum(n * (k + (generic or 0)) for n, k in zip(written, widths, strict=True))
        self.x = draw(batch, shared if read is None else sum(read))
        self.weight, self.bias = draw(size), draw(sum(written)) if bias else None
        self.generic = None if generic is None else draw(batch, generic)
        self.grad = draw(batch, sum(written))

    def tensors(self) -> list[Tensor | None]:
        return [self.x, self.weight, self.bias, self.generic]

    def __call__(self, function, tensors=None):
        x, weight, bias, generic = tensors or self.tensors()
        return function(x, weight, bias, self.ins, self.outs, generic=generic)

    def gradients(self, function, dtype) -> list[Tensor]:
        """Of every tensor, and the result before them."""
        leaves = [t if t is None else t.detach().to(dtype).requires_grad_() for t in self.tensors()]
        y = self(function, leaves)
        wanted = [t for t in leaves if t is not None]
        grads = torch.autograd.grad(y, wanted, self.grad.to(dtype), materialize_grads=True)
        return [y.detach(), *grads]


def zipf(groups: int, largest: int) -> list[int]:
    return [max(1, int(largest / (g + 1))) for g in range(groups)]


# columns read and labels written by group: equal, ragged, sizes 0 and 1, not divisible by 8.
GROUPS = {
    "one": ([1], [1]),
    "equal": ([64] * 4, [64] * 4),
    "ragged": ([33, 7, 130, 16], [5, 41, 1, 200]),
    "empty": ([3, 0, 17, 4, 0], [0, 6, 0, 13, 0]),
    "zipf": ([24] * 30, zipf(30, 900)),
    "long": ([600, 1100], [13, 7]),
}
