"""Milliseconds of networks, timed in turns."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.nn import GatedResidual, gated_blocks
from fastheads.nn.gated_cost import cost_key
from fastheads.pipelines.frozen import channels_last

WARM_UP = 16  # batches at most that are not timed


@torch.no_grad()
def latency(
    networks: Mapping[str, nn.Module | Callable[[Tensor], Any]],
    images: Tensor,
    batch_sizes: tuple[int, ...] = (1, 32),
    *,
    calls: int = 128,
    seconds: float = 20.0,
) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds an image of each network, for some batch sizes.

    Each batch goes through all networks before the next one does, so that what else happens on the
    machine hits them alike; who comes first changes from batch to batch. In its turn a network runs
    the batch before once more, untimed: its weights then lie where they do if it runs alone, and
    not where the others have pushed them. Batches of one go over ``calls`` different images, or all
    there are: a network that skips layers takes longer for some. Gated blocks are calibrated
    before, see :func:`calibrate_alike`.

    Args:
        networks: in evaluation mode, on the device of the images; or functions.
        images: ``[N, C, H, W]``, normalised; begun again where a batch needs more.
        batch_sizes: in images.
        calls: of each network for each batch size, 5 at least.
        seconds: for each batch size no further batch begins after so long, but after 5 of them.

    Returns:
        For each network and batch size: the median ``ms`` over the calls and the quartiles ``low``
        and ``high``. They hold for ``torch.get_num_threads()`` threads.

    Raises:
        ValueError: if there are no images, or a network is in training mode.
    """
    if not len(images):
        raise ValueError("images must hold at least one image, got none")
    for name, network in networks.items():
        if isinstance(network, nn.Module) and network.training:
            raise ValueError(f"network {name!r} must be in evaluation mode, got training mode")
    names = list(networks)
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
    for size in batch_sizes:
        batches = _batches(images, size, calls)
        if size > 1:  # one image needs no calibration
            modules = [each for each in networks.values() if isinstance(each, nn.Module)]
            calibrate_alike(modules, batches[0])
        for network in networks.values():
            for batch in batches[:WARM_UP]:
                network(batch)
        taken: dict[str, list[float]] = {name: [] for name in names}
        begun = time.perf_counter()
        for number in range(max(calls, 5)):
            if number >= 5 and time.perf_counter() - begun > seconds:
                break
            batch, first = batches[number % len(batches)], number % max(len(names), 1)
            for name in names[first:] + names[:first]:
                networks[name](batches[number % len(batches) - 1])
                taken[name].append(_time(partial(networks[name], batch)) / size)
        for name, times in taken.items():
            low, median, high = np.percentile(times, [25, 50, 75]).tolist()
            found[name][str(size)] = {"ms": median, "low": low, "high": high}
    return found


def calibrate_alike(networks: Sequence[nn.Module], batch: Tensor) -> None:
    """Calibrates the gated blocks for such batches, those of one kind and shape alike.

    They share the numbers of rows that each of them may gather, and the median of their times, so
    that noise does not make blocks or networks choose differently.

    Args:
        networks: in evaluation mode.
        batch: images.
    """
    alike: dict[tuple[str, str], list[GatedResidual]] = defaultdict(list)

    def calibrate(block: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(block, GatedResidual) and block.mode != "dense":
            block.calibrate(args[0])
            key = cost_key(args[0])
            if key in block.calibration():  # not in one of a copy in another layout
                alike[key, repr(block)].append(block)

    every = [block for network in networks for block in gated_blocks(network).values()]
    hooks = [block.register_forward_pre_hook(calibrate) for block in every]
    try:
        for network in networks if every else ():
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for (key, _), blocks in alike.items():
        costs = [block.calibration()[key] for block in blocks]
        times = [dict(zip(each["buckets"], each["seconds"], strict=True)) for each in costs]
        buckets = sorted(set(times[0]).intersection(*times))
        seconds = [float(np.median([each[rows] for each in times])) for rows in buckets]
        for block in blocks:
            shared = {"buckets": buckets, "seconds": seconds}
            block.set_calibration({**block.calibration(), key: shared})


def _batches(images: Tensor, size: int, calls: int) -> list[Tensor]:
    """At most ``calls`` different batches, evenly spread over the images."""
    count = min(calls, math.ceil(len(images) / size))
    starts = np.linspace(0, max(len(images) - size, 0), count).astype(int)
    rows = [(torch.arange(size) + int(start)) % len(images) for start in starts]
    return [channels_last(images[each]) for each in rows]


def _time(call: Callable[[], Any]) -> float:
    """Milliseconds of one call; on CUDA until the device is done."""
    _wait()
    begun = time.perf_counter()
    call()
    _wait()
    return 1000 * (time.perf_counter() - begun)


def _wait() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
