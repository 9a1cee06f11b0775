"""sc_sigmoid_loss: loss and gradients of a head over very many labels, against plain PyTorch.

20 groups of as many labels, 512 inputs each, ten labels a row, gamma a group and a bias a label
trained. Each provider's name says what it holds at its peak beyond parameters and gradients, and of
how much with the gradients; the batches of 1024 and 4096 show whether that grows with them. Peers:
eager with dense targets; the sparse form sum softplus(z) - sum_k y_k z_k compiled, with a linear
layer a group, or with one batched product, which equal groups allow. ``bytes`` count weight,
gradient and inputs once; ``macs`` the three products, which bound the time of everyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import fastheads
from fastheads.ops import sc_sigmoid_loss, sc_sigmoid_loss_logits_
from fastheads.targets import SparseTargets

from .harness import OURS, Case, parser, run

GROUPS, WIDTH = 20, 512


class Head(NamedTuple):
    """Inputs and parameters; all but ``targets`` want gradients."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    gamma: Tensor
    label_bias: Tensor
    targets: SparseTargets

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self[:5]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows, labels, labels a group."""
        return len(self.x), len(self.bias), len(self.bias) // GROUPS


def draw(rows: int, labels: int, dtype: torch.dtype, device: torch.device) -> Head:
    tensors = (
        torch.randn(rows, GROUPS * WIDTH, dtype=dtype, device=device),
        torch.randn(labels * WIDTH, dtype=dtype, device=device).mul_(WIDTH**-0.5),
        torch.zeros(labels, dtype=dtype, device=device),
        torch.full((GROUPS,), (labels / GROUPS) ** 0.5, device=device),
        torch.full((labels,), -6.0, device=device),
    )
    lists = torch.randint(0, labels, (rows, 10)).tolist()
    targets = SparseTargets.from_lists(lists).to(device)
    return Head(*(t.requires_grad_() for t in tensors), targets)


def fused(head: Head) -> Tensor:
    _, labels, size = head.sizes
    own, out = range(0, GROUPS * WIDTH + 1, WIDTH), range(0, labels + 1, size)
    options = dict(gamma=head.gamma, label_bias=head.label_bias)
    return sc_sigmoid_loss(head.x, head.weight, head.bias, head.targets, own, out, **options)


def dense(head: Head, weights: list[Tensor]) -> Tensor:
    """As a user would write it: linear layers, normalize, dense targets."""
    rows, labels, size = head.sizes
    y = torch.zeros(rows, labels, device=head.x.device)
    y[head.targets.row_indices(), head.targets.indices] = 1
    logits = linears(head, weights).float().view(rows, GROUPS, size)
    z = (head.gamma[:, None] * F.normalize(logits, dim=2)).view(rows, labels) + head.label_bias
    return F.binary_cross_entropy_with_logits(z, y, reduction="sum") / rows


def linears(head: Head, weights: list[Tensor]) -> Tensor:
    x, bias = head.x.split(WIDTH, 1), head.bias.split(head.sizes[2])
    return torch.cat([F.linear(*part) for part in zip(x, weights, bias, strict=True)], 1)


def sparse(head: Head, logits: Tensor, rows: Tensor) -> Tensor:
    """Of logits ``[B, groups, labels a group]`` in any layout."""
    labels, size = head.targets.indices, head.sizes[2]
    scale = head.gamma[:, None] / torch.linalg.vector_norm(logits.float(), dim=2, keepdim=True)
    z = scale * logits + head.label_bias.view(GROUPS, size)
    return (F.softplus(z).sum() - z[rows, labels // size, labels % size].sum()) / len(logits)


def batched(head: Head) -> Tensor:
    rows, _, size = head.sizes
    x = head.x.view(rows, GROUPS, WIDTH).transpose(0, 1)
    weight = head.weight.view(GROUPS, size, WIDTH).transpose(1, 2)
    return torch.baddbmm(head.bias.view(GROUPS, 1, size), x, weight).transpose(0, 1)


def losses(head: Head, weights: list[Tensor] | None) -> dict[str, Callable[[], Tensor]]:
    """By provider; those with a parameter a group need their own ``weights``."""
    rows = head.targets.row_indices()
    one = torch.compile(lambda: sparse(head, batched(head), rows))
    found: dict[str, Callable[[], Tensor]] = {OURS: lambda: fused(head), "compiled bmm": one}
    if weights is not None:
        each, shape = weights, (head.sizes[0], GROUPS, head.sizes[2])
        of_each = torch.compile(lambda: sparse(head, linears(head, each).view(shape), rows))
        found |= {"compiled linears": of_each, "eager dense": lambda: dense(head, each)}
    return found


def exact(head: Head) -> tuple[float, Tensor]:
    """Loss and gradient of ``x`` in float64, group by group."""
    rows, _, size = head.sizes
    weight, loss, grads = head.weight.detach().view(GROUPS, size, WIDTH), 0.0, []
    for g in range(GROUPS):
        columns = slice(g * size, (g + 1) * size)
        x = head.x.detach()[:, g * WIDTH : (g + 1) * WIDTH].double().requires_grad_()
        logits = F.linear(x, weight[g].double(), head.bias.detach()[columns].double())
        z = head.gamma[g].item() * F.normalize(logits, dim=1) + head.label_bias.detach()[columns]
        inside = (head.targets.indices // size == g).nonzero().flatten()
        chosen = z[head.targets.row_indices()[inside], head.targets.indices[inside] - g * size]
        part = (torch.logaddexp(z, z.new_zeros(())).sum() - chosen.sum()) / rows
        grads.append(torch.autograd.grad(part, x)[0])
        loss += part.item()
    return loss, torch.cat(grads, 1)


def extra_bytes(call: Callable[[], Any], leaves: list[Tensor], device: torch.device) -> int:
    """What a call holds at its peak, less the gradients that it returns."""
    call()
    for leaf in leaves:
        leaf.grad = None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        fastheads.empty_cache()  # what is used again would not be seen
        with torch.profiler.profile(profile_memory=True) as profile:
            call()
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
    return peak - sum(leaf.nbytes for leaf in leaves)


def case(
    rows: int, labels: int, dtype: torch.dtype, device: torch.device, *, step=False, peers=True
) -> Case:
    """Forward and backward; with ``step``, Adagrad's update as well."""
    head = draw(rows, labels, dtype, device)
    right = exact(head)
    weights = None
    if peers:
        parts = head.weight.detach().view(GROUPS, -1, WIDTH).unbind(0)
        weights = [part.clone().requires_grad_() for part in parts]
    providers: dict[str, Callable[[], Any]] = {}
    for name, loss in losses(head, weights).items():
        own = [head.weight] if name in (OURS, "compiled bmm") or not weights else weights
        leaves = [head.x, *head.leaves[2:], *own]
        # A rate of 0 takes as long, and leaves every provider the same parameters; fused, because
        # else the temporaries of one large weight cost more than the update.
        fused = device.type == "cpu"
        optimizer = torch.optim.Adagrad(leaves[1:], lr=0.0, fused=fused) if step else None

        def call(loss=loss, leaves=leaves, optimizer=optimizer) -> tuple[Tensor, Tensor | None]:
            for leaf in leaves:
                leaf.grad = None
            value = loss()
            value.backward()
            if optimizer is not None:
                optimizer.step()
            return value.detach(), head.x.grad

        extra = extra_bytes(call, leaves, device)
        peak = extra + sum(leaf.nbytes for leaf in leaves)
        providers[f"{name} {extra / 2**20:.0f} of {peak / 2**20:.0f} MB"] = call

    def error(name: str, found: tuple[Tensor, Tensor]) -> float:
        loss, grad = found
        of_loss = abs(loss.item() - right[0]) / right[0]
        return max(of_loss, float((grad.double() - right[1]).abs().max() / right[1].abs().max()))

    moved = sum(2 * leaf.nbytes for leaf in head.leaves)
    name = str(dtype).removeprefix("torch.")
    tolerance = 4096 * torch.finfo(dtype).eps if dtype == torch.float32 else 0.1
    macs = 3 * rows * labels * WIDTH
    pass_ = "step, Adagrad" if step else "forward + backward"
    shape = f"B={rows} N={labels} {GROUPS}x{WIDTH}"
    return Case(
        "sc_sigmoid_loss", shape, name, device, providers, error, moved, macs, tolerance, pass_
    )


def kernel(rows: int, labels: int, device: torch.device) -> Case:
    """What comes after the logits, in place: loss and their gradient."""
    head = draw(rows, labels, torch.float32, device)
    logits = torch.randn(rows, labels, device=device)
    out = range(0, labels + 1, labels // GROUPS)
    options = dict(gamma=head.gamma.detach(), label_bias=head.label_bias.detach())
    of_rows, x = head.targets.row_indices(), logits.clone().requires_grad_()
    compiled = torch.compile(lambda: sparse(head, x.view(rows, GROUPS, -1), of_rows))

    def ours() -> Tensor:
        return sc_sigmoid_loss_logits_(logits, head.targets, out, **options).sum() / rows

    def peer() -> Tensor:
        x.grad = None
        loss = compiled()
        loss.backward(inputs=[x])
        return loss.detach()

    right = peer().item()

    def reset() -> None:
        logits.copy_(x.detach())

    return Case(
        "sc_sigmoid_loss_logits_", f"B={rows} N={labels} {GROUPS} groups", "float32", device,
        {OURS: ours, "compile": peer}, lambda _, loss: abs(loss.item() - right) / right,
        2 * logits.nbytes, tolerance=1e-5, pass_="forward + backward", reset=reset,
    )  # fmt: skip


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    if quick and device.type == "cuda":
        for rows in (64, 4096, 1024, 256):  # the ends first: peers are compiled, time may run out
            yield case(rows, 100_000, torch.bfloat16, device)
        return
    if quick:
        yield case(64, 10_000, torch.float32, device)
        return
    for rows in (64, 256):
        yield case(rows, 100_000, torch.float32, device)
    yield case(64, 100_000, torch.float32, device, step=True)
    yield kernel(64, 100_000, device)
    for labels in (10_000, 1_000_000):
        yield case(64, labels, torch.float32, device, peers=labels < 1_000_000)
    for rows in (1024, 4096):  # eager holds 1.6 GB of float32 logits several times
        yield case(rows, 100_000, torch.float32, device, peers=rows < 4096)
    if device.type == "cuda":
        for rows in (64, 256, 1024, 4096):
            yield case(rows, 100_000, torch.bfloat16, device)


def main(argv: list[str] | None = None) -> None:
    options = parser("The loss over very many labels, against its peers.").parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    run(cases(device, options.quick), options.out, device=device, quick=options.quick)


if __name__ == "__main__":
    main()
