"""GatedResidual: the formula of eq. 5.3, the same bits in every mode, and only what must run."""

import copy
import json
import math
import time
from collections.abc import Callable
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastheads.metrics import count_macs
from fastheads.nn import Gate, GatedResidual
from fastheads.nn.gated_cost import GatherCosts, bucket_sizes, cost_key, measure_costs

NONE, SOME, ALL = [0] * 7, [0, 1, 1, 0, 0, 1, 0], [1] * 7


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


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


@contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("mode", ["dense", "gather"])
def test_by_hand(mode):
    """Eq. 5.3 with the branch -3 x and a ReLU: gates open for sample 0 only."""
    branch = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(branch.weight, -3.0)
    block = gated(1, branch=branch, mode=mode)
    x = torch.tensor([[[[-1.0, 3.0]]], [[[-2.0, 2.0]]]])  # means 1 and 0
    accept_all(block, x)
    with torch.no_grad():
        assert block(x).tolist() == [[[[2.0, 0.0]]], [[[0.0, 2.0]]]]
        block.relu = False
        assert block(x).tolist() == [[[[2.0, -6.0]]], [[[-2.0, 2.0]]]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("open_gates", [NONE, SOME, ALL])
@pytest.mark.parametrize("inplace", [False, True])
def test_modes_agree_to_the_last_bit(device, inplace, open_gates, dtype, layout):
    x = features(open_gates, 8, 5, dtype).to(device, memory_format=layout)
    block = gated(nonnegative=True, inplace=inplace).to(device, dtype, memory_format=layout)
    dense = copy.deepcopy(block)
    dense.mode, dense.inplace = "dense", False
    kept = x.clone()
    with torch.no_grad():
        expected = dense(x)
        y = block(x)
    assert torch.equal(y, expected)
    assert y.stride() == expected.stride()
    gathered = block.last_executed < len(x) or all(open_gates)
    assert (y.data_ptr() == x.data_ptr()) == (inplace and gathered)
    assert (y is x) or torch.equal(x, kept)
    assert dense.last_executed == len(x)
    assert sum(open_gates) <= block.last_executed <= (len(x) if sum(open_gates) else 0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("channels", "size", "batch", "count"),
    [(2048, 7, 20, 1), (2048, 7, 6, 2), pytest.param(256, 56, 20, 2, marks=pytest.mark.slow)],
)
def test_resnet_50_blocks_agree_to_the_last_bit(channels, size, batch, count, dtype, layout):
    """Whatever algorithm a library takes for each batch size, at one and at two threads."""
    x = features([int(i % 5 in (0, 3)) for i in range(batch)], channels, size, dtype)
    x = x.to(memory_format=layout)
    block = gated(channels, channels // 4, nonnegative=True).to(dtype, memory_format=layout)
    with torch.no_grad(), threads(count):
        y = block(x)
        block.mode = "dense"
        assert torch.equal(y, block(x))


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_activation_of_skipped_samples(device, relu, nonnegative):
    block = gated(relu=relu, nonnegative=nonnegative).to(device)
    x = features(SOME, 8, 5, torch.float32)
    x = (x if nonnegative else x - 0.1 * torch.rand_like(x)).to(device)
    with torch.no_grad():
        z, _ = block.gate(x)
        expected = x + z.view(-1, 1, 1, 1) * block.branch(x)
        torch.testing.assert_close(block(x), expected.relu() if relu else expected)


class EverySecond(nn.Module):
    """A shortcut that is a view of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("open_gates", [NONE, SOME, ALL])
@pytest.mark.parametrize(
    "shortcut", [nn.Conv2d(8, 8, 1, stride=2), EverySecond(), nn.AvgPool2d(1, 2)]
)
def test_shortcut(device, shortcut, open_gates, layout):
    branch = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
    x = features(open_gates, 8, 7, torch.float32).to(device, memory_format=layout)
    kept = x.clone()
    block = gated(branch=branch, shortcut=copy.deepcopy(shortcut), nonnegative=True, inplace=True)
    block.to(device, memory_format=layout)
    with torch.no_grad():
        y = block(x)
        block.mode = "dense"
        assert torch.equal(y, block(x))
    assert torch.equal(x, kept)


def test_skipped_samples_cost_nothing():
    """In place they are neither read nor written, and with no open gate the branch does not run."""
    block = gated(nonnegative=True, inplace=True)
    x = features(SOME, 8, 5, torch.float32)
    accept_all(block, x)
    x[0, 1:] = -1.0  # not what a ReLU puts out, to see that it is left alone
    x[3, 1, 2, 2] = float("nan")
    before, ran = x.clone(), []
    block.branch.register_forward_hook(lambda _, args, y: ran.append(len(y)))
    with torch.no_grad():
        y = block(x)
        assert y is x and ran == [3] and block.last_executed == 3
        skipped = [0, 3, 4, 6]
        assert torch.equal(y[skipped].view(torch.int32), before[skipped].view(torch.int32))
        assert not torch.equal(y[[1, 2, 5]], before[[1, 2, 5]])
        assert block(x[skipped]).shape == (4, 8, 5, 5)
    assert ran == [3] and block.last_executed == 0


@pytest.mark.parametrize("mode", ["auto", "gather"])
def test_batch_of_one_is_skipped_or_run(mode):
    block = gated(mode=mode)
    ran: list[int] = []
    block.branch.register_forward_hook(lambda _, args, y: ran.append(len(y)))
    with torch.no_grad():
        closed, open_ = (features([z], 8, 5, torch.float32) for z in (0, 1))
        assert torch.equal(block(closed), closed) and not ran
        expected = (open_ + block.branch(open_)).relu()
        ran.clear()
        torch.testing.assert_close(block(open_), expected)
        assert ran == [1]
    assert not block.calibration()  # it needs none


@pytest.mark.parametrize("shape", [(0, 8, 5, 5), (2, 8, 1, 1), (5, 8, 1, 9)])
@pytest.mark.parametrize("mode", ["auto", "gather", "dense"])
def test_odd_shapes(shape, mode):
    block = gated(mode=mode)
    x = torch.rand(shape).round()
    with torch.no_grad():
        z, _ = block.gate(x)
        expected = (x + z.view(-1, 1, 1, 1) * block.branch(x)).relu()
        torch.testing.assert_close(block(x), expected)


def test_any_strides():
    block = gated()
    x = features(SOME, 8, 5, torch.float32)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    with torch.no_grad():
        torch.testing.assert_close(block(strided), block(x))


def test_vectors():
    block = gated(branch=nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)))
    x = torch.rand(7, 8)
    x[:, 0] = torch.tensor(SOME)
    with torch.no_grad():
        z = torch.tensor(SOME)[:, None]
        torch.testing.assert_close(block(x), x + z * (block.branch(x) + x).relu() - z * x)


# Gradients


@pytest.mark.parametrize("training", [True, False])
def test_gradients(device, training):
    """Eq. 5.3 masked, in plain PyTorch, straight through to the gate (eq. 5.7)."""
    torch.manual_seed(0)
    gate = Gate(8, 3, rate=0.5)
    nn.init.normal_(gate.fc2.weight)
    block = GatedResidual(conv_branch(8, 6), gate).double().to(device).train(training)
    x = torch.randn(7, 8, 5, 5, dtype=torch.float64, device=device, requires_grad=True)
    leaves = [x, *block.parameters()]
    reference = copy.deepcopy(block)
    torch.manual_seed(1)
    z, probability = reference.gate(x)
    expected = (x + z.view(-1, 1, 1, 1) * reference.branch(x)).relu()
    torch.manual_seed(1)
    y, z_found, probability_found = block(x, return_gate=True)
    assert torch.equal(z_found, z) and torch.equal(probability_found, probability)
    torch.testing.assert_close(y, expected)
    weights = torch.randn_like(y)
    found = torch.autograd.grad((weights * y).sum(), leaves)
    wanted = torch.autograd.grad((weights * expected).sum(), [x, *reference.parameters()])
    torch.testing.assert_close(found, wanted)
    assert block.last_executed == 7 and not block.calibration()


def test_target_rate_loss_opens_gates():
    """Eq. 5.8 pulls the share of open gates to the target."""
    torch.manual_seed(0)
    block = GatedResidual(conv_branch(8, 6), Gate(8, rate=0.2)).train()
    optimizer = torch.optim.SGD(block.gate.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(0)
    rates = []
    for _ in range(100):
        _, z, _ = block(torch.randn(64, 8, 2, 2), generator=generator, return_gate=True)
        loss = (z.mean() - 0.7) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.append(float(z.detach().mean()))
    assert sum(rates[:5]) / 5 < 0.4
    assert sum(rates[-50:]) / 50 == pytest.approx(0.7, abs=0.08)


def test_given_decisions():
    """All branches at their expected rates, as for the starred results of table 5.1."""
    block = gated()
    x = features(SOME, 8, 5, torch.float32)
    z = torch.full((7,), 0.7)
    with torch.no_grad():
        y, z_used, _ = block(x, z, return_gate=True)
        torch.testing.assert_close(y, (x + 0.7 * block.branch(x)).relu())
    assert z_used is z and block.last_executed == 7


def test_sampling_takes_a_generator():
    block = gated(mode="gather", relu=False)
    block.gate = Gate(8, rate=0.5, sample=True).eval()
    x = torch.rand(16, 8, 5, 5)
    with torch.no_grad():
        runs = [block(x, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    touched = (runs[0] != x).flatten(1).any(1)
    assert 0 < touched.sum() < 16


def test_autocast():
    block = gated()
    x = features(SOME, 8, 5, torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = block(x)
        block.mode = "dense"
        assert y.dtype == torch.float32
        assert torch.equal(y, block(x))


# What it costs


@pytest.mark.parametrize(("open_gates", "rows"), [(NONE, 0), (SOME, 3), (ALL, 7)])
def test_multiply_adds_are_those_executed(open_gates, rows):
    """By hand: convolutions of the rows that ran, gate, and what the additions are counted as."""
    x = features(open_gates, 8, 5, torch.float32)
    block = gated(nonnegative=True)
    accept_all(block, x)
    branch = 25 * (8 * 6 + 9 * 6 * 6 + 6 * 8)
    gate = 7 * 1 * (8 + 2)
    addition = {0: 0, 3: 3 * 8 * 25 // 2, 7: 7 * 8 * 25}[rows]
    assert count_macs(block, x) == rows * branch + gate + addition


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
        with threads(torch.get_num_threads() + 1):
            block(x)
        assert len(block.calibration()) == 5
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


# Compilers


def test_training_compiles_as_one_graph():
    block = GatedResidual(conv_branch(8, 6), Gate(8, rate=0.5)).train()
    x = torch.randn(7, 8, 5, 5)
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend="aot_eager")
    results = []
    for module in (block, compiled):
        torch.manual_seed(0)
        y, z, _ = module(x, return_gate=True)
        y.square().sum().backward()
        results.append((y, z))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(
        [p.grad for p in block.parameters()], [p.grad for p in compiled.parameters()]
    )


@pytest.mark.parametrize("mode", ["dense", "auto"])
def test_inference_compiles(mode: str):
    """Dense as one graph; otherwise around the decision, which needs the data."""
    block = gated(mode=mode)
    x = features(SOME, 8, 5, torch.float32)
    compile_: Callable[..., nn.Module] = torch.compile
    compiled = compile_(block, fullgraph=mode == "dense", backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), block(x))


def test_rejects():
    with pytest.raises(ValueError, match="mode must be one of auto, dense, gather, got 'fast'"):
        gated(mode="fast")
    with pytest.raises(RuntimeError, match="calibrate needs evaluation mode, got training mode"):
        gated().train().calibrate(torch.rand(2, 8, 5, 5))
    with pytest.raises(RuntimeError, match="f must have samples of the shape of x"):
        with torch.no_grad():
            gated(branch=nn.Conv2d(8, 8, 3))(features(SOME, 8, 5, torch.float32))
