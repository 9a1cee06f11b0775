"""Heads under DistributedDataParallel: gradients are those of the whole batch."""

import multiprocessing
import os
import sys

import torch
import torch.distributed as dist
from test_top_layers import SOFT
from top_layers import features_of, head_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Training(nn.Module):
    """What is trained: features and targets to a loss, so that the wrapper sees the call."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features, targets):
        return self.head.loss(features, targets)


def make(loss_every=1):
    return Training(head_of("fc_sc, generic", pacing={"label_bias": -1.0}, loss_every=loss_every))


def train(rank, ranks, store):
    """One of the processes; it ends with 0 if every gradient was right."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    whole, part = make(), DistributedDataParallel(make(loss_every=2))
    for _ in range(3):
        rows = torch.arange(rank, 6, ranks)
        loss = part(features_of()[rows], SOFT.select(rows))
        loss.backward()
        whole(features_of(), SOFT).backward()
        for got, expected in zip(part.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(got.grad, expected.grad)
    dist.destroy_process_group()


def test_processes_equal_one(tmp_path):
    context = multiprocessing.get_context("forkserver")
    # The server imports once, and reads sys.path from the environment alone.
    context.set_forkserver_preload(["test_top_layers_ranks"])
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    processes = [
        context.Process(target=train, args=(rank, 2, tmp_path / "store")) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
