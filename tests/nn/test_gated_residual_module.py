"""GatedResidual: the formula of eq. 5.3 and the same bits in every mode."""

import copy
from collections.abc import Callable

import pytest
import torch
from gated_blocks import ALL, NONE, SOME, accept_all, conv_branch, features, gated
from torch import Tensor, nn

from fastheads.nn import Gate, GatedResidual


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("open_gates", [NONE, SOME, ALL, [0], [1]])
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
    assert (y.data_ptr() == x.data_ptr()) == inplace
    assert inplace or torch.equal(x, kept)
    assert dense.last_executed == len(x)
    assert sum(open_gates) <= block.last_executed <= (len(x) if sum(open_gates) else 0)


def gathered_and_dense(block: GatedResidual, x: Tensor) -> tuple[Tensor, Tensor]:
    """The block both ways, where its branch gathers the open gates alone of SOME."""
    block.calibrate(x)
    rows: list[int] = []
    block.branch.register_forward_hook(lambda _, args, f: rows.append(len(f)))
    with torch.no_grad():
        y = block(x)
        assert block.last_executed == sum(SOME)
        block.mode = "dense"
        expected = block(x)
    assert rows == [sum(SOME), len(SOME)]
    return y, expected


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gathered_convolutions_agree_to_the_last_bit(layout):
    """In float64, whose convolutions take one sample after the other: any rows may be gathered."""
    block = gated(nonnegative=True).to(torch.float64, memory_format=layout)
    x = features(SOME, 8, 5, torch.float64).to(memory_format=layout)
    y, expected = gathered_and_dense(block, x)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gathered_convolutions_agree_to_rounding(device, layout):
    block = gated(nonnegative=True, exact=False).to(device, memory_format=layout)
    x = features(SOME, 8, 5, torch.float32).to(device, memory_format=layout)
    y, expected = gathered_and_dense(block, x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


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
    torch.set_num_threads(count)
    with torch.no_grad():
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


@pytest.mark.parametrize("mode", ["auto", "gather"])
def test_nan_logits_are_an_error(mode):
    """Where they could be taken for a closed gate; all samples dense show them."""
    block = gated(mode=mode)
    x = features(SOME, 8, 5, torch.float32)
    x[3, 0, 0, 0] = float("nan")
    with torch.no_grad():
        for batch, sample in ((x, 3), (x[3:4], 0)):
            message = f"gate logits must be finite, got nan for sample {sample}"
            with pytest.raises(ValueError, match=message):
                block(batch)
        block.mode = "dense"
        assert block(x).isnan().flatten(1).any(1).tolist() == [n == 3 for n in range(7)]
        block.mode, x[3] = mode, 0
        assert block(x).isfinite().all()


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
