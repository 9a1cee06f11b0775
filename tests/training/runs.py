"""Small training runs for the tests; in a module of its own so that other processes import it."""

import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fastheads.losses import softmax_cross_entropy
from fastheads.targets import SparseTargets
from fastheads.training import TrainConfig, fit, save_weights

LABELS = 5


class Blobs:
    """Points around one centre a label."""

    def __init__(self, rows, noise=False):
        generator = torch.Generator().manual_seed(0)
        centres = 3 * torch.randn(LABELS, 8, generator=generator)
        label = torch.arange(rows) % LABELS
        self.inputs = centres[label] + torch.randn(rows, 8, generator=generator)
        self.targets = SparseTargets.from_lists([[int(n)] for n in label])
        self.noise = noise

    def __len__(self):
        return len(self.inputs)

    def __getitems__(self, rows):
        rows = torch.tensor(rows)
        inputs = self.inputs[rows]
        if self.noise:  # draws from the generators that a dataset may use
            inputs = inputs + random.random() + float(np.random.rand())
        return inputs, self.targets.select(rows)


def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, LABELS)
    )


def accuracy(data):
    def validate(model):
        assert not model.training
        best = model(data.inputs).argmax(1)
        return {"top1": (best == data.targets.indices).double().mean().item()}

    return validate


CONFIG = TrainConfig(
    epochs=4,
    batch_size=16,
    lr=0.01,
    weight_decay=0.01,
    clip_norm=1.0,
    polyak=0.9,
    patience=3,
    accelerator="cpu",
    log_every=3,
    checkpoint_seconds=0,
    threads=1,
)


def train(folder, config=CONFIG, die_at_step=0, die_at_save=0):
    """One run with everything random in it; SIGKILL at a step, or within a save."""
    torch.set_num_threads(1)
    # A child of the fork server would start its own servers for the loader's workers: seconds.
    multiprocessing.set_start_method("fork", force=True)
    data = Blobs(100, noise=config.workers == 0)
    steps = saves = 0

    def augment(inputs, generator):
        nonlocal steps
        steps += 1
        if steps == die_at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)

    def fsync(file):
        nonlocal saves
        saves += 1
        if saves == die_at_save:
            os.truncate(file, 100)
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync
    model = network()
    result = fit(
        model,
        data,
        softmax_cross_entropy,
        config,
        folder=folder,
        augment=augment,
        validate=accuracy(data),
        quiet=True,
    )
    save_weights(model, Path(folder) / "model.safetensors")
    return result


def start(function, **arguments):
    """Starts ``function`` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    # The server imports once, so that its children start in milliseconds; it reads sys.path
    # from the environment alone.
    context.set_forkserver_preload(["runs"])
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    process = context.Process(target=function, kwargs=arguments)
    process.start()
    return process


def in_process(**options):
    """Runs ``train`` in a process of its own; the exit code."""
    process = start(train, **options)
    process.join()
    return process.exitcode
