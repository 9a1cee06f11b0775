"""The multi-label losses of very many labels: margin and soft margin, from sparse targets.

What must be moved: forward reads the logits; forward and backward together read them and write
their gradient. The peers' targets, padded or dense, are built outside the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastheads.losses import multilabel_margin, multilabel_soft_margin, sigmoid_cross_entropy
from fastheads.ops import multilabel_margin_reference
from fastheads.targets import SparseTargets

from .harness import OURS, Case, parser, run

MOST = 5  # labels of a row


def draw(
    rows: int, labels: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, SparseTargets]:
    """Logits of a network that has begun to learn, and one to five labels a row."""
    chosen = [torch.randperm(labels)[: 1 + row % MOST].tolist() for row in range(rows)]
    targets = SparseTargets.from_lists(chosen).to(device)
    logits = torch.randn(rows, labels, device=device)
    logits[targets.row_indices(), targets.indices] += 2
    return logits.to(dtype), targets


def padded(targets: SparseTargets, labels: int) -> Tensor:
    """``[rows, labels]``: the labels of each row, then -1."""
    out = torch.full((targets.num_rows, labels), -1, device=targets.indices.device)
    for row, chosen in zip(out, targets.tolist(), strict=True):
        row[: len(chosen)] = out.new_tensor(chosen)
    return out


def by_place(logits: Tensor, targets: SparseTargets) -> Tensor:
    """The vectorised form: one matrix operation for each place in the lists of labels."""
    rows = targets.row_indices()
    places = torch.arange(rows.numel(), device=logits.device) - targets.offsets[rows]
    others = logits.index_put((rows, targets.indices), logits.new_full((), -torch.inf)).float()
    margins = others.new_full((targets.num_rows, MOST), -torch.finfo(torch.float32).max)
    margins = margins.index_put((rows, places), 1 - logits[rows, targets.indices].float())
    hinges = (F.relu(margins[:, place, None] + others).sum() for place in range(MOST))
    return sum(hinges, others.new_zeros(())) / logits.numel()


def margins(logits: Tensor, targets: SparseTargets) -> dict[str, Callable[[Tensor], Tensor]]:
    whole, scale = padded(targets, logits.shape[1]), 1 / logits.numel()
    found: dict[str, Callable[[Tensor], Tensor]] = {
        OURS: lambda x: multilabel_margin(x, targets),
        "eager": lambda x: multilabel_margin_reference(x, targets, scale),
        "eager by place": lambda x: by_place(x, targets),
        "compile": torch.compile(lambda x: multilabel_margin_reference(x, targets, scale)),
        "compile by place": torch.compile(lambda x: by_place(x, targets)),
    }
    if logits.dtype == torch.float32:  # torch's has no other on the CPU but float64
        found["torch"] = lambda x: F.multilabel_margin_loss(x, whole)
    return found


def soft_margins(logits: Tensor, targets: SparseTargets) -> dict[str, Callable[[Tensor], Tensor]]:
    dense = torch.zeros_like(logits)
    dense[targets.row_indices(), targets.indices] = 1
    return {
        OURS: lambda x: multilabel_soft_margin(x, targets),
        "fastheads sigmoid_cross_entropy": lambda x: sigmoid_cross_entropy(x, targets, "mean"),
        "torch": lambda x: F.multilabel_soft_margin_loss(x.float(), dense),
        "torch bce": lambda x: F.binary_cross_entropy_with_logits(x.float(), dense.float()),
        "compile": torch.compile(lambda x: F.multilabel_soft_margin_loss(x.float(), dense)),
    }


def case(
    losses: Callable[[Tensor, SparseTargets], dict[str, Callable[[Tensor], Tensor]]],
    op: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    backward: bool,
) -> Case:
    logits, targets = draw(*shape, dtype, device)
    leaf = logits.clone().requires_grad_(backward)
    exact = logits.double().requires_grad_(backward)
    found = losses(logits, targets)
    loss = found[OURS](exact)
    if backward:
        loss.backward()

    def call(function: Callable[[Tensor], Tensor]) -> Callable[[], Any]:
        def one() -> tuple[Tensor, Tensor | None]:
            leaf.grad = None
            value = function(leaf)
            if backward:
                value.backward()
            return value.detach(), leaf.grad

        return one

    def error(name: str, result: tuple[Tensor, Tensor | None]) -> float:
        value, grad = result
        off = abs(value.item() - loss.item()) / loss.item()
        if grad is None or exact.grad is None:
            return off
        return max(off, float((grad.double() - exact.grad).abs().max() / exact.grad.abs().max()))

    return Case(
        op, f"[{shape[0]}, {shape[1]}] 1-{MOST} labels", str(dtype).removeprefix("torch."), device,
        {name: call(function) for name, function in found.items()}, error,
        (1 + backward) * logits.nbytes, tolerance=1e-4 if dtype == torch.float32 else 0.02,
        peer_tolerance=2e-3 if dtype == torch.float32 else None,  # torch adds one by one: 1e-3
        pass_="forward + backward" if backward else "forward",
    )  # fmt: skip


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    kinds = [(margins, "multilabel_margin"), (soft_margins, "multilabel_soft_margin")]
    shapes = [(8, 10_000)] if quick else [(64, 100_000), (256, 100_000)]
    for losses, op in kinds:
        for shape in shapes:
            for backward in (False, True):
                yield case(losses, op, shape, torch.float32, device, backward=backward)
    for losses, op in kinds if not quick else []:
        yield case(losses, op, (64, 100_000), torch.bfloat16, device, backward=True)


def main(argv: list[str] | None = None) -> None:
    options = parser("Margin and soft margin of very many labels.").parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    run(cases(device, options.quick), options.out, device=device, quick=options.quick)


if __name__ == "__main__":
    main()
