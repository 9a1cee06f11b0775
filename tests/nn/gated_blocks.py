"""Gated blocks that the tests of GatedResidual share, and what opens their gates."""

import torch
from torch import Tensor, nn

from fastheads.nn import Gate, GatedResidual
from fastheads.nn.gated_cost import cost_key

NONE, SOME, ALL = [0] * 7, [0, 1, 1, 0, 0, 1, 0], [1] * 7


def first_channel_gate(channels: int) -> Gate:
    """Opens where the mean of channel 0 is at least a half."""
    gate = Gate(channels, 1, batch_norm=False)
    with torch.no_grad():
        for p in gate.parameters():
            p.zero_()
        gate.fc1.weight[0, 0] = 1
        gate.fc2.weight[1, 0] = 1
        gate.fc2.bias[0] = 0.5
    return gate.eval()


def features(open_gates: list[int], channels: int, size: int, dtype: torch.dtype) -> Tensor:
    """What a ReLU would put out, with channel 0 saying which gates open."""
    x = torch.randn(len(open_gates), channels, size, size).relu()
    x[:, 0] = torch.tensor(open_gates, dtype=torch.float32)[:, None, None]
    return x.to(dtype)


def conv_branch(channels: int, width: int) -> nn.Sequential:
    """The branch of a bottleneck block, with a norm whose every number matters."""
    layers = [
        nn.Conv2d(channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean):
                tensor.normal_()
    return nn.Sequential(*layers)


def gated(
    channels: int = 8, width: int = 6, *, mode: str = "gather", **options: object
) -> GatedResidual:
    torch.manual_seed(0)
    branch = options.pop("branch", None) or conv_branch(channels, width)
    return GatedResidual(branch, first_channel_gate(channels), mode=mode, **options).eval()


def accept_all(block: GatedResidual, x: Tensor) -> None:
    """A calibration by which every number of rows below the batch is cheaper than it."""
    sizes = list(range(1, len(x) + 1))
    block.set_calibration({cost_key(x): {"buckets": sizes, "seconds": [float(s) for s in sizes]}})
