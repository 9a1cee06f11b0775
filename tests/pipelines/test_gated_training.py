"""Training of gated networks: the loss of a batch, rates along the training, stop and resume."""

import pickle
from dataclasses import replace
from functools import partial

import pytest
import tiny
import torch

from fastheads.data import Augmentation
from fastheads.losses import softmax_cross_entropy
from fastheads.nn import StochasticDepth, gate_model, gated_blocks, record_gates
from fastheads.pipelines.gated_training import (
    GatedTask,
    GatesConfig,
    NetworkConfig,
    WithLoss,
    copied,
)
from fastheads.targets import SparseTargets
from fastheads.training.checkpoint import load

NETWORK = NetworkConfig(blocks=(1, 2), widths=(4, 8))


def task(data, folder, row="adaptive_50", make=None, **changes):
    settings = {
        "target": 0.5,
        "soft": False,
        "stochastic_depth": False,
        "gates": GatesConfig(hidden=4),
        "training": replace(tiny.STEPS, epochs=2, log_every=3),
        "augmentation": Augmentation(),
        "pictures": data.train,
        **changes,
    }
    make = make or partial(NETWORK.build, 1, data.num_labels)
    return GatedTask(row, 0, make, folder=folder, **settings)


def test_loss_is_cross_entropy_and_target_rate(data):
    """Eq. 5.9, with the decisions that were made, summed over the gates (5.8)."""
    torch.manual_seed(0)
    network = NETWORK.build(1, data.num_labels)
    gate_model(network, hidden=4)
    config = GatesConfig(reduction="sum", weight=3.0)
    images = torch.randn(6, 1, 32, 32)
    labels = SparseTargets.from_lists([[n] for n in range(6)])
    model = WithLoss(network, [0.2, 0.5, 0.9], config, points=1)
    torch.manual_seed(1)
    loss = model(images, labels)
    model.batches.zero_()
    torch.manual_seed(1)
    with record_gates(network) as record:
        logits = network(images)
    rates = torch.stack([z.mean() for z in record.z])
    expected = softmax_cross_entropy(logits, labels) + 3 * sum(
        (rate - target) ** 2 for rate, target in zip(rates, [0.2, 0.5, 0.9], strict=True)
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(model.opened[0], rates.double().detach())


def test_rates_approach_the_target(data, tmp_path):
    training = replace(tiny.STEPS, epochs=12, batch_size=64, lr=2e-2, log_every=10)
    heavy = GatesConfig(hidden=4, reduction="sum", weight=30.0)
    network, result, trajectory = task(data, tmp_path, gates=heavy, training=training).run()
    assert trajectory.shape == (-(-result.steps // 10), 3)
    assert (trajectory[0] - 0.85).abs().max() < 0.15
    assert ((trajectory[-1] - 0.5).abs() < (trajectory[0] - 0.5).abs()).all()
    assert (trajectory[-1] - 0.5).abs().max() < 0.15
    assert not network.training and len(gated_blocks(network)) == 3


def test_killed_run_ends_in_the_same_bits(data, tmp_path):
    class Stop(Exception):
        pass

    def stop(step, loss):
        if step >= 6:
            raise Stop

    whole, _, trajectory = task(data, tmp_path / "whole").run()
    often = replace(tiny.STEPS, epochs=2, log_every=3, checkpoint_seconds=0)
    halved = partial(task, data, tmp_path / "halved", training=often)
    with pytest.raises(Stop):
        halved().run(stop)
    again, _, resumed = halved().run()
    assert torch.equal(trajectory, resumed)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_start_from_another_task(data, tmp_path):
    plain = task(data, tmp_path, "plain", target=None)
    network, _, trajectory = plain.run()
    assert not len(trajectory) and not gated_blocks(network)
    short = replace(tiny.STEPS, epochs=1, lr=1e-9)
    gated, _, _ = task(data, tmp_path, make=plain, training=short).run()
    for before, after in zip(network.stages.parameters(), _branches(gated), strict=True):
        torch.testing.assert_close(after, before, atol=1e-6, rtol=0)


def _branches(gated):
    for block in gated_blocks(gated).values():
        yield from block.branch.parameters()
        if block.shortcut is not None:
            yield from block.shortcut.parameters()


def test_stochastic_depth_gives_the_network_back(data, tmp_path):
    made = task(data, tmp_path, "depth", target=None, stochastic_depth=True)
    done, _, _ = made.run()
    assert type(done) is type(NETWORK.build(1, 5)) and not done.training
    # As it is evaluated within the training, all blocks open and scaled.
    inside = WithLoss(StochasticDepth(NETWORK.build(1, data.num_labels)))
    inside.load_state_dict(load(tmp_path / "training" / "depth seed 0" / "checkpoint.pt")["model"])
    images = torch.randn(4, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(done(images), inside.network.eval()(images))


def test_task_reaches_another_process(data, tmp_path):
    sent = pickle.dumps(task(data, tmp_path))
    assert len(sent) < 100_000
    received = pickle.loads(sent)
    assert received.name == "adaptive_50, seed 0" and received.steps == task(data, tmp_path).steps
    network = NETWORK.build(1, 5)
    copy = pickle.loads(pickle.dumps(copied(network)))()
    assert torch.equal(copy.classifier.weight, network.classifier.weight)


def test_targets_of_gates():
    assert GatesConfig().targets(0.6, 3) == [0.6, 0.6, 0.6]
    assert GatesConfig(rates=(1.0, None, 0.8)).targets(0.6, 3) == [1.0, 0.6, 0.8]
    with pytest.raises(ValueError, match="rates must hold one for each of the 3 gates, got 2"):
        GatesConfig(rates=(1.0, None)).targets(0.6, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight must be at least 0, got -1.0"),
        ({"lr_factor": 0.0}, "lr_factor must be above 0, got 0.0"),
        ({"rates": (None, 1.5)}, "rates must be above 0 and at most 1, got 1.5"),
    ],
)
def test_gates_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GatesConfig(**settings)


def test_networks():
    assert NetworkConfig("resnet110").build(3, 10).classifier.out_features == 10
    with pytest.raises(ValueError, match="model resnet50 takes pictures of 3 channels, got 1"):
        NetworkConfig("resnet50").build(1, 10)
    with pytest.raises(ValueError, match="for pre-activation, got 'torchvision:resnet18'"):
        NetworkConfig("torchvision:resnet18").build(3, 10, preactivation=True)
    with pytest.raises(ValueError, match=r"network\.model must be small, resnet110, resnet50"):
        NetworkConfig("resnet").build(3, 10)
