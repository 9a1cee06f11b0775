"""What a gated block costs: what runs is counted, timed once, and chosen by."""

import copy
import json
import math
import time

import pytest
import torch
import torch.nn.functional as F
from gated_blocks import ALL, NONE, SOME, accept_all, features, gated
from torch import Tensor, nn

from fastheads.metrics import count_macs
from fastheads.nn.gated_cost import GatherCosts, bucket_sizes, measure_costs


@pytest.mark.parametrize(
    ("open_gates", "rows"), [(NONE, 0), (SOME, 3), (ALL, 7), ([0], 0), ([1], 1)]
)
@pytest.mark.parametrize("inplace", [False, True])
def test_multiply_adds_are_those_executed(inplace, open_gates, rows):
    """By hand: convolutions of the rows that ran, gate, and x + z f where all of them did."""
    x = features(open_gates, 8, 5, torch.float32)
    block = gated(nonnegative=True, inplace=inplace)
    accept_all(block, x)
    branch = 25 * (8 * 6 + 9 * 6 * 6 + 6 * 8)
    gate = len(x) * 1 * (8 + 2)
    gated_sum = rows * 8 * 25 if rows == len(x) else 0
    assert count_macs(block, x) == rows * branch + gate + gated_sum


def test_calibration_is_not_counted():
    x = features(SOME, 8, 5, torch.float32)
    block = gated(mode="auto", nonnegative=True)
    first = count_macs(block, x)
    assert block.calibration()
    assert count_macs(block, x) == first


def test_calibration_leaves_everything_as_it_was():
    x = features(SOME, 8, 5, torch.float32)
    block, kept = gated(inplace=True), x.clone()
    state = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    random = torch.get_rng_state()
    costs = block.calibrate(x)
    assert torch.equal(x, kept) and torch.equal(random, torch.get_rng_state())
    assert block.last_executed is None
    assert all(torch.equal(tensor, state[name]) for name, tensor in block.state_dict().items())
    assert costs.buckets[-1] == 7 and len(costs.seconds) == len(costs.buckets)
    assert all(0 < s < math.inf for s in costs.seconds)


def test_calibration_is_by_shape_dtype_layout_and_threads():
    block = gated()
    x = features(SOME, 8, 5, torch.float32)
    with torch.no_grad():
        for batch in (x, x[:5], x[:, :, :4], x.to(memory_format=torch.channels_last)):
            block(batch.clone(memory_format=torch.preserve_format))
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        block(x)
        assert len(block.calibration()) == 5
        torch.set_num_threads(threads)
        block(x)
        assert len(block.calibration()) == 5
        block.double()(x.double())
    assert len(block.calibration()) == 6


def test_calibration_is_kept_and_forgotten():
    x = features(SOME, 8, 5, torch.float32)
    block, other = gated(), gated()
    block.calibrate(x)
    state = json.loads(json.dumps(block.calibration()))
    other.set_calibration(state)
    assert json.loads(json.dumps(other.calibration())) == state
    assert copy.deepcopy(block).calibration() == block.calibration()
    assert not any("cost" in name for name in block.state_dict())
    assert block.eval().calibration()
    assert not block.train().calibration()
    other.load_state_dict(gated().state_dict())
    assert not other.calibration()


class Whole(nn.Module):
    """A branch whose samples depend on each other."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class BySize(nn.Module):
    """A branch that sums in another order for fewer than three samples."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x * (1.0 if len(x) >= 3 else 1.0 + 2**-20))


@pytest.mark.parametrize(("branch", "buckets"), [(Whole(), [7]), (BySize(), [3, 4, 5, 6, 7])])
def test_rows_of_other_bits_are_not_taken(branch, buckets):
    block = gated(branch=branch)
    x = features([0, 0, 1, 0, 0, 0, 0], 8, 5, torch.float32)
    assert list(block.calibrate(x).buckets) == buckets
    with torch.no_grad():
        y = block(x)
        assert block.last_executed == buckets[0]
        block.mode = "dense"
        assert torch.equal(y, block(x))


def test_any_rows_where_bits_do_not_count():
    block = gated(branch=BySize(), exact=False)
    x = features([0, 0, 1, 0, 0, 0, 0], 8, 5, torch.float32)
    assert list(block.calibrate(x).buckets) == [1, 2, 3, 4, 5, 6, 7]
    with torch.no_grad():
        y = block(x)
        assert block.last_executed == 1
        block.mode = "dense"
        expected = block(x)
    assert not torch.equal(y, expected)
    torch.testing.assert_close(y, expected, rtol=2**-19, atol=0)


def test_costs_decide():
    costs = GatherCosts(buckets=[2, 4, 6, 8], seconds=[1.0, 2.0, 3.95, 4.0])
    assert [costs.rows(n) for n in range(9)] == [0, 2, 2, 4, 4, 8, 8, 8, 8]
    assert [costs.rows(n, force=True) for n in range(9)] == [0, 2, 2, 4, 4, 6, 6, 8, 8]


def test_costs_of_gathers_are_not_mixed_with_the_dense_pass():
    """A sleep is a lower bound, between the numbers of rows that were timed too."""
    costs = measure_costs(
        branch=lambda x: x + 1,
        dense=lambda x: None,
        gather=lambda x, rows: time.sleep(0.002),
        x=torch.rand(16, 3),
    )
    assert list(costs.buckets) == bucket_sizes(16)
    assert min(costs.seconds[:-1]) >= 0.002
    assert costs.rows(15) == 16  # and so the dense pass is taken


@pytest.mark.parametrize("samples", [0, 1, 5, 16, 17, 32, 100, 256])
def test_bucket_sizes(samples):
    sizes = bucket_sizes(samples)
    assert len(sizes) <= 16 and sizes == sorted(set(sizes))
    assert sizes[-1:] == ([samples] if samples else [])
    gaps = [b - a for a, b in zip([0, *sizes], sizes, strict=False)]
    assert all(0 < gap <= -(-samples // 16) for gap in gaps)
