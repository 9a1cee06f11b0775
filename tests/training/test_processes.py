"""Two processes that share every batch end where one ends."""

import os
import socket
from dataclasses import replace

import torch
from runs import CONFIG, LABELS, Blobs, start
from torch import nn

from fastheads.losses import softmax_cross_entropy
from fastheads.metrics import MeanAveragePrecisionPerLabel
from fastheads.training import fit, save_weights
from fastheads.training.checkpoint import load, save

PLAIN = replace(CONFIG, optimizer="sgd", batch_size=20, epochs=2, patience=None)


def share(folder, rank=0, port=0):
    """One of two processes as torchrun starts them; or a single one without a port."""
    torch.set_num_threads(1)
    if port:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }
    torch.manual_seed(3)
    model, data = nn.Linear(8, LABELS), Blobs(100)

    def validate(model):
        mean = MeanAveragePrecisionPerLabel(LABELS, k=10)
        rows = torch.arange(100).tensor_split(2)[rank] if port else torch.arange(100)
        inputs, targets = data.__getitems__(rows.tolist())
        mean.update(model(inputs), targets)
        return {"map": mean.compute()}

    fit(
        model,
        data,
        softmax_cross_entropy,
        replace(PLAIN, devices=2 if port else 1),
        folder=folder,
        validate=validate,
        quiet=True,
    )
    if rank == 0:
        save_weights(model, folder / "model.safetensors")
        save(dict(model.state_dict()), folder / "weights.pt")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_equal_one(tmp_path):
    port = free_port()
    processes = [start(share, folder=tmp_path / "two", rank=rank, port=port) for rank in (0, 1)]
    processes.append(start(share, folder=tmp_path / "one"))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    one, two = (load(tmp_path / name / "weights.pt") for name in ("one", "two"))
    torch.testing.assert_close(one, two)
    one, two = (load(tmp_path / name / "checkpoint.pt")["run"] for name in ("one", "two"))
    # Halves of the images on each process: the metric merges their states.
    assert [row["map"] for row in one["history"]] == [row["map"] for row in two["history"]]
    for a, b in zip(one["curve"], two["curve"], strict=True):
        torch.testing.assert_close(a, b)
