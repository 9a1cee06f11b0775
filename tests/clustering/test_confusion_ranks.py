"""Counts of several processes, added up, equal those of one."""

import multiprocessing
import os
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_confusion import FORMS, KINDS, batches, brute_force, counted

from fastheads.clustering.confusion import ConfusionCounts


def count(rank, ranks, store):
    """One of the processes; it ends with 0 if every answer was right."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    data = list(batches(9, 30, 11))
    for kind in KINDS:
        expected = brute_force(kind, 30, 4, data)
        for form in FORMS:
            counts = counted(kind, 30, 4, data[rank::ranks], form)
            counts.all_reduce()
            np.testing.assert_array_equal(counts.matrix().toarray(), expected)
            assert counts.num_samples == sum(len(scores) for scores, _ in data)
            # Nothing to count anywhere but on one rank.
            counts = counted(kind, 30, 4, data if rank == ranks - 1 else [], form)
            counts.all_reduce()
            np.testing.assert_array_equal(counts.matrix().toarray(), expected)
    adds_beyond_31_bits(ranks)
    counts = ConfusionCounts(5, 2 if rank else 1)
    with pytest.raises(ValueError, match=r"must be .*'k': "):
        counts.all_reduce()
    dist.destroy_process_group()


def adds_beyond_31_bits(ranks):
    counts = ConfusionCounts(3, 1, "co_detection")
    counts.load_state_dict({**counts.state_dict(), "num_samples": 2**31 - 1})
    counts._dense.fill_diagonal_(2**31 - 1)
    counts.all_reduce()
    assert counts.matrix()[0, 0] == ranks * (2**31 - 1)


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_equal_one(ranks, tmp_path):
    context = multiprocessing.get_context("forkserver")
    # The server imports once, and reads sys.path from the environment alone.
    context.set_forkserver_preload(["test_confusion_ranks"])
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    processes = [
        context.Process(target=count, args=(rank, ranks, tmp_path / "store"))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * ranks


def test_alone_nothing_changes():
    data = list(batches(9, 30, 3))
    counts = counted("confusion", 30, 4, data, "sparse")
    counts.all_reduce()
    np.testing.assert_array_equal(counts.matrix().toarray(), brute_force("confusion", 30, 4, data))
