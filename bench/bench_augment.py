"""Specialist heads: wired to groups against masked dense layers, and conditional against all.

The peer of `GroupHeads` is what one writes without it: one wide layer of all hidden units to all
labels, its weight multiplied by the mask of the groups. The peer of `ConditionalClassifier` is the
augmented classifier evaluated whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastheads.labels import Grouping
from fastheads.nn import AugmentedClassifier, ConditionalClassifier, GroupHeads
from fastheads.nn.group_heads import group_macs, head_macs

from .harness import OURS, Case, parser, run

# features, hidden units below the classifier, labels, groups, widths of a head
SIZES = {"glyphs": (512, 16, 4437, 12, (32, 32)), "paper 000": (1024, 4096, 17000, 6, (512, 512))}


def build(size: str, device: torch.device) -> tuple[GroupHeads, AugmentedClassifier, nn.Linear]:
    features, hidden, labels, groups, widths = SIZES[size]
    weights = 1 / np.arange(1, groups + 1) ** 0.5  # groups are never of one size
    group_of = np.random.default_rng(0).choice(groups, labels, p=weights / weights.sum())
    heads = GroupHeads((features,), Grouping(group_of), [widths] * groups)
    for output in heads.outputs:
        nn.init.normal_(output.weight, std=0.05)
    base = nn.Linear(hidden, labels)
    top = AugmentedClassifier(nn.Linear(hidden, labels), [heads])
    return heads.to(device), top.to(device).eval(), base.to(device)


class MaskedHeads(nn.Module):
    """The same heads as one dense layer whose weight is masked."""

    def __init__(self, heads: GroupHeads) -> None:
        super().__init__()
        self.heads, grouping = heads, heads.grouping
        width = heads.outputs[0].in_features
        weight = torch.zeros(grouping.num_labels, width * grouping.num_groups)
        for g, output in enumerate(heads.outputs):
            columns = slice(g * width, (g + 1) * width)
            weight[torch.from_numpy(grouping.members(g)), columns] = output.weight.detach().cpu()
        device = heads.outputs[0].weight.device
        self.weight = nn.Parameter(weight.to(device))
        self.mask = (weight != 0).to(device)

    def forward(self, x: Tensor) -> Tensor:
        shares = F.relu(self.heads.first(x)).split(self.heads.shares, 1)
        inner = [s(share) for s, share in zip(self.heads.stacks, shares, strict=True)]
        return F.linear(torch.cat(inner, 1), self.weight * self.mask)


def heads_case(size: str, rows: int, device: torch.device, backward: bool) -> Case:
    heads, _, _ = build(size, device)
    masked = MaskedHeads(heads)
    x = torch.randn(rows, heads.first.in_features, device=device)
    exact = heads.double()(x.double()).detach()
    heads.float()

    def call(module: nn.Module) -> Tensor:
        if not backward:
            with torch.no_grad():
                return module(x)
        module.zero_grad()
        out = module(x)
        out.backward(out.detach())
        return out.detach()

    moved = 4 * (sum(p.numel() for p in heads.parameters()) + x.numel() + exact.numel())
    macs = rows * sum(group_macs(heads, g) for g in range(heads.grouping.num_groups))
    return Case(
        "group_heads",
        f"{size} [{rows}]",
        "float32",
        device,
        {OURS: lambda: call(heads), "masked dense": lambda: call(masked)},
        lambda name, out: float((out - exact).abs().max()),
        moved * (3 if backward else 1),
        macs * (3 if backward else 1),
        tolerance=1e-3,
        pass_="forward+backward" if backward else "forward",
    )


def conditional_case(size: str, rows: int, chosen: int, device: torch.device) -> Case:
    heads, top, base = build(size, device)
    conditional = ConditionalClassifier(base, top, chosen).to(device).eval()
    features = torch.randn(rows, heads.first.in_features, device=device)
    hidden = torch.randn(rows, base.in_features, device=device)
    with torch.no_grad():
        exact = top(features, hidden)

    def error(name: str, out: Any) -> float:
        if name != OURS:
            return float((out - exact).abs().max())
        logits, labels = out
        there = logits > -torch.inf
        return float((logits - exact.gather(1, labels))[there].abs().max())

    def ours() -> Any:
        with torch.no_grad():
            return conditional(features, hidden)

    def whole() -> Tensor:
        with torch.no_grad():
            return top(features, hidden)

    share = chosen / heads.grouping.num_groups
    macs = base.weight.numel() + int(share * head_macs(top.classifier, top.heads))
    moved = 4 * macs  # at most every weight once: few rows share a group
    providers = {OURS: ours, "all groups": whole}
    shape = f"{size} [{rows}] {chosen} of {heads.grouping.num_groups}"
    return Case(
        "conditional_classifier", shape, "float32", device, providers, error, moved, rows * macs,
        tolerance=1e-3,
    )  # fmt: skip


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    for size in list(SIZES)[: 1 if quick else None]:
        for rows in (32, 256):
            yield heads_case(size, rows, device, backward=False)
        yield heads_case(size, 256, device, backward=True)
        for rows in (1, 32):
            for chosen in (1, 2, 3):
                yield conditional_case(size, rows, chosen, device)


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__.splitlines()[0]).parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    run(cases(device, options.quick), options.out, device=device, quick=options.quick)


if __name__ == "__main__":
    main()
