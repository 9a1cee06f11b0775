"""The order of the data: a function of seed and epoch, so that it resumes exactly."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from torchdata.stateful_dataloader import StatefulDataLoader


class ShuffledBatches(Sampler[list[int]]):
    """Batches of row numbers in an order that follows from the seed and ``epoch``.

    Each of ``world`` processes gets its share of every batch; rows that fill no whole batch are
    left out of the epoch.

    Attributes:
        epoch: the epoch whose order the next iteration gives.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if rows < world:
            raise ValueError(f"data must have at least one row for each process, got {rows} rows")
        self.rows, self.seed, self.rank, self.world, self.epoch = rows, seed, rank, world, 0
        self.batch_size = min(batch_size, rows - rows % world)

    def __len__(self) -> int:
        return self.rows // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        order = torch.randperm(self.rows, generator=generator)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield batch[self.rank :: self.world].tolist()


def loader(data: Any, batches: ShuffledBatches, workers: int) -> StatefulDataLoader:
    """Loads whole batches through ``data.__getitems__``, ahead of time with workers."""
    # Its own generator: the seeds of workers must not draw from the model's.
    generator = torch.Generator().manual_seed(mix(batches.seed, batches.epoch))
    with warnings.catch_warnings():
        # torchdata 0.11 still calls it.
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")
        return StatefulDataLoader(
            data,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_as_it_is,
            generator=generator,
        )


def mix(*numbers: int) -> int:
    """One 32-bit seed from several numbers; PyTorch's CPU generator keeps no more than 32 bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _as_it_is(batch: Any) -> Any:
    return batch
