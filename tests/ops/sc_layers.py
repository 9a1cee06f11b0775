"""Layers of groups with targets, for the tests of sc_sigmoid_loss."""

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from fastheads.targets import SparseTargets

# Groups as they come: odd, of one label, empty, wider than every vector.
RAGGED = [5, 1, 0, 40, 300, 17]
# Options of draw.
MODES = {
    "plain": dict(normalize=False, bias=False),
    "norm alone": dict(),
    "as worded": dict(gamma="group"),
    "group gamma without norm": dict(normalize=False, gamma="group"),
    "per label": dict(gamma="label", label_bias=True, soft=True),
    "weights": dict(gamma="group", label_bias=True, label_weights=True),
    "generic": dict(gamma="group", generic=3, soft=True),
    "shared input": dict(shared_input=True, gamma="label", label_weights=True),
    "scaled only": dict(normalize=False, gamma="label", label_bias=True, generic=2),
}


class Example(NamedTuple):
    """Arguments of sc_sigmoid_loss; ``options`` by keyword."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: SparseTargets
    in_offsets: list[int] | None
    out_offsets: list[int]
    options: dict

    @property
    def leaves(self) -> list[Tensor]:
        """What the loss is differentiated by."""
        names = ("generic", "gamma", "label_bias")
        options = [self.options[name] for name in names if self.options.get(name) is not None]
        return [t for t in (self.x, self.weight, self.bias, *options) if t is not None]

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> "Example":
        """A copy whose floating tensors are leaves."""

        def move(t):
            if not isinstance(t, Tensor):
                return t
            return t.detach().to(device=device, dtype=dtype).requires_grad_()

        options = {name: move(value) for name, value in self.options.items()}
        if self.options.get("label_weights") is not None:
            options["label_weights"] = options["label_weights"].detach()
        moved = [move(t) for t in (self.x, self.weight, self.bias)]
        targets = self.targets if device is None else self.targets.to(device)
        return Example(*moved, targets, self.in_offsets, self.out_offsets, options)


def draw_targets(rows: int, labels: int, generator: torch.Generator, soft: bool) -> SparseTargets:
    count = min(labels, 6)
    lists = [
        torch.randint(0, labels, (count,), generator=generator)[: row % (count + 1)].tolist()
        if labels
        else []
        for row in range(rows)
    ]
    targets = SparseTargets.from_lists(lists)
    values = torch.rand(targets.indices.numel(), generator=generator, dtype=torch.float64)
    return targets._replace(values=values) if soft else targets


def draw(
    sizes=RAGGED,
    rows=7,
    *,
    shared_input=False,
    generic=0,
    bias=True,
    gamma=None,
    label_bias=False,
    label_weights=False,
    normalize=True,
    soft=False,
    width=5,
    seed=0,
) -> Example:
    """Float64; ``gamma`` is None, "group" or "label"; groups read 1 to ``width`` columns."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    widths = [width if shared_input else 1 + g % width for g in range(len(sizes))]
    labels = sum(sizes)
    options = {
        "generic": normal(rows, generic) if generic else None,
        "normalize": normalize,
        "gamma": 3 * normal(len(sizes) if gamma == "group" else labels).abs() if gamma else None,
        "label_bias": normal(labels) - 1 if label_bias else None,
        "label_weights": normal(labels).clamp(min=0) if label_weights else None,
    }
    return Example(
        normal(rows, width if shared_input else sum(widths)),
        normal(sum(n * (generic + k) for n, k in zip(sizes, widths, strict=True))),
        normal(labels) if bias else None,
        draw_targets(rows, labels, generator, soft),
        None if shared_input else list(accumulate(widths, initial=0)),
        list(accumulate(sizes, initial=0)),
        options,
    )


def gradients(function, example, **more):
    loss = function(*example[:6], **example.options, **more)
    if not loss.requires_grad:  # the reference, where there are no labels
        return [loss, *(torch.zeros_like(leaf) for leaf in example.leaves)]
    return [loss.detach(), *torch.autograd.grad(loss, example.leaves)]
