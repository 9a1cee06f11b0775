"""FGSM by hand, against finite differences and with gates; JPEG; accuracy under attack."""

import numpy as np
import pytest
import skipping
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fastheads.data import Normalize, eval_transform
from fastheads.nn import gated_blocks
from fastheads.ops import gate as gate_operator
from fastheads.pipelines.attack import (
    fgsm,
    gradient_sign,
    jpeg,
    perturb,
    robustness,
    uint8_batches,
)
from fastheads.targets import SparseTargets

FIRST, SECOND = SparseTargets.from_lists([[0]]), SparseTargets.from_lists([[1]])


class Linear(nn.Module):
    """``logits = weight @ pixels``."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def test_fgsm_by_hand():
    """The loss of label 0 falls with pixel 0, rises with pixel 1 and does not know pixel 2."""
    network = Linear([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).eval()
    images = torch.tensor([51, 102, 204], dtype=torch.uint8).view(1, 1, 1, 3)
    found = fgsm(network, images, FIRST, 0.1, eval_transform)
    assert found.flatten().tolist() == pytest.approx([0.2 - 0.1, 0.4 + 0.1, 0.8])
    found = fgsm(network, images, SECOND, 0.1, eval_transform)
    assert found.flatten().tolist() == pytest.approx([0.2 + 0.1, 0.4 - 0.1, 0.8])
    both = SparseTargets.from_lists([[0, 1]])  # wants 1/2 for both: pixel 1 has too much
    found = fgsm(network, images, both, 0.1, eval_transform)
    assert found.flatten().tolist() == pytest.approx([0.2 - 0.1, 0.4 + 0.1, 0.8])


def test_fgsm_stays_in_range():
    network = Linear([[1.0, 0.0], [0.0, 1.0]]).eval()
    images = torch.tensor([[0, 255]], dtype=torch.uint8).view(1, 1, 1, 2)
    assert fgsm(network, images, FIRST, 0.5, eval_transform).flatten().tolist() == [0, 1]
    assert fgsm(network, images, SECOND, 0.25, eval_transform).flatten().tolist() == [0.25, 0.75]


def test_no_epsilon_no_change():
    images = torch.arange(256).to(torch.uint8).view(4, 1, 8, 8)
    targets = SparseTargets.from_lists([[0]] * 4)
    found = fgsm(skipping.network(), images, targets, 0, eval_transform)
    assert torch.equal(255 * found, images.float())


def test_gradient_against_finite_differences():
    network, normalize = skipping.network(gated=False), Normalize((0.3,), (0.6,))
    images, targets = skipping.pictures(2), SparseTargets.from_lists([[1], [2, 4]])
    exact, x = network.double(), images.double()

    def loss(pixels):
        logs = exact((pixels / 255 - 0.3) / 0.6).log_softmax(1)
        return -(logs[0, 1] + (logs[1, 2] + logs[1, 4]) / 2)

    with torch.no_grad():
        slopes = torch.zeros_like(x)
        for place in torch.cartesian_prod(*(torch.arange(n) for n in x.shape)):
            step = torch.zeros_like(x)
            step[tuple(place)] = 1e-4
            slopes[tuple(place)] = (loss(x + step) - loss(x - step)) / 2e-4
    clear = slopes.abs() > 1e-3 * slopes.abs().max()
    assert clear.float().mean() > 0.9
    found = gradient_sign(network.float(), images, targets, normalize)
    assert torch.equal(found[clear], slopes.sign().float()[clear])


def signs_with(network, images, targets, decided):
    """The sign of the gradient, from autograd through plain PyTorch, given what gates decide."""
    pixels = images.float().requires_grad_()
    x = network.stem(eval_transform(pixels))
    for block in gated_blocks(network).values():
        gate = block.gate.fold()
        z, _ = gate_operator(x, *(p for fc in (gate.fc1, gate.fc2) for p in (fc.weight, fc.bias)))
        shortcut = x if block.shortcut is None else block.shortcut(x)
        x = (shortcut + decided(z).view(-1, 1, 1, 1) * block.branch(x)).relu()
    scores = network.classifier(network.pool(network.norm(x)))
    loss = sum(nn.functional.cross_entropy(s, t) for s, t in zip(scores, targets, strict=True))
    return torch.autograd.grad(loss, pixels)[0].sign()


def test_gates_are_constants_by_default():
    """The network as it is executed; with ``through_gates`` straight through, eq. 5.7."""
    network, images = skipping.network(), skipping.pictures(24)
    labels = torch.arange(24) % 6
    targets = SparseTargets.from_lists(labels[:, None].tolist())
    constant = signs_with(network, images, labels, torch.Tensor.detach)
    through = signs_with(network, images, labels, lambda z: z)
    assert (constant != through).float().mean() > 0.01
    found = gradient_sign(network, images, targets, eval_transform)
    assert (found == constant).float().mean() > 0.999
    found = gradient_sign(network, images, targets, eval_transform, through_gates=True)
    assert (found == through).float().mean() > 0.999


def test_network_is_left_alone():
    network, images = skipping.network(), skipping.pictures(6)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    targets = SparseTargets.from_lists([[0]] * 6)
    first = fgsm(network, images, targets, 0.1, eval_transform)
    with torch.no_grad():  # what the caller has set does not matter
        assert torch.equal(first, fgsm(network, images, targets, 0.1, eval_transform))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(block.gate._forward_hooks for block in gated_blocks(network).values())


def test_an_image_is_attacked_the_same_in_any_batch():
    network, images = skipping.network(), skipping.pictures(8)
    targets = SparseTargets.from_lists([[i % 6] for i in range(8)])
    whole = gradient_sign(network, images, targets, eval_transform)
    for i in range(8):
        rows = torch.tensor([i])
        alone = gradient_sign(network, images[rows], targets.select(rows), eval_transform)
        assert (alone == whole[rows]).float().mean() > 0.99


@pytest.mark.parametrize(
    ("images", "epsilon", "training", "message"),
    [
        (torch.zeros(1, 1, 4, 4), 0.1, False, "images must be uint8 .*, got torch.float32"),
        (torch.zeros(4, 4, dtype=torch.uint8), 0.1, False, r"images must be uint8 .*\[4, 4\]"),
        (skipping.pictures(1), -0.1, False, "epsilon must be at least 0, got -0.1"),
        (skipping.pictures(1), float("nan"), False, "epsilon must be at least 0, got nan"),
        (skipping.pictures(1), 0.1, True, "network must be in evaluation mode"),
    ],
)
def test_fgsm_rejects(images, epsilon, training, message):
    with pytest.raises(ValueError, match=message):
        fgsm(skipping.network().train(training), images, FIRST, epsilon, eval_transform)


@given(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 33), st.integers(1, 33))
def test_jpeg_keeps_shape_and_flat_pictures(count, channels, height, width):
    gray = torch.linspace(0, 1, count).view(-1, 1, 1, 1).expand(-1, channels, height, width)
    found = jpeg(gray)
    assert found.shape == gray.shape and found.dtype == torch.float32
    assert (found - gray).abs().max() <= 1.01 / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_loses_more_at_a_lower_quality(channels):
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(2, channels, 6, 5, generator=generator)
    images = nn.functional.interpolate(small, (48, 40), mode="bilinear")
    errors = [(jpeg(images, q) - images).abs().mean().item() for q in (100, 75, 20)]
    assert 0 < errors[0] < errors[1] < errors[2] < 0.05
    assert torch.equal(jpeg(images), jpeg(images, 75))
    assert torch.equal(jpeg(images)[1:], jpeg(images[1:]))  # each picture by itself


def test_jpeg_of_no_pictures():
    assert jpeg(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("shape", "quality", "message"),
    [
        ((1, 2, 8, 8), 75, r"images must be \[N, 1 or 3, H, W\], got \[1, 2, 8, 8\]"),
        ((8, 8), 75, r"images must be \[N, 1 or 3, H, W\], got \[8, 8\]"),
        ((1, 1, 8, 8), 0, "quality must be from 1 to 100, got 0"),
    ],
)
def test_jpeg_rejects(shape, quality, message):
    with pytest.raises(ValueError, match=message):
        jpeg(torch.zeros(shape), quality)


class Brighter(nn.Module):
    """Label 1 for pictures above the middle of the range."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


def test_robustness_by_hand():
    """Flat pictures change their label where epsilon is larger than their distance to 0.5."""
    levels = [30, 90, 110, 120, 140, 165, 200, 250]
    images = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 8, 8)
    test = skipping.dataset([[int(level > 127)] for level in levels], images)
    epsilons = [0.0, 0.04, 0.06, 0.1, 0.2, 0.6]  # 10.2, 15.3, 25.5, 51 and 153 of 255
    found = robustness(Brighter().eval(), test, eval_transform, epsilons, batch_size=3)
    assert found == {way: [1, 7 / 8, 6 / 8, 5 / 8, 3 / 8, 0] for way in ("direct", "jpeg")}


def test_jpeg_defends_against_a_pattern_that_it_removes():
    """Of a checkerboard of one pixel, that decides and is weak, little is left by JPEG."""
    board = ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2 - 1).float()

    class Board(nn.Module):
        def forward(self, x):
            # The mean gives label 0; the pattern outweighs it tenfold.
            score = (x * board).mean((1, 2, 3)) * 10 - x.mean((1, 2, 3))
            return torch.stack([score, -score], 1)

    images = torch.full((1, 1, 8, 8), 100, dtype=torch.uint8)
    test = skipping.dataset([[0]], images)
    found = robustness(Board().eval(), test, eval_transform, [0.0, 0.03], quality=20)
    assert found == {"direct": [1, 0], "jpeg": [1, 1]}


def test_robustness_of_a_gated_network_repeats():
    test = skipping.dataset([[i % 6] for i in range(24)])
    network = skipping.network()
    first = robustness(network, test, eval_transform, [0.0, 0.05], batch_size=8)
    assert first == robustness(network, test, eval_transform, [0.0, 0.05], batch_size=8)
    assert set(first) == {"direct", "jpeg"} and all(len(at) == 2 for at in first.values())


def test_subset_and_batches():
    test = skipping.dataset([[0], [1, 2], [3], [4], [5]])
    some = test.subset(np.array([4, 1]))
    ((images, targets),) = uint8_batches(some)
    assert torch.equal(images, torch.from_numpy(test.images[[4, 1]]))
    assert targets.tolist() == [[5], [1, 2]]
    assert [len(images) for images, _ in uint8_batches(test, 2)] == [2, 2, 1]
    assert perturb(images, torch.ones(images.shape), 2).eq(1).all()
