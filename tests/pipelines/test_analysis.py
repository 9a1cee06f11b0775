"""Latency, and pictures for labels; the rest is read back from whole runs."""

import time

import pytest
import torch

from fastheads.pipelines.analysis import measure_latency


def test_latency_is_that_of_a_warm_call():
    seen = []

    def run(batch):
        seen.append(len(batch))
        time.sleep(0.05 if seen.count(len(batch)) <= 5 else 0.002)  # slow until it is warm

    found = measure_latency(run, torch.zeros(32, 3), sizes=(1, 8))
    assert set(found) == {"1", "8"}
    assert seen == [1] * 35 + [8] * 35
    assert all(2 <= milliseconds < 50 for milliseconds in found.values())


def test_latency_of_a_slow_network_is_measured_less_often():
    seen = []

    def run(batch):
        seen.append(len(batch))
        time.sleep(0.02)

    measure_latency(run, torch.zeros(4, 3), sizes=(2,), seconds=0.2)
    assert 6 <= len(seen) <= 10
    seen.clear()
    measure_latency(run, torch.zeros(4, 3), sizes=(2,), seconds=0.01)
    assert len(seen) == 6


def test_latency_needs_no_gradient():
    found = []
    measure_latency(lambda batch: found.append(torch.is_grad_enabled()), torch.zeros(1, 1), (1,))
    assert found == [False] * 35
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("row", ["a", "b"])
def test_mean_over_seeds(row):
    from fastheads.pipelines.analysis import _mean_over_seeds

    seeds = [
        [{"grouping": row, "groups": 2, "of": 5, "top1": 0.4, "macs": 100}],
        [{"grouping": row, "groups": 2, "of": 5, "top1": 0.6, "macs": 103}],
    ]
    (found,) = _mean_over_seeds(seeds)
    assert (found["grouping"], found["groups"], found["of"]) == (row, 2, 5)
    assert found["top1"] == pytest.approx(0.5)
    assert found["top1_std"] == pytest.approx(0.2 / 2**0.5)
    assert found["macs"] == 101 and isinstance(found["macs"], int)
    assert _mean_over_seeds(seeds[:1])[0]["top1_std"] == 0
