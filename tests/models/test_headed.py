"""A trunk below structurally connected layers: what is read, and the loss of pictures."""

import pytest
import torch
from torch import nn

from fastheads.labels import Grouping
from fastheads.losses import sigmoid_cross_entropy
from fastheads.models import HeadedNetwork, feature_shape, small_trunk
from fastheads.nn import Standardize, fc_sc
from fastheads.targets import SparseTargets

GROUPING = Grouping([0, 1, 0, 1, 1])


def network():
    torch.manual_seed(0)
    return HeadedNetwork(
        small_trunk(1, (4, 6)), Standardize(6), fc_sc(6 * 4, 8, 3, GROUPING)
    ).eval()


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 16, 8)])
def test_shape_of_features(shape):
    trunk = small_trunk(1, (4, 6)).train()
    before = [buffer.clone() for buffer in trunk.buffers()]
    assert feature_shape(trunk, shape) == (6, shape[1] // 4, shape[2] // 4)
    assert trunk.training
    assert all(torch.equal(a, b) for a, b in zip(before, trunk.buffers(), strict=True))


def test_is_head_of_standardized_features():
    student = network()
    images = torch.randn(7, 1, 8, 8)
    trunk = student.trunk(images)
    student.standardize.measure(trunk.detach())
    features = student.standardize(trunk).flatten(1)
    assert abs(float(features.mean())) < 1e-5
    torch.testing.assert_close(student.features(images), features)
    torch.testing.assert_close(student(images), student.head(features))
    given = HeadedNetwork(nn.Identity(), student.standardize, student.head)
    torch.testing.assert_close(given(trunk), student(images))


def test_loss_of_pictures_is_the_cross_entropy_of_the_logits_equation_2():
    student = network()
    images = torch.randn(3, 1, 8, 8)
    targets = SparseTargets(
        torch.tensor([0, 3, 4, 1]), torch.tensor([0, 2, 3, 4]), torch.tensor([0.9, 0.2, 1.0, 0.5])
    )
    loss = student.loss(images, targets)
    torch.testing.assert_close(loss, sigmoid_cross_entropy(student(images), targets))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
