"""Guards against forgetting: distillation by hand, averaging, the old pictures that are kept."""

import pickle
from collections import Counter

import numpy as np
import patterns
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastheads.losses import multilabel_margin
from fastheads.pipelines.guards import (
    Distilled,
    GuardsConfig,
    Joined,
    average_weights,
    distillation_loss,
    join_targets,
    replay_buffer,
)
from fastheads.targets import SparseTargets


def test_distillation_by_hand():
    """Labels 1, 2 and 3 moved by 3, 0 and 0: by 2, -1 and -1 about their mean; label 0 is new."""
    before = torch.zeros(1, 4)
    logits = torch.tensor([[7.0, 3.0, 0.0, 0.0]], requires_grad=True)
    loss = distillation_loss(logits, before, SparseTargets.from_lists([[0]]))
    loss.backward()
    assert loss.item() == pytest.approx((4 + 1 + 1) / (2 * 3))
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 2 / 3, -1 / 3, -1 / 3]]))


def test_distillation_is_the_limit_of_softened_cross_entropy():
    """Li and Hoiem, eqs. 2-4, over labels that no picture carries, times T^2, less its least."""
    torch.manual_seed(0)
    logits = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    before = torch.randn(5, 9, dtype=torch.float64)
    labels = SparseTargets.from_lists([[8]] * 5)
    temperature = 1e4
    softened = (before[:, :8] / temperature).softmax(1)
    entropy = (logits[:, :8] / temperature).log_softmax(1) - softened.log()
    divergence = -(softened * entropy).sum(1).mean()
    expected = torch.autograd.grad(temperature**2 * divergence, logits)[0]
    loss = distillation_loss(logits, before, labels)
    torch.testing.assert_close(loss, temperature**2 * divergence, rtol=1e-3, atol=0)
    gradient = torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_distillation_of_no_movement_and_of_no_label_left():
    logits = torch.randn(3, 4)
    targets = SparseTargets.from_lists([[], [1], [0, 1, 2, 3]])
    assert distillation_loss(logits, logits + 5.0, targets).item() == pytest.approx(0, abs=1e-10)
    moved = distillation_loss(logits, torch.randn(3, 4), targets._replace())
    alone = distillation_loss(logits[2:], torch.randn(1, 4), SparseTargets.from_lists([range(4)]))
    assert moved > 0 and alone == 0


def test_distilled_from_the_network_as_it_predicted():
    """In training too: running statistics, which stay, and no dropout."""
    network = nn.Sequential(patterns.network(), nn.Dropout(0.5))
    images = patterns.normalize(torch.from_numpy(patterns.base(8).images))
    targets, guards = patterns.base(8).targets, GuardsConfig(distillation=2.0)
    model = Distilled(network, lambda logits, targets: logits.sum() * 0, guards).train()
    before = patterns.state(model.before)
    with torch.no_grad():
        expected = network.eval()(images)
        torch.manual_seed(0)
        loss = model.train()(images, targets)
        torch.manual_seed(0)
        moved = network.train()(images)
    torch.testing.assert_close(loss, 2 * distillation_loss(moved, expected, targets))
    assert patterns.same(before, patterns.state(model.before)) and loss > 0


def test_distillation_in_half_precision():
    logits = torch.randn(4, 6).to(torch.bfloat16).requires_grad_()
    before = torch.randn(4, 6).to(torch.bfloat16)
    targets = SparseTargets.from_lists([[n] for n in range(4)])
    loss = distillation_loss(logits, before, targets)
    expected = distillation_loss(logits.double(), before.double(), targets)
    assert loss.dtype == torch.float32 and expected.dtype == torch.float64
    torch.testing.assert_close(loss.double(), expected)


def test_average_by_hand():
    network = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    before = {key: torch.zeros_like(tensor) for key, tensor in network.state_dict().items()}
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[4.0, -8.0]]))
    network[1].running_var.fill_(2.0)
    network[1].num_batches_tracked.fill_(7)
    average_weights(network, before, 0.25)
    assert network[0].weight.tolist() == [[3.0, -6.0]]
    assert network[1].running_var.item() == 1.5
    assert network[1].num_batches_tracked.item() == 7


def test_average_of_tied_weights():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    before = {key: torch.zeros_like(tensor) for key, tensor in network.state_dict().items()}
    nn.init.ones_(network[0].weight)
    average_weights(network, before, 0.5)
    assert network[1].weight.tolist() == [[0.5, 0.5]] * 2


def test_frozen_modules():
    network = nn.Sequential()
    network.add_module("stem", nn.Linear(1, 1))
    network.add_module("stages", nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1)))
    frozen = GuardsConfig(freeze=("stem", "stages.1")).frozen(network, batch=16)
    assert frozen == [network.stem, network.stages[1]]
    assert GuardsConfig(freeze_norms=True).frozen(network, batch=16) == [network.stages[0]]
    assert GuardsConfig().frozen(network, batch=7) == [network.stages[0]]
    with pytest.raises(ValueError, match=r"such as \['stem', 'stages'\], got 'stages.2'"):
        GuardsConfig(freeze=("stages.2",)).frozen(network, batch=16)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 45), st.integers(0, 3))
def test_replay_is_even_over_labels(labels, count, seed):
    data = patterns.dataset([[n] for n in labels] or [[0]])
    kept = replay_buffer(data, count, seed)
    assert len(kept) == min(count, len(data))
    there, taken = Counter(data.targets.indices.tolist()), Counter(kept.targets.indices.tolist())
    most = max(taken.values(), default=0)
    # A label has one less than the most only by chance, and fewer only if it has no more.
    assert all(taken[label] >= min(there[label], most - 1) for label in there)
    rows = kept.rows.tolist()
    assert rows == sorted(set(rows))
    assert kept.targets.tolist() == [data.targets.tolist()[row] for row in rows]


def test_replay_of_a_seed():
    data = patterns.base(60)
    rows = [replay_buffer(data, 12, seed).rows.tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
    assert Counter(replay_buffer(data, 12, 0).targets.indices.tolist()) == dict.fromkeys(
        range(6), 2
    )
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        replay_buffer(data, -1, 0)


def test_replay_counts_the_rarest_of_several_labels():
    """Label 5 occurs once, beside a frequent one; and a picture has no label."""
    data = patterns.dataset([*([[0]] * 9), [0, 5], [1], []])
    assert sorted(replay_buffer(data, 3, 0).targets.tolist())[1:] == [[0, 5], [1]]
    assert len(replay_buffer(data, 12, 0)) == 12


@pytest.mark.parametrize("rows", [[0, 1, 2], [9, 0, 8, 3, 8], [7, 9], [2], []])
def test_joined_batches(rows):
    first, second = patterns.base(7), patterns.mixed(3)
    joined = pickle.loads(pickle.dumps(Joined(first, second)))
    assert len(joined) == 10
    images, targets = joined.__getitems__(rows)
    whole = np.concatenate([first.images, second.images])
    assert np.array_equal(images.numpy(), whole[rows])
    labels = first.targets.tolist() + second.targets.tolist()
    assert targets.tolist() == [labels[row] for row in rows]


def test_joined_pictures_have_one_shape():
    small = patterns.base(2)
    small.images = small.images[:, :, :4]
    with pytest.raises(ValueError, match=r"replay must hold pictures of shape \[1, 8, 8\], got"):
        Joined(patterns.base(2), small)


def test_joined_targets_keep_their_weights():
    plain = SparseTargets.from_lists([[0, 2]])
    soft = SparseTargets.from_lists([[1]])._replace(values=torch.tensor([0.5]))
    assert join_targets(plain, soft).values.tolist() == [1.0, 1.0, 0.5]
    assert join_targets(plain, plain).values is None


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lr_factor": 0.0}, "lr_factor must be above 0, got 0.0"),
        ({"distillation": -1.0}, "distillation must be at least 0, got -1.0"),
        ({"replay": -1}, "replay must be at least 0, got -1"),
        ({"passes": -1}, "passes must be at least 0, got -1"),
        ({"polyak": 1.0}, "polyak must be between 0 and 1, got 1.0"),
        ({"averaging": 1.5}, "averaging must be between 0 and 1, got 1.5"),
    ],
)
def test_config_rejects(settings, message):
    with pytest.raises(ValueError, match=message):
        GuardsConfig(**settings)


def test_frozen_layers_run_once_for_the_network_and_what_it_was():
    """With the same loss and gradients as if they had run twice."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)),
    )
    images, targets = torch.randn(3, 1, 6, 6), SparseTargets.from_lists([[0], [1, 2], [4]])
    network(images)
    network.eval()
    found = []
    for freeze in (("0", "0.1"), ()):
        guards = GuardsConfig(distillation=2.0, freeze=freeze)
        model = Distilled(network, multilabel_margin, guards)
        calls = []
        counting = network[0].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        network[1][2].weight.data.mul_(2)  # it has learned since
        network.zero_grad()
        loss = model(images, targets)
        loss.backward()
        found.append((loss.detach(), network[1][2].weight.grad.clone(), len(calls)))
        network[1][2].weight.data.div_(2)
        model.release()
        counting.remove()
        assert not network[0]._forward_hooks
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][2] == 1
