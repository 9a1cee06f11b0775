"""What it costs to run a residual branch on some samples of a batch: measured, then looked up."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# A gather must be this much cheaper than the dense pass, so that noise does not choose it.
MARGIN = 0.97


def bucket_sizes(samples: int, most: int = 16) -> list[int]:
    """Numbers of rows that a branch is run with, ascending, the last one ``samples``.

    Libraries prepare kernels for each batch size that they meet, so there are few: the rows of a
    gather are padded to the next bucket.
    """
    step = -(-samples // most)
    return [*range(step, samples, step), samples] if samples else []


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """``x[rows]`` in the layout of ``x``, which is contiguous or channels-last."""
    if x.dim() != 4:
        return x.index_select(0, rows)
    last = not x.is_contiguous()
    y = x.permute(0, 2, 3, 1) if last else x
    if x.device.type == "cpu":
        # Large rows would be copied one after the other, each by all threads, which wait for each
        # other every time: parts of them are shared out once.
        inner = torch.arange(y.shape[1])
        parts = torch.addcmul(inner, rows.unsqueeze(1), rows.new_tensor(len(inner))).flatten()
        y = y.flatten(0, 1).index_select(0, parts).unflatten(0, (len(rows), len(inner)))
    else:
        y = y.index_select(0, rows)
    return y.permute(0, 3, 1, 2) if last else y


def cost_key(x: Tensor) -> str:
    """What a measurement holds for: shape, dtype, device, layout and number of threads."""
    layout = "contiguous" if x.is_contiguous() else "channels-last"
    threads = f"{torch.get_num_threads()} threads" if x.device.type == "cpu" else "eager"
    shape = "x".join(map(str, x.shape))
    return f"{shape} {str(x.dtype).removeprefix('torch.')} {x.device} {layout} {threads}"


def padded(active: int, buckets: Sequence[int]) -> int:
    """The smallest of ``buckets``, ascending, that holds ``active`` rows; none for none."""
    return buckets[bisect_left(buckets, active)] if active else 0


@dataclass(frozen=True)
class GatherCosts:
    """Seconds of a gated block by the number of rows that its branch runs on.

    Attributes:
        buckets: numbers of rows, ascending, that the branch may run on; the last one is the batch
            size, the dense pass itself.
        seconds: of the block, for each bucket.
    """

    buckets: Sequence[int]
    seconds: Sequence[float]

    def rows(self, active: int, *, force: bool = False) -> int:
        """Rows to run the branch on for ``active`` samples: none, those of a bucket, or all.

        The smallest bucket that holds them, if it is cheaper than the dense pass or ``force``.
        """
        rows = padded(active, self.buckets)
        if not rows or force:
            return rows
        cheaper = self.seconds[self.buckets.index(rows)] < MARGIN * self.seconds[-1]
        return rows if cheaper else self.buckets[-1]


def measure_costs(
    branch: Callable[[Tensor], Tensor],
    dense: Callable[[Tensor], object],
    gather: Callable[[Tensor, Tensor], object],
    x: Tensor,
    *,
    exact: bool = True,
    timed: int = 4,
    repeats: int = 3,
) -> GatherCosts:
    """Times some numbers of rows and the dense pass, and interpolates between them.

    Args:
        branch: the branch alone.
        dense: runs the block on a batch.
        gather: runs the block on a batch with the branch on the rows given; may change the batch.
        x: a batch of the size, shape and layout to measure for; unchanged.
        exact: leave out numbers of rows with which a row of the branch comes out with other bits
            than in the dense pass.
        timed: how many buckets are timed besides the dense pass.
        repeats: each time is the least of so many.
    """
    every = torch.arange(len(x), device=x.device)
    # Random values, because on zeros any order of summation gives the same bits.
    generator = torch.Generator(x.device).manual_seed(0)
    noise = torch.empty_like(x).normal_(generator=generator)
    whole = branch(noise) if exact else None

    def allowed(count: int) -> bool:
        if whole is None:
            return True
        # Each in another place, because a library may sum the last rows of a block otherwise.
        rows = torch.randperm(len(x), generator=generator, device=x.device)[:count]
        return torch.equal(branch(gather_rows(noise, rows)), whole[rows])

    # Where the dense pass itself depends on a sample's place, no gather can be like it.
    placed = all(allowed(len(x)) for _ in range(2))
    buckets = [rows for rows in bucket_sizes(len(x))[:-1] if placed and allowed(rows)]
    # The dense pass gathers nothing: no number of rows may be interpolated between it and another.
    places = np.linspace(0, len(buckets) - 1, timed if buckets else 0).round().astype(int)
    best = {rows: float("inf") for rows in [*(buckets[place] for place in places), len(x)]}
    for _ in range(repeats):
        for rows in best:
            _wait(x)
            begin = time.perf_counter()
            dense(noise) if rows == len(x) else gather(noise, every[:rows])
            _wait(x)
            best[rows] = min(best[rows], time.perf_counter() - begin)
    dense_seconds = best.pop(len(x))
    seconds = np.interp(buckets, list(best), list(best.values())).tolist() if best else []
    return GatherCosts((*buckets, len(x)), (*seconds, dense_seconds))


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
