"""Accuracy, executed layers and time of networks with and without gates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.data import Data, Normalize
from fastheads.metrics import TopKAccuracy, count_parameters
from fastheads.nn import force_gates, gated_blocks, record_gates
from fastheads.nn.gate_budget import fit_budget, use_budget
from fastheads.pipelines.adaptive_config import Run
from fastheads.pipelines.block_costs import block_costs, executed_macs
from fastheads.pipelines.frozen import picture_batches
from fastheads.pipelines.latency import latency

BATCHES = (1, 32)  # pictures at a time, in latencies


def add_row(run: Run, row: str, seed: int, network: nn.Module) -> None:
    """Measures the network of a row and a seed on the test pictures."""
    network.eval().requires_grad_(False)
    if seed == run.config.seeds[0]:
        run.networks[row] = network
    else:
        run.others[row, seed] = network
    measured = run.stages.run(
        f"metrics of {row}, seed {seed}",
        partial(measure, network, run.data, run.config.augmentation.normalize),
    )
    run.measured.setdefault(row, []).append(measured)


def untrained_rows(run: Run) -> None:
    """The kept network run in other ways: all blocks, at random, sampled, by a budget."""
    config, normalize = run.config, run.config.augmentation.normalize
    kept = run.kept
    for number, seed in enumerate(config.seeds):
        network = run.of_seed(kept, seed)
        rates = dict(zip(gated_blocks(network), run.measured[kept][number]["rates"], strict=True))

        def add(row: str, compute: Callable[[], dict[str, Any]], seed: int = seed) -> None:
            found = run.stages.run(f"metrics of {row}, seed {seed}", compute)
            run.measured.setdefault(row, []).append(found)

        measured = partial(measure, network, run.data, normalize)
        add(f"{kept}_all", partial(measured, forced=rates))
        add(kept.replace("adaptive", "random"), partial(measured, forced=rates, seed=seed))
        add(f"{kept}_sampled", partial(_measure_sampled, measured, network, seed))
        for k in budgets_of(run):
            add(f"budget_{k}", partial(measure, budgeted(run, network, k), run.data, normalize))


def _measure_sampled(
    measured: Callable[[], dict[str, Any]], network: nn.Module, seed: int
) -> dict[str, Any]:
    torch.manual_seed(seed)
    gates = [block.gate for block in gated_blocks(network).values()]
    try:
        for gate in gates:
            gate.sample = True
        return measured()
    finally:
        for gate in gates:
            gate.sample = False


def budgets_of(run: Run) -> list[int]:
    """Exact numbers of open gates: those of the settings, or three about the first seed's mean."""
    rates = run.measured[run.kept][0]["rates"]
    mean = round(sum(rates))
    around = {mean - 2, mean, mean + 2} & set(range(1, len(rates)))
    return list(run.config.budgets or sorted(around))


def budgeted(run: Run, network: nn.Module, k: int) -> nn.Module:
    """A copy that opens exactly ``k`` gates, by thresholds found on the hold-out pictures."""
    network = copy.deepcopy(network)
    batches = picture_batches(run.data.holdout, run.config.augmentation.normalize)
    use_budget(network, fit_budget(network, (images for images, _ in batches), k))
    return network


@torch.no_grad()
def measure(
    network: nn.Module,
    data: Data,
    normalize: Normalize,
    forced: Mapping[str, float] | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Accuracy on the test pictures, and what was executed.

    Args:
        network: in evaluation mode.
        data: pictures.
        normalize: of the pictures.
        forced: rate of each gate in place of its decisions: all blocks run, and count by it.
        seed: blocks are instead run at random, at these rates.

    Returns:
        ``top1``, ``top5``, ``layers`` and ``macs`` executed an image, ``parameters``, and the
        ``rates`` of the gates.
    """
    metrics = {"top1": TopKAccuracy(1), "top5": TopKAccuracy(5)}
    generator = torch.Generator().manual_seed(seed or 0)
    gates, opened = len(gated_blocks(network)), []
    for images, targets in picture_batches(data.test, normalize):
        with ExitStack() as stack:
            if forced is not None:
                stack.enter_context(force_gates(network, _drawn(forced, images, seed, generator)))
            record = stack.enter_context(record_gates(network)) if gates else None
            logits = network(images)
        for metric in metrics.values():
            metric.update(logits, targets)
        if record is not None:
            record.layers()  # looks for what is not a number
            opened.append(torch.stack(record.z, 1) > 0)  # a block that is scaled runs
    runs = torch.cat(opened).numpy() if opened else np.zeros((len(data.test), 0), dtype=bool)
    cost = block_costs(network, normalize(data.test.__getitems__([0])[0]))
    return {
        **{name: metric.compute().item() for name, metric in metrics.items()},
        "layers": len(cost.blocks) - gates + float(runs.sum(1).mean()),
        "macs": float(executed_macs(cost, runs).mean()),
        "parameters": count_parameters(network),
        "rates": runs.mean(0).tolist(),
    }


def _drawn(
    rates: Mapping[str, float], images: Tensor, seed: int | None, generator: torch.Generator
) -> dict[str, float | Tensor]:
    if seed is None:
        return dict(rates)
    return {
        name: (torch.rand(len(images), generator=generator) < rate).float()
        for name, rate in rates.items()
    }


def time_rows(run: Run) -> None:
    """Milliseconds an image of every network that skips or not, for batches of 1 and 32."""
    normalize = run.config.augmentation.normalize
    rows = range(min(len(run.data.test), 256))
    images = normalize(run.data.test.__getitems__(list(rows))[0])
    for number, seed in enumerate(run.config.seeds):
        networks = {row: run.of_seed(row, seed) for row in run.networks}
        for k in budgets_of(run):
            networks[f"budget_{k}"] = budgeted(run, run.of_seed(run.kept, seed), k)
        timed = run.stages.run(f"latency, seed {seed}", partial(latency, networks, images, BATCHES))
        for row, found in timed.items():
            run.measured[row][number] |= {f"ms_{size}": found[str(size)]["ms"] for size in BATCHES}
        run.latency = run.latency or timed
