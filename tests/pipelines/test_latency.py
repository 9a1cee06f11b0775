"""Milliseconds by a clock that the networks themselves move."""

from dataclasses import asdict

import pytest
import torch
from torch import nn

from fastheads.nn import Gate, GatedResidual
from fastheads.nn.gated_cost import GatherCosts, cost_key
from fastheads.pipelines import latency as module
from fastheads.pipelines.latency import calibrate_alike, latency

IMAGES = torch.arange(40.0).view(40, 1, 1, 1)


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def taking(clock, seconds, calls=None):
    """A network that takes ``seconds(batch)`` and notes what it is given."""

    def network(batch):
        clock.now += seconds(batch)
        if calls is not None:
            calls.append(batch.flatten().tolist())

    return network


def test_latency_by_hand(clock):
    """Image i takes i ms: of 40 images the quartiles are 9.75, 19.5 and 29.25."""
    network = taking(clock, lambda batch: batch.sum().item() / 1000)
    found = latency({"a": network}, IMAGES, (1, 8), calls=40)
    assert found["a"]["1"] == pytest.approx({"low": 9.75, "ms": 19.5, "high": 29.25})
    # Five batches of 8, each again and again: an image of theirs takes their mean.
    assert found["a"]["8"] == pytest.approx({"low": 11.5, "ms": 19.5, "high": 27.5})


def test_networks_take_turns_on_the_same_batches(clock):
    turns = []
    networks = {
        name: (lambda batch, name=name: turns.append((name, batch.flatten().tolist())))
        for name in "abc"
    }
    latency(networks, IMAGES, (2,), calls=20)
    both = turns[-2 * 3 * 20 :]  # each timed call follows one of the same network
    untimed, timed = both[::2], both[1::2]
    assert [name for name, _ in untimed] == [name for name, _ in timed]
    assert untimed[3:6] == [(name, timed[0][1]) for name, _ in timed[3:6]]  # of the batch before
    rounds = [timed[start : start + 3] for start in range(0, len(timed), 3)]
    for each in rounds:
        assert {name for name, _ in each} == set("abc")
        assert len({tuple(batch) for _, batch in each}) == 1
    assert {each[0][0] for each in rounds} == set("abc")  # each comes first at times
    assert sorted(image for each in rounds for image in each[0][1]) == list(range(40))


def test_batches_of_one_go_over_different_images(clock):
    calls = []
    latency({"a": taking(clock, lambda batch: 0.001, calls)}, IMAGES, (1,), calls=10)
    timed = [image for (image,) in calls[-2 * 10 :][1::2]]
    assert len(set(timed)) == 10 and min(timed) == 0 and max(timed) == 39


def test_few_images_begin_again(clock):
    calls = []
    latency({"a": taking(clock, lambda batch: 0.001, calls)}, IMAGES[:3], (8,), calls=5)
    assert calls[-1] == [0, 1, 2, 0, 1, 2, 0, 1]


def test_warm_up_is_not_timed(clock):
    left = [50.0] * 5  # one for each of the batches
    network = taking(clock, lambda batch: left.pop() if left else 0.016)
    found = latency({"a": network}, IMAGES, (8,), calls=6)
    assert found["a"]["8"] == pytest.approx({"low": 2, "ms": 2, "high": 2})


def test_slow_networks_are_called_five_times(clock):
    calls = []
    latency({"a": taking(clock, lambda batch: 10.0, calls)}, IMAGES[:3], (1,), seconds=1)
    assert len(calls) == 3 + 2 * 5


def gated(width: int = 4) -> GatedResidual:
    """Opens where the mean of channel 0 is above 0.1."""
    branch = nn.Sequential(
        nn.Conv2d(4, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 4, 3, padding=1)
    )
    block = GatedResidual(branch, Gate(4, 1, batch_norm=False)).eval()
    with torch.no_grad():
        for parameter in block.gate.parameters():
            parameter.zero_()
        block.gate.fc1.weight[0, 0] = block.gate.fc2.weight[1, 0] = 1
        block.gate.fc2.bias[0] = 0.1
    return block


def test_no_gradients_and_gated_blocks_are_calibrated_before():
    block, seen = gated(), []
    block.register_forward_hook(
        lambda *_: seen.append((torch.is_grad_enabled(), len(block.calibration())))
    )
    images = torch.zeros(48, 4, 6, 6)
    images[32:, 0] = torch.arange(16.0)[:, None, None] % 2
    latency({"a": block}, images, (1, 16), calls=6)
    assert seen[: 3 * 6] == [(False, 0)] * 3 * 6  # one image needs no calibration
    assert seen[3 * 6 :] == [(False, 1)] * (1 + 3 + 2 * 6)


def test_blocks_of_one_kind_choose_alike():
    """By their median times, with the rows that are right for all of them."""
    wide, narrow = nn.Sequential(gated(64), gated(64), gated(64)), nn.Sequential(gated(), gated(64))
    with torch.no_grad():
        calibrate_alike([wide, narrow], torch.rand(8, 4, 6, 6))
    own, shared = narrow[0].calibration(), narrow[1].calibration()
    assert all(block.calibration() == shared for block in wide)
    assert own != shared and own.keys() == shared.keys() and len(own) == 1


def test_alike_takes_medians_and_the_rows_of_all(monkeypatch):
    measured = [
        GatherCosts((2, 4, 8), (1.0, 5.0, 9.0)),
        GatherCosts((4, 8), (4.0, 7.0)),
        GatherCosts((2, 4, 6, 8), (1.0, 3.0, 4.0, 8.0)),
    ]
    blocks = nn.Sequential(gated(), gated(), gated(), gated())
    blocks[3].mode = "dense"
    for block, costs in zip(blocks, measured, strict=False):
        monkeypatch.setattr(
            block,
            "calibrate",
            lambda x, block=block, costs=costs: block.set_calibration({cost_key(x): asdict(costs)}),
        )
    with torch.no_grad():
        calibrate_alike([blocks], torch.zeros(8, 4, 6, 6))
    for block in blocks[:3]:
        assert list(block.calibration().values()) == [{"buckets": [4, 8], "seconds": [4.0, 8.0]}]
    assert not blocks[3].calibration() and not any(b._forward_pre_hooks for b in blocks)


@pytest.mark.parametrize(
    ("networks", "images", "message"),
    [
        ({}, IMAGES[:0], "at least one image, got none"),
        ({"a": nn.Identity()}, IMAGES, "'a' must be in evaluation mode"),
    ],
)
def test_rejects(networks, images, message):
    with pytest.raises(ValueError, match=message):
        latency(networks, images)
