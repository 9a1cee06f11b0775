"""Outputs of a frozen network: what is computed, and how it is packed into rows."""

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from fastheads.data import Augmentation, Normalize
from fastheads.labels import Grouping
from fastheads.losses import sigmoid_cross_entropy, softmax_cross_entropy
from fastheads.nn import AugmentedClassifier, GroupHeads
from fastheads.pipelines import frozen as module
from fastheads.pipelines.frozen import FrozenRows, OnFrozen, augmented_batches, extract
from fastheads.targets import SparseTargets


class Pictures:
    """Random pictures, one label each."""

    def __init__(self, rows):
        generator = torch.Generator().manual_seed(rows)
        self.images = torch.randint(0, 256, (rows, 1, 8, 8), generator=generator).byte()
        self.targets = SparseTargets.from_lists([[row % 5] for row in range(rows)])

    def __len__(self):
        return len(self.images)

    def __getitems__(self, rows):
        return self.images[rows], self.targets.select(torch.tensor(rows))


class Two(nn.Module):
    """Gives a map and a vector; random in training mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(1, 3, 3), nn.Dropout(0.5)

    def forward(self, images):
        out = self.drop(self.conv(images))
        return out, out.flatten(2).mean(2)


@pytest.fixture(params=[5, 7, 20])
def batch(request, monkeypatch):
    """Batches that the 20 pictures fill, fill unevenly, and do not fill."""
    monkeypatch.setattr(module, "BATCH", request.param)
    return request.param


def test_pictures_as_they_are(batch):
    network, data = Two().train(), Pictures(20)
    features, means = extract(network, data, 0, Augmentation(), seed=0, title="")
    with torch.no_grad():
        inputs = Normalize()(data.images)
        expected = network.conv(inputs)
    assert features.shape == (1, 20, 3, 6, 6) and means.shape == (1, 20, 3)
    torch.testing.assert_close(features[0], expected)
    torch.testing.assert_close(means[0], expected.flatten(2).mean(2))


def test_augmented_passes(batch):
    network, data = Two(), Pictures(20)
    features, means = extract(network, data, 3, Augmentation(), seed=4, title="")
    assert features.shape == (3, 20, 3, 6, 6)
    torch.testing.assert_close(means, features.flatten(3).mean(3))
    plain = extract(network, data, 0, Augmentation(), seed=4, title="")[0]
    for one, other in ((0, 1), (0, 2), (1, 2)):  # every pass draws anew
        assert not torch.allclose(features[one], features[other])
    assert not any(torch.allclose(each, plain[0]) for each in features)
    again = extract(network, data, 3, Augmentation(), seed=4, title="")[0]
    assert torch.equal(again, features)
    assert not torch.equal(extract(network, data, 3, Augmentation(), seed=5, title="")[0], features)


def test_without_augmentation_all_passes_agree(batch):
    still = Augmentation(degrees=0, translate=0, scale=(1, 1), shear=0, blur=0, contrast=0, noise=0)
    (features,) = extract(nn.Flatten(), Pictures(20), 2, still, seed=0, title="")
    (plain,) = extract(nn.Flatten(), Pictures(20), 0, still, seed=0, title="")
    torch.testing.assert_close(features, plain.expand(2, -1, -1), rtol=0, atol=1e-4)


def test_batches_cover_every_row_of_every_pass(batch):
    frozen = tiny.frozen(rows=20, passes=3)
    seen = [(features, hidden, rows) for features, hidden, rows in frozen.batches()]
    assert max(len(rows) for *_, rows in seen) == batch
    assert torch.cat([rows for *_, rows in seen]).tolist() == list(range(20)) * 3
    assert torch.equal(torch.cat([f for f, *_ in seen]), frozen.features.flatten(0, 1))
    assert torch.equal(torch.cat([h for _, h, _ in seen]), frozen.hidden.flatten(0, 1))
    first = list(frozen.batches(first_pass_only=True))
    assert torch.equal(torch.cat([f for f, *_ in first]), frozen.features[0])


@pytest.mark.parametrize("shape", [(6,), (2, 3, 2)])
def test_rows_hold_features_and_hidden_units(shape):
    frozen = tiny.frozen(rows=20, passes=3, feature_shape=shape)
    rows = FrozenRows(frozen)
    assert len(rows) == 60
    picked = [3, 59, 20, 3]
    packed, targets = rows.__getitems__(picked)
    for packed_row, labels, number in zip(packed, targets.tolist(), picked, strict=True):
        step, row = divmod(number, 20)
        expected = torch.cat([frozen.features[step, row].flatten(), frozen.hidden[step, row]])
        assert torch.equal(packed_row, expected)
        assert labels == frozen.targets.tolist()[row]


def with_heads(rounds, shape=(2, 3, 2)):
    torch.manual_seed(0)
    groups = [np.array([0, 1, -1, 0, 2, 2, 1, 0, 0, -1, 2, 1]), np.arange(12) % 4]
    heads = [GroupHeads(shape, Grouping(g), [[3]] * (max(g) + 1), 2) for g in groups[:rounds]]
    for each in heads:
        for output in each.outputs:
            nn.init.normal_(output.weight)
    return AugmentedClassifier(nn.Linear(5, 12), heads).double()


@pytest.mark.parametrize("loss", [sigmoid_cross_entropy, softmax_cross_entropy])
@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_loss_in_group_order_is_the_loss(rounds, loss):
    """Value and gradients equal those of the plain order of labels."""
    frozen = tiny.frozen(rows=20, feature_shape=(2, 3, 2))
    top = with_heads(rounds)
    packed, targets = FrozenRows(frozen).__getitems__(list(range(40)))
    ordered = OnFrozen(top, frozen.feature_shape)
    value = ordered.loss(loss)(ordered(packed.double()), targets)
    features, hidden = frozen.features.flatten(0, 1).double(), frozen.hidden.flatten(0, 1).double()
    expected = loss(top(features, hidden), targets)
    torch.testing.assert_close(value, expected)
    parameters = list(top.parameters())
    for got, wanted in zip(
        torch.autograd.grad(value, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_layers_between_features_and_classifier():
    frozen = tiny.frozen(rows=20, feature_shape=(2, 3, 2), hidden=0)
    stack = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    top = AugmentedClassifier(nn.Linear(5, 12))
    packed, _ = FrozenRows(frozen).__getitems__([0, 7])
    expected = top.classifier(stack(frozen.features[0, [0, 7]]))
    torch.testing.assert_close(OnFrozen(top, (2, 3, 2), stack)(packed), expected)


def test_augmented_pictures_come_out_again_from_any_block_on(batch):
    data, augmentation = Pictures(20), Augmentation()
    blocks = list(augmented_batches(data, 2, augmentation, seed=3))
    again = list(augmented_batches(data, 2, augmentation, seed=3, start=20))
    assert sum(len(images) for images, _ in blocks) == 40
    assert len(again) == len(blocks) // 2
    for (images, targets), (others, same) in zip(blocks[-len(again) :], again, strict=True):
        assert torch.equal(images, others)
        assert targets.tolist() == same.tolist()
    both = torch.cat([images for images, _ in blocks])
    assert not torch.equal(both[:20], both[20:])
    labels = [row for _, targets in blocks for row in targets.tolist()]
    assert labels == data.targets.tolist() * 2
    other = next(augmented_batches(data, 2, augmentation, seed=4))[0]
    assert not torch.equal(other, blocks[0][0])
