"""A small network whose gates decide by the picture, and a data set to show it."""

import numpy as np
import torch
from torch import Tensor

from fastheads.data import Data, ImageDataset
from fastheads.labels import LabelSpace
from fastheads.models import resnet
from fastheads.nn import gate_model, gated_blocks
from fastheads.targets import SparseTargets

LABELS = LabelSpace(
    ("A", "b", "alpha", "B", "a", "dot"),
    {
        "category": ("Latin Lu", "Latin Ll", "Greek Ll", "Latin Lu", "Latin Ll", "marks"),
        "script": ("Latin", "Latin", "Greek", "Latin", "Latin", "marks"),
    },
)


def network(num_labels: int = 6, channels: int = 1, *, gated: bool = True, **options):
    """Five blocks; about half of the gates are open."""
    torch.manual_seed(0)
    model = resnet((1, 2, 2), (8, 16, 16), num_labels=num_labels, in_channels=channels)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    if gated:
        gate_model(model, hidden=4, rate=0.5, **options)
        for block in gated_blocks(model).values():
            torch.nn.init.normal_(block.gate.fc2.weight)
            torch.nn.init.normal_(block.gate.fc1.bias)
    return model.eval()


def pictures(count: int = 24, channels: int = 1, seed: int = 0) -> Tensor:
    """uint8, of different contrast."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, channels, 12, 12, generator=generator)
    return (255 * noise * torch.rand(count, 1, 1, 1, generator=generator)).to(torch.uint8)


def dataset(
    labels: list[list[int]], images: Tensor | None = None, space: LabelSpace = LABELS
) -> ImageDataset:
    images = pictures(len(labels)) if images is None else images
    targets = SparseTargets.from_lists(labels)
    return ImageDataset(images.numpy(), np.arange(len(images)), targets, space)


def data(test: ImageDataset) -> Data:
    return Data(test.label_space, test, test, test)
