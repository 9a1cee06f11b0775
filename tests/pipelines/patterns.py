"""Pictures of six patterns, one or two in a picture, and a small network; learned in a second."""

import multiprocessing
import os
import signal
import stat
import sys

import torch
from torch import nn

from fastheads.data import ImageDataset, Normalize
from fastheads.data.images import Pictures
from fastheads.labels import LabelSpace
from fastheads.pipelines.streaming_classifier import StreamingClassifier
from fastheads.pipelines.streaming_settings import Settings
from fastheads.targets import SparseTargets
from fastheads.training import TrainConfig

NAMES = ("bar", "beagle", "dot", "dots", "pug", "stripe")
SPACE = LabelSpace(NAMES)
SHAPE = (1, 8, 8)
UPDATE = TrainConfig(
    epochs=2, batch_size=16, lr=0.05, optimizer="sgd", schedule="constant", accelerator="cpu",
    threads=1, log_every=2,
)  # fmt: skip
normalize = Normalize()


def multilabel_soft(logits, targets):
    dense = torch.zeros_like(logits)
    dense[targets.row_indices(), targets.indices] = 1
    return nn.functional.multilabel_soft_margin_loss(logits, dense)


def draw(labels, seed=0):
    """uint8 ``[N, 1, 8, 8]``: the patterns of the labels of each picture, and noise."""
    patterns = torch.rand(len(NAMES), *SHAPE, generator=torch.Generator().manual_seed(7)) > 0.7
    clean = torch.zeros(len(labels), *SHAPE)
    for picture, row in zip(clean, labels, strict=True):
        picture += patterns[list(row)].any(0)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return (200 * clean + 25 * noise + 20).clamp(0, 255).to(torch.uint8)


def dataset(labels, seed=0):
    images = draw(labels, seed).numpy()
    targets = SparseTargets.from_lists(labels)
    return ImageDataset(images, torch.arange(len(labels)).numpy(), targets, SPACE)


def base(rows=48, seed=0):
    """One label a picture."""
    return dataset([[n % len(NAMES)] for n in range(rows)], seed)


def mixed(rows=32, seed=1) -> Pictures:
    """Two labels a picture."""
    return dataset([[n % 5, n % 5 + 1] for n in range(rows)], seed)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, len(NAMES)),
    ).eval()


def state(module):
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def names(data):
    """The names of the labels of each picture."""
    return [[NAMES[label] for label in row] for row in data.targets.tolist()]


def classifier(folder, **options):
    """A classifier that watches its drift on base pictures; its network is ``network()``."""
    settings = {"loss": "soft_margin", "reference": base(12).images, **options}
    return StreamingClassifier.create(
        folder, network(), SPACE, SHAPE, normalize, settings.pop("update", UPDATE), **settings
    )


def weights(folder, state):
    """The bytes of the weights of a state."""
    return (folder / "states" / f"{state:06d}.safetensors").read_bytes()


def update_and_die(folder, at_save=0, at_step=0):
    """An update in a process of its own: SIGKILL within a write to disk, or at a step."""
    torch.set_num_threads(1)
    steps = saves = 0
    sync, prepare = os.fsync, Settings.prepare

    def dying_sync(file):
        nonlocal saves
        saves += 1
        if saves == at_save:
            if stat.S_ISREG(os.fstat(file).st_mode):
                os.truncate(file, 100)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(file)

    def dying_prepare(settings, images, generator):
        nonlocal steps
        steps += 1
        if steps == at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return prepare(settings, images, generator)

    os.fsync, Settings.prepare = dying_sync, dying_prepare
    data = mixed()
    StreamingClassifier.open(folder, network()).update(data.images, names(data))


def update_and_wait(folder, started, go_on):
    """An update in a process of its own that waits in its first step."""
    torch.set_num_threads(1)
    prepare = Settings.prepare

    def waiting(settings, images, generator):
        started.set()
        assert go_on.wait(300)
        return prepare(settings, images, generator)

    Settings.prepare = waiting
    data = mixed()
    StreamingClassifier.open(folder, network()).update(data.images, names(data))


def processes():
    """Where processes start that may train: torch must not be forked after it has trained."""
    context = multiprocessing.get_context("forkserver")
    # The server imports once, so that its children start in milliseconds; it reads sys.path
    # from the environment alone.
    context.set_forkserver_preload(["patterns"])
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    return context
