"""Heads of paper 002 over 100,000 labels: all logits, and the best labels of each row.

FC(1024)-SC(512) over 20 verticals of Zipf sizes, from 1,024 features. Peers are what one writes in
PyTorch: a linear layer a vertical and `torch.cat`, then `torch.topk`. Labels are not in the order
of the verticals, so each contestant also names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastheads.labels import Grouping
from fastheads.nn import SCLinear, TopLayers, fc_sc, topk_logits

from .harness import OURS, Case, parser, run

LABELS, GROUPS, FEATURES, TOP1, TOP2, K = 100_000, 20, 1024, 1024, 512, 10


class PlainHead(nn.Module):
    """The same head as PyTorch offers it."""

    def __init__(self, head: TopLayers) -> None:
        super().__init__()
        self.top1, self.top2, self.position = head.top1, head.top2, head.position
        self.layers = nn.ModuleList()
        for weight, size in zip(head.logits.group_weights(), head.logits.out_sizes, strict=True):
            self.layers.append(nn.Linear(TOP2, size, device=weight.device))
            self.layers[-1].weight = nn.Parameter(weight)
            self.layers[-1].bias.data.zero_()

    def forward(self, features: Tensor) -> Tensor:
        units = F.relu(self.top2(F.relu(self.top1(features)))).split(TOP2, 1)
        groups = [layer(x) for layer, x in zip(self.layers, units, strict=True)]
        return torch.cat(groups, 1).index_select(1, self.position)


def build(device: torch.device) -> tuple[TopLayers, PlainHead]:
    sizes = 1 / np.arange(1, GROUPS + 1)
    rng = np.random.default_rng(0)
    grouping = Grouping(rng.choice(GROUPS, LABELS, p=sizes / sizes.sum()))
    head = fc_sc(FEATURES, TOP1, TOP2, grouping, initial_bias=0.0, device=device).eval()
    return head, PlainHead(head).eval()


def case(
    op: str, shape: str, rows: int, weights: int, outputs: int, device: torch.device,
    providers: dict[str, Callable[[], Any]], logits: Callable[[Any], Tensor],
) -> Case:  # fmt: skip
    """One line-up whose results ``logits`` brings into one form; the last peer is the measure."""

    def quiet(call: Callable[[], Any]) -> Callable[[], Any]:
        return torch.no_grad()(call)

    providers = {name: quiet(call) for name, call in providers.items()}
    exact = logits(providers[list(providers)[-1]]())
    return Case(
        op, f"{shape} [{rows}]", "float32", device, providers,
        lambda name, result: float((logits(result) - exact).abs().max()),
        4 * (weights + outputs), rows * weights, tolerance=1e-4,
    )  # fmt: skip


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    head, plain = build(device)
    dense = nn.Linear(TOP2, LABELS, device=device)
    layer = SCLinear.from_dense(dense, in_sizes=TOP2, out_sizes=[LABELS])
    name = f"FC{TOP1}-SC{TOP2}, {LABELS} labels"
    for rows in (1, 32):
        x = torch.randn(rows, FEATURES, device=device)
        units = torch.randn(rows, TOP2, device=device)
        yield case(
            "heads", name, rows, head.macs, rows * LABELS, device,
            {OURS: lambda x=x: head(x), "linear layers, cat": lambda x=x: plain(x)},
            lambda logits: logits,
        )  # fmt: skip
        yield case(
            "topk_logits", name, rows, head.macs, rows * K, device,
            {
                OURS: lambda x=x: topk_logits(head, x, K),
                "fastheads forward, topk": lambda x=x: head(x).topk(K),
                "linear layers, cat, topk": lambda x=x: plain(x).topk(K),
            },
            lambda best: best[0],
        )  # fmt: skip
        yield case(
            "topk_logits", f"FC{TOP2}, {LABELS} labels", rows, layer.macs, rows * K, device,
            {
                OURS: lambda x=units: topk_logits(dense, x, K),
                "linear, topk": lambda x=units: dense(x).topk(K),
            },
            lambda best: best[0],
        )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__.splitlines()[0]).parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    run(cases(device, options.quick), options.out, device=device, quick=options.quick)


if __name__ == "__main__":
    main()
