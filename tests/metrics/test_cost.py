import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import flop_registry

import fastheads.nn
from fastheads.metrics import cost_ratio, count_bytes, count_macs, count_parameters
from fastheads.ops import (
    active_samples,
    multilabel_margin,
    sc_sigmoid_loss_logits_,
    topk_co_detection_,
    topk_confusion_,
    topk_indices,
)
from fastheads.targets import SparseTargets


@pytest.mark.parametrize(
    "module, shape, macs",
    [
        (nn.Linear(30, 7), (1, 30), 30 * 7),
        (nn.Linear(30, 7, bias=False), (4, 30), 4 * 30 * 7),
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 8 * 3 * 9 * 10 * 12),
        (nn.Conv2d(6, 8, 3, stride=2, bias=False), (2, 6, 9, 9), 2 * 8 * 6 * 9 * 4 * 4),
        (nn.Conv2d(8, 12, 3, groups=4), (1, 8, 6, 6), 12 * 2 * 9 * 4 * 4),
        (nn.Conv2d(8, 8, 5, groups=8, padding=2), (1, 8, 6, 6), 8 * 25 * 6 * 6),
    ],
)
def test_by_formula(module, shape, macs):
    assert count_macs(module, torch.zeros(shape)) == macs


class Batched(nn.Module):
    def forward(self, a, b):
        return torch.bmm(a, b)


def test_batched_product():
    assert count_macs(Batched(), torch.zeros(5, 2, 3), torch.zeros(5, 3, 4)) == 5 * 2 * 3 * 4


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.cheap, self.dear = nn.Linear(4, 2), nn.Linear(4, 100)

    def forward(self, x):
        return self.dear(x) if x.sum() > 0 else self.cheap(x)


def test_counts_what_is_executed():
    model = Conditional().train()
    assert count_macs(model, torch.ones(1, 4)) == 400
    assert count_macs(model, -torch.ones(1, 4)) == 8
    assert model.training and model.cheap.training


def test_evaluates_batch_norm_of_one_image():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).train()
    model[1].eval()
    assert count_macs(model, torch.zeros(1, 4)) == 4 * 3 + 3 * 2
    assert [module.training for module in model] == [True, False, True, True]


def test_parameters():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    assert count_parameters(model) == 4 * 3 + 3 + 3 * 2 + 2
    model[0].requires_grad_(False)
    assert count_parameters(model, trainable_only=True) == 8
    model.append(model[1])
    assert count_parameters(model) == 23


def test_ratio():
    """The paper's best network: 1.56 billion multiply-adds on 1.52 billion."""
    assert cost_ratio(1_560_000_000, 1_520_000_000) == "1.026x"


def conv(module, side):
    """Multiply-adds of a convolution whose output is ``side`` wide and high, by its formula."""
    kernel = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
    return side * side * module.out_channels * kernel


def test_resnet18_layer_by_layer_and_as_published():
    """1.814 billion at 224 x 224, as torchvision states for its weights."""
    net = torchvision.models.resnet18()
    macs = conv(net.conv1, 112) + net.fc.in_features * net.fc.out_features
    for stage, side in ((net.layer1, 56), (net.layer2, 28), (net.layer3, 14), (net.layer4, 7)):
        for block in stage:
            macs += conv(block.conv1, side) + conv(block.conv2, side)
            macs += conv(block.downsample[0], side) if block.downsample else 0
    counted = count_macs(net, torch.zeros(1, 3, 224, 224))
    assert counted == macs
    published = torchvision.models.ResNet18_Weights.DEFAULT.meta["_ops"]
    assert published == 1.814 and round(counted / 1e9, 3) == published


def vgg(inplace):
    """As Simonyan and Zisserman's: pairs of 3 x 3 convolutions, pooling, fully connected layers."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * 6 * 6, 20), nn.ReLU(inplace), nn.Dropout(), nn.Linear(20, 5),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("inplace", [True, False])
def test_vgg_by_layer_arithmetic(inplace, dtype):
    images, model = 2, vgg(inplace).to(dtype)
    x = torch.zeros(images, 3, 12, 12, dtype=dtype)
    plane = 12 * 12
    assert count_macs(model, x) == images * (8 * 27 * plane + 8 * 72 * plane + 288 * 20 + 20 * 5)

    wide, pooled = images * 8 * plane, images * 8 * 36
    elements = images * 3 * plane + (8 * 27 + 8) + wide  # first convolution: in, weights, out
    elements += wide + (8 * 72 + 8) + wide
    elements += 2 * 2 * wide  # two activations: read and written, in place or not
    elements += wide + pooled
    elements += images * 288 + (288 * 20 + 20) + images * 20
    elements += 2 * images * 20
    elements += images * 20 + (20 * 5 + 5) + images * 5
    indices = 8 * pooled  # max pooling writes where its maxima were
    assert count_bytes(model, x) == elements * dtype.itemsize + indices


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.reduce, self.expand = nn.Linear(16, 4), nn.Linear(4, 16)

    def forward(self, x):
        s = self.expand(self.reduce(x.mean((2, 3))).relu()).sigmoid()
        return x * s[:, :, None, None]


def test_squeeze_excite_by_hand():
    x = torch.zeros(2, 16, 5, 5)
    macs, image, vector, hidden = 2 * 2 * 16 * 4, 2 * 16 * 25, 2 * 16, 2 * 4
    assert count_macs(SqueezeExcite(), x) == macs
    elements = image + vector  # mean
    elements += vector + (64 + 4) + hidden + 2 * hidden + hidden + (64 + 16) + vector
    elements += 2 * vector  # sigmoid
    elements += image + vector + image  # scaling
    assert count_bytes(SqueezeExcite(), x) == 4 * elements


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


X = torch.arange(24.0).reshape(4, 6)
ROWS = torch.tensor([2, 0, 2])


@pytest.mark.parametrize(
    "function, moved",
    [
        (lambda x: x.T.reshape(-1, 2)[:1], 2 * 96),  # the copy, not the views
        (lambda x: x.view(2, 12).chunk(2), 0),
        (lambda x: x + x, 2 * 96),  # one tensor, read once
        (lambda x: x[:2] + x[2:], 96 + 48),
        (lambda x: x[:1].expand(4, 6) + 1, 24 + 96),
        (lambda x: torch.empty_like(x), 0),
        (lambda x: torch.zeros_like(x), 96),
        (lambda x: torch.empty_like(x).copy_(x), 2 * 96),
        (lambda x: x.clone().add_(1), 2 * 96 + 2 * 96),
        (lambda x: torch.exp(x, out=torch.empty_like(x)), 2 * 96),
        (lambda x: x[ROWS], 24 + 2 * 72),
        (lambda x: x.index_select(0, ROWS), 24 + 2 * 72),
        (lambda x: nn.functional.embedding(ROWS, x), 24 + 2 * 72),
        (lambda x: x.gather(1, ROWS[None]), 24 + 2 * 12),
        (lambda x: x[:0] * 2, 0),
        (lambda x: x.max(1), 96 + 4 * (4 + 8)),
    ],
)  # fmt: skip
def test_bytes_of_one_operation(function, moved):
    assert count_bytes(Calls(function), X) == moved


def test_bytes_of_counts_are_those_of_their_cells():
    """Not the whole matrix of 50 x 50, unless all of it may be touched."""
    counts = torch.zeros(50, 50, dtype=torch.int32)
    scores = torch.rand(4, 50)
    top = topk_indices(scores, 3)
    assert count_bytes(Calls(lambda x: topk_indices(x, 3)), scores) == 4 * 50 * 4 + 4 * 3 * 8
    pairs = 4 * 3 * 4 // 2
    assert count_bytes(Calls(topk_co_detection_), counts, top) == 8 * top.numel() + 2 * 4 * pairs
    indices, offsets = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 2, 3, 4, 5])
    moved = count_bytes(Calls(topk_confusion_), counts, top, indices, offsets)
    assert moved == 8 * (12 + 5 + 5) + 2 * 4 * 3 * 5
    few = torch.zeros(3, 3, dtype=torch.int64)
    top = torch.arange(3).expand(100, 3).contiguous()
    assert count_bytes(Calls(topk_co_detection_), few, top) == 8 * 300 + 2 * 8 * 6


def test_operators_that_count_have_no_multiply_adds():
    """But a formula, so that nobody wonders whether they were forgotten."""
    for name in ("topk_indices", "topk_confusion_", "topk_co_detection_"):
        assert getattr(torch.ops.fastheads, name) in flop_registry
    scores, counts = torch.rand(4, 50), torch.zeros(50, 50, dtype=torch.int64)
    top, targets = topk_indices(scores, 3), SparseTargets.from_lists([[0], [2, 9], [], [7]])
    for call in (
        lambda: topk_indices(scores, 3),
        lambda: topk_co_detection_(counts, top),
        lambda: topk_confusion_(counts, top, targets.indices, targets.offsets),
        lambda: active_samples(scores[0]),
        lambda: multilabel_margin(scores, targets),
        lambda: sc_sigmoid_loss_logits_(scores.clone(), targets, [0, 20, 50]),
    ):
        assert count_macs(Calls(call)) == 0


def test_counting_leaves_the_mode():
    model = vgg(inplace=True).train()
    model[0].eval()
    count_bytes(model, torch.zeros(1, 3, 12, 12))
    assert model.training and not model[0].training and model[1].training


def test_squeeze_excite_fused():
    """The operator does the multiply-adds of its layers, and moves its input and output once."""
    fused = fastheads.nn.SqueezeExcite(16, rd_channels=4)
    x, weights = torch.zeros(2, 16, 5, 5), 2 * 16 * 4 + 4 + 16
    image, saved = 2 * 16 * 25, 2 * 2 * 16  # kept for the gradient: means and gates
    assert count_macs(fused, x) == count_macs(SqueezeExcite(), x) == 2 * 2 * 16 * 4
    assert count_bytes(fused, x) == 4 * (image + weights + image + saved)
    assert count_bytes(fused, x) < count_bytes(SqueezeExcite(), x)
