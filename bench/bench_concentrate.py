"""Knowledge concentration against plain PyTorch: a step, a student, and soft targets.

Training: all that is above a frozen trunk, FC(256)-SC(64) over 50,000 labels in 20 verticals of
unequal sizes, from 512 features, with 100 soft targets a row; forward, loss, backward and Adagrad.
Peers of the same function: one dense layer from all 1,280 units, as it is or masked, and a linear
layer a vertical, all with dense logits and targets; and the last compiled, also with the sparse
form of the loss. A name says the MB of weights, gradients and optimiser, and what a step holds at
its peak besides.

Inference: a student for small pictures against the 20 specialists that it stands for; a name says
the MB of weights. Soft targets: from the teachers' logits on; a name says the bytes of a row, with
labels in 4 bytes and probabilities in 2, or all probabilities in 4.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastheads.labels import Grouping
from fastheads.models import BaseConfig, HeadedNetwork, small_trunk
from fastheads.nn import SelfPacedLogits, Standardize, TopLayers, fc_fc, fc_sc
from fastheads.targets import SparseTargets

from .bench_sc_sigmoid_loss import extra_bytes
from .harness import OURS, Case, parser, run

GROUPS, FEATURES, TOP1, TOP2, K = 20, 512, 256, 64, 100
PARTS = ("train", "train_paced", "inference", "soft_targets")


def verticals(labels: int) -> Grouping:
    """Of Zipf sizes, with labels in no order."""
    sizes = 1 / np.arange(1, GROUPS + 1)
    return Grouping(np.random.default_rng(0).choice(GROUPS, labels, p=sizes / sizes.sum()))


def soft_targets(grouping: Grouping, rows: int) -> SparseTargets:
    """Each row has asked the teacher of one vertical, a large one more often."""
    rng = np.random.default_rng(1)
    asked = [
        grouping.members(g)
        for g in grouping.group_of[rng.integers(0, len(grouping.group_of), rows)]
    ]
    chosen = [np.sort(rng.permutation(labels)[:K]) for labels in asked]
    indices = torch.from_numpy(np.concatenate(chosen))
    offsets = torch.tensor([0, *map(len, chosen)]).cumsum(0)
    return SparseTargets(indices, offsets, torch.rand(len(indices)))


class PlainHead(nn.Module):
    """The head as PyTorch offers it, its labels in group order.

    Args:
        head: whose weights are copied.
        way: ``linears`` (one a vertical), ``dense`` (one for all, with zeros between verticals) or
            ``masked`` (that stay zeros).
    """

    def __init__(self, head: TopLayers, way: str = "linears") -> None:
        super().__init__()
        self.top1, self.top2 = copy.deepcopy(head.top1), copy.deepcopy(head.top2)
        self.pacing, self.sizes = copy.deepcopy(head.pacing), head.logits.out_sizes
        self.register_buffer("position", head.position)
        weights = [weight.detach() for weight in head.logits.group_weights()]
        biases = head.logits.bias.detach().split(self.sizes)
        if way != "linears":
            weights, biases = [torch.block_diag(*weights)], [torch.cat(biases)]
        self.layers = nn.ModuleList()
        for weight, bias in zip(weights, biases, strict=True):
            self.layers.append(nn.Linear(*weight.T.shape, device="meta"))
            self.layers[-1].weight = nn.Parameter(weight.clone())
            self.layers[-1].bias = nn.Parameter(bias.clone())
        self.register_buffer("mask", weights[0] != 0 if way == "masked" else None)

    def logits(self, features: Tensor) -> Tensor:
        units = F.relu(self.top2(F.relu(self.top1(features))))
        if len(self.layers) > 1:
            parts = zip(self.layers, units.split(TOP2, 1), strict=True)
            logits = torch.cat([layer(part) for layer, part in parts], 1)
        else:
            (layer,) = self.layers
            weight = layer.weight if self.mask is None else layer.weight * self.mask
            logits = F.linear(units, weight, layer.bias)
        if self.pacing is None:
            return logits
        gammas, parts = self.pacing.gamma.unbind(), logits.split(self.sizes, 1)
        paced = [gamma * F.normalize(part) for gamma, part in zip(gammas, parts, strict=True)]
        return torch.cat(paced, 1) + self.pacing.label_bias

    def loss(self, features: Tensor, targets: SparseTargets) -> Tensor:
        logits = self.logits(features)
        y = torch.zeros_like(logits)
        y[targets.row_indices(), self.position[targets.indices]] = targets.values.to(y.dtype)
        return F.binary_cross_entropy_with_logits(logits, y, reduction="sum") / len(y)

    def sparse_loss(self, features: Tensor, targets: SparseTargets) -> Tensor:
        """``softplus(z) - y z``, with few y."""
        logits = self.logits(features)
        chosen = logits[targets.row_indices(), self.position[targets.indices]]
        return (F.softplus(logits).sum() - (targets.values * chosen).sum()) / len(logits)


def training(rows: int, labels: int, paced: bool, device: torch.device) -> Case:
    grouping = verticals(labels)
    sizes = grouping.sizes.tolist()
    pacing = SelfPacedLogits(sizes, label_bias=-6.0) if paced else None
    bias = None if paced else -6.0
    head = fc_sc(FEATURES, TOP1, TOP2, grouping, pacing=pacing, initial_bias=bias).to(device)
    features = torch.randn(rows, FEATURES, device=device)
    targets = soft_targets(grouping, rows).to(device)
    reference = PlainHead(head).double()
    right = reference.loss(features.double(), targets)
    right.backward()
    exact, weights = right.item(), reference.top1.weight.grad
    # Masked, a step is twice as slow again: seconds for large batches.
    ways = ("dense", "masked") if rows <= 64 else ("dense",)
    heads = {OURS: head, **{way: PlainHead(head, way) for way in ways}}
    heads |= {name: PlainHead(head) for name in ("linears", "compiled", "compiled, sparse")}
    losses = {name: module.loss for name, module in heads.items()}
    losses["compiled"] = torch.compile(heads["compiled"].loss)
    losses["compiled, sparse"] = torch.compile(heads["compiled, sparse"].sparse_loss)
    providers: dict[str, Callable[[], Any]] = {}
    for name, module in heads.items():
        loss, leaves = losses[name], list(module.parameters())
        # A rate of 0 takes as long, and leaves every contestant the same weights.
        optimizer = torch.optim.Adagrad(leaves, lr=0.0, fused=device.type == "cpu")

        def step(module=module, loss=loss, optimizer=optimizer) -> tuple[Tensor, Tensor]:
            optimizer.zero_grad()
            value = loss(features, targets)
            value.backward()
            optimizer.step()
            return value.detach(), module.top1.weight.grad

        extra = extra_bytes(step, leaves, device)
        # Of the buffers only a mask is worth counting.
        kept = 3 * nbytes(module) + sum(b.nbytes for n, b in module.named_buffers() if n == "mask")
        providers[f"{name} {kept / 2**20:.0f}+{extra / 2**20:.0f} MB"] = step

    def error(name: str, found: tuple[Tensor, Tensor]) -> float:
        loss, grad = found
        off = float((grad.double() - weights).abs().max() / weights.abs().max())
        return max(off, abs(loss.item() - exact) / exact)

    shape = f"B={rows} N={labels}{' paced' if paced else ''}"
    moved, macs = 3 * nbytes(head) + features.nbytes, 3 * rows * head.macs
    return Case(
        "concentrate", shape, "float32", device, providers, error, moved, macs, 1e-3,
        "step, Adagrad",
    )  # fmt: skip


def nbytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def network(head: TopLayers) -> HeadedNetwork:
    """For gray pictures of 32x32: a small trunk, and a head on its 512 features."""
    channels = BaseConfig().channels
    return HeadedNetwork(small_trunk(1, channels), Standardize(channels[-1]), head).eval()


class Specialists(nn.ModuleList):
    """A network a vertical, each for its own labels."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([specialist(images) for specialist in self], 1)


def inference(rows: int, labels: int, device: torch.device) -> Case:
    grouping = verticals(labels)
    alone = [Grouping(np.zeros(size)) for size in grouping.sizes]
    student = network(fc_sc(FEATURES, TOP1, TOP2, grouping)).to(device)
    specialists = Specialists(network(fc_fc(FEATURES, 512, 512, one)) for one in alone).to(device)
    images = torch.randn(rows, 1, 32, 32, device=device)
    contestants = {OURS: student, f"{GROUPS} specialists": specialists}
    providers: dict[str, Callable[[], Tensor]] = {}
    exact: dict[str, Tensor] = {}
    for name, module in contestants.items():
        full = f"{name} {nbytes(module) / 2**20:.1f} MB"
        providers[full] = torch.no_grad()(lambda module=module: module(images))
        exact[full] = torch.no_grad()(copy.deepcopy(module).double())(images.double())
    return Case(
        "concentrate", f"student, {labels} labels [{rows}]", "float32", device, providers,
        lambda name, logits: float((logits - exact[name]).abs().max()),
        nbytes(student) + images.nbytes + 4 * rows * labels, tolerance=1e-4,
    )  # fmt: skip


class Said(nn.Module):
    """A teacher that has said it all: its logits of the rows that are given by number."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, rows: Tensor) -> Tensor:
        return self.logits.index_select(0, rows.flatten())


def teaching(rows: int, labels: int, device: torch.device) -> Case:
    """Logits of the asked teachers to soft targets; a row asks one."""
    # Here, because it needs what the pipelines need, and a machine for kernels may lack that.
    from fastheads.pipelines.teachers import Teacher, Teachers

    grouping = verticals(labels)
    members = [torch.from_numpy(grouping.members(g)) for g in range(GROUPS)]
    networks = [Said(torch.randn(rows, len(m)).mul_(2).sub_(4)).to(device) for m in members]
    parts = zip(grouping.names, networks, members, strict=True)
    teachers = Teachers([Teacher(*part) for part in parts], grouping, K, device=device)
    numbers = torch.arange(rows, device=device)[:, None]
    heard = soft_targets(grouping, rows)
    annotated = SparseTargets(heard.indices[heard.offsets[:-1]], torch.arange(rows + 1))
    asked = torch.from_numpy(grouping.group_of)[annotated.indices]
    known = [m.to(device) for m in members]

    def dense() -> Tensor:
        """As one writes it: whole rows, everything else 0."""
        y = torch.zeros(rows, labels, device=device)
        for group in asked.unique().tolist():
            some = (asked == group).nonzero().to(device)
            probabilities = networks[group](numbers[some]).sigmoid()
            values, top = probabilities.topk(min(K, probabilities.shape[1]))
            y[some, known[group][top]] = values
        return y

    exact = dense()

    def error(name: str, found: SparseTargets | Tensor) -> float:
        if isinstance(found, SparseTargets):
            places = found.row_indices().to(device), found.indices.to(device)
            found = torch.zeros_like(exact).index_put_(places, found.values.to(device))
        return float((found.to_dense() - exact).abs().max())

    stored = f"{6 * heard.indices.numel() / rows + 8:.0f} B"
    return Case(
        "concentrate", f"top {K}, {labels} labels [{rows}]", "float32", device,
        {
            f"{OURS} {stored}": lambda: teachers(numbers, annotated),
            f"dense, to_sparse {stored}": lambda: dense().to_sparse_csr(),
            f"dense {labels * 4} B": dense,
        },
        error, 4 * rows * labels // GROUPS + 12 * heard.indices.numel(), tolerance=1e-6,
        pass_="soft targets",
    )  # fmt: skip


def cases(
    device: torch.device, quick: bool, parts: Sequence[str], batches: Sequence[int]
) -> Iterator[Case]:
    labels = 4437 if quick else 50_000
    for rows in batches[: 1 if quick else None]:
        for part, paced in (("train", False), ("train_paced", True)):
            if part in parts:
                yield training(rows, labels, paced, device)
    if "inference" in parts:
        for rows in (1, 64):
            yield inference(rows, 4437, device)
    if "soft_targets" in parts and importlib.util.find_spec("torchvision"):
        yield teaching(256, labels, device)


def main(argv: list[str] | None = None) -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these")
    arguments.add_argument(
        "--rows", nargs="+", type=int, default=(64, 256), help="a step, training"
    )
    options = arguments.parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    every = cases(device, options.quick, options.parts, options.rows)
    run(every, options.out, device=device, quick=options.quick)


if __name__ == "__main__":
    main()
