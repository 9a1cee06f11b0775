"""The gate against the formulas of paper 004, section 5.2.2, in plain PyTorch."""

import math
import operator

import pytest
import torch
from torch import Tensor

from fastheads.nn import Gate
from fastheads.ops import gumbel_noise


def logits(gate: Gate, x: Tensor) -> Tensor:
    """Eq. 5.4 and 5.5 with the norm as a layer of its own."""
    hidden = gate.fc1(x.mean((2, 3)) if x.dim() == 4 else x)
    return gate.fc2((hidden if gate.norm is None else gate.norm(hidden)).relu())


def random_gate(channels: int, dtype: torch.dtype = torch.float64, **options: object) -> Gate:
    """A gate whose every number matters, in evaluation mode."""
    torch.manual_seed(0)
    gate = Gate(channels, 5, **options).to(dtype)
    with torch.no_grad():
        for p in gate.parameters():
            p.normal_()
        if gate.norm is not None:
            gate.norm.running_mean.normal_()
            gate.norm.running_var.uniform_(0.5, 2)
    return gate.eval()


def test_by_hand():
    gate = Gate(2, 1, batch_norm=False).eval()
    with torch.no_grad():
        gate.fc1.weight.copy_(torch.tensor([[1.0, -1.0]]))
        gate.fc1.bias.fill_(1.0)
        gate.fc2.weight.copy_(torch.tensor([[0.0], [2.0]]))
        gate.fc2.bias.copy_(torch.tensor([3.0, 0.0]))
    # Means (1, 0) and (0, 3): hidden 2 and relu(-2) = 0, beta (3, 4) and (3, 0).
    x = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[2.0, 4.0]]]])
    z, probability = gate(x)
    assert z.tolist() == [1.0, 0.0]
    expected = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(3))]
    torch.testing.assert_close(probability, torch.tensor(expected))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_evaluation_is_the_formula(device, batch_norm):
    """Eq. 5.5 and the larger entry, whatever the temperature does to the probability."""
    gate = random_gate(6, batch_norm=batch_norm, temperature=0.5).to(device)
    x = torch.randn(40, 6, 3, 5, dtype=torch.float64, device=device)
    with torch.no_grad():
        beta = logits(gate, x)
        gate.fc2.bias[1] -= (beta[:, 1] - beta[:, 0]).median() - 0.01  # half of them open
        beta = logits(gate, x)
        z, probability = gate(x)
        assert torch.equal(z, (beta[:, 1] >= beta[:, 0]).double())
        torch.testing.assert_close(probability, (beta / 0.5).softmax(1)[:, 1])
        torch.testing.assert_close(gate(x.mean((2, 3)))[1], probability)
        folded = gate.fold()
        assert folded.norm is None and not folded.training
        torch.testing.assert_close(folded(x), (z, probability))
        assert 0 < z.sum() < 40


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("soft", [True, False])
def test_training_is_gumbel_softmax_and_straight_through(device, soft, batch_norm):
    """Eq. 5.6 forward, the gradient of eq. 5.7 backward, with statistics of the batch."""
    gate = random_gate(6, soft=soft, batch_norm=batch_norm, temperature=0.7).train().to(device)
    x = torch.randn(9, 6, 3, 5, dtype=torch.float64, device=device, requires_grad=True)
    weights = torch.randn(9, dtype=torch.float64, device=device)
    leaves = [x, *gate.parameters()]

    generator = torch.Generator(device).manual_seed(3)
    noise = gumbel_noise((9, 2), generator=generator, device=device, dtype=torch.float64)
    beta = logits(gate, x) + noise
    expected = (beta / 0.7).softmax(1)[:, 1]
    gradients = torch.autograd.grad((weights * expected).sum(), leaves)

    z, probability = gate(x, generator=torch.Generator(device).manual_seed(3))
    torch.testing.assert_close(probability, expected)
    torch.testing.assert_close(z, expected if soft else (beta[:, 1] >= beta[:, 0]).double())
    torch.testing.assert_close(torch.autograd.grad((weights * z).sum(), leaves), gradients)


def test_norm_learns_in_training_only():
    gate = Gate(4)
    assert gate.norm is not None
    before = gate.norm.running_mean.clone()
    gate.eval()(torch.rand(8, 4, 2, 2))
    assert torch.equal(gate.norm.running_mean, before)
    gate.train()(torch.rand(8, 4, 2, 2))
    assert not torch.equal(gate.norm.running_mean, before)


def test_a_frozen_norm_is_folded_in_training():
    gate = random_gate(6).train()
    assert gate.norm is not None
    gate.norm.eval()
    x = torch.randn(9, 6, 3, 5, dtype=torch.float64)
    noise = gumbel_noise((9, 2), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    probability = gate(x, generator=torch.Generator().manual_seed(3))[1]
    torch.testing.assert_close(probability, (logits(gate, x) + noise).softmax(1)[:, 1])
    gradient = torch.autograd.grad(probability.sum(), gate.norm.weight)
    expected = torch.autograd.grad(
        (logits(gate, x) + noise).softmax(1)[:, 1].sum(), gate.norm.weight
    )
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_evaluation_is_one_operator(batch_norm):
    gate = random_gate(6, batch_norm=batch_norm)
    x = torch.randn(9, 6, 3, 5, dtype=torch.float64)
    program = torch.export.export(gate, (x,))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert [c for c in calls if c is not operator.getitem] == [torch.ops.fastheads.gate.default]
    assert all(torch.equal(a, b) for a, b in zip(program.module()(x), gate(x), strict=True))


def test_gradients_in_evaluation(device):
    """Of eq. 5.7 by the running statistics, which stay as they are."""
    gate = random_gate(6).to(device)
    x = torch.randn(9, 6, 3, 5, dtype=torch.float64, device=device, requires_grad=True)
    leaves = [x, *gate.parameters()]
    assert len(leaves) == 7
    expected = torch.autograd.grad(logits(gate, x).softmax(1)[:, 1].square().sum(), leaves)
    found = torch.autograd.grad(gate(x)[1].square().sum(), leaves)
    torch.testing.assert_close(found, expected)


def test_nan_stays_in_its_sample(device):
    gate = random_gate(6).to(device)
    x = torch.randn(4, 6, 3, 5, dtype=torch.float64, device=device)
    expected = gate(x)
    x[2, 1, 0, 0] = float("nan")
    for found, wanted in zip(gate(x), expected, strict=True):
        wanted[2] = float("nan")
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


def test_sampling_in_evaluation():
    """Decisions at the rate of the probability (eq. 5.6), by the generator alone."""
    gate = Gate(3, sample=True, rate=0.3).eval()
    x = torch.rand(20_000, 3)
    z = gate(x, generator=torch.Generator().manual_seed(0))[0]
    assert torch.equal(z, gate(x, generator=torch.Generator().manual_seed(0))[0])
    assert not torch.equal(z, gate(x, generator=torch.Generator().manual_seed(1))[0])
    deviation = math.sqrt(0.3 * 0.7 / len(x))
    assert abs(float(z.detach().mean()) - 0.3) < 5 * deviation
    gate.sample = False
    assert not gate(x)[0].any()


def test_initial_rate():
    x = torch.rand(64, 7, 4, 4)
    gate = Gate(7).eval().requires_grad_(False)
    assert float(gate.fc2.bias[1] - gate.fc2.bias[0]) == pytest.approx(1.7346, abs=1e-4)
    assert float(gate(x)[1].mean()) == pytest.approx(0.85, abs=0.01)
    with torch.no_grad():  # of the code of the authors
        gate.fc2.bias.copy_(torch.tensor([0.1, 2.0]))
    assert float(gate(x)[1].mean()) == pytest.approx(0.870, abs=0.01)


def test_parameters_of_resnet_50():
    """The gates of all blocks of ResNet-50 with d = 16 have 211,232 parameters."""
    widths = [64, 256, 256, *[256, *[512] * 3], *[512, *[1024] * 5], *[1024, 2048, 2048]]
    assert sum(p.numel() for c in widths for p in Gate(c).parameters()) == 211_232


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision(device, dtype):
    x = torch.randn(30, 6, 3, 5, device=device).to(dtype)
    exact = random_gate(6)
    with torch.no_grad():
        expected = exact(x.double().cpu())[1]
        for weights in {torch.float32, dtype}:
            gate = random_gate(6).to(device, weights)
            z, probability = gate(x)
            assert z.dtype == probability.dtype == torch.float32
            tolerance = 20 * torch.finfo(weights).eps  # of the weights: means are float32
            torch.testing.assert_close(probability.double().cpu(), expected, rtol=0, atol=tolerance)
        assert random_gate(6).to(device, torch.float32).train()(x)[1].isfinite().all()


def test_autocast_leaves_training_in_full_precision():
    gate = random_gate(6, torch.float32).train()
    x = torch.randn(30, 6, 3, 5)
    expected = gate(x, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = gate(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_state_dict():
    gate = random_gate(6)
    names = {name.split(".")[0] for name in gate.state_dict()}
    assert names == {"fc1", "norm", "fc2"}
    other = Gate(6, 5).double().eval()
    other.load_state_dict(gate.state_dict())
    x = torch.randn(9, 6, 3, 5, dtype=torch.float64)
    assert torch.equal(other(x)[1], gate(x)[1])


@pytest.mark.parametrize("training", [True, False])
def test_compiles_as_one_graph(training):
    gate = random_gate(6, torch.float32, soft=True).train(training)
    x = torch.randn(9, 6, 3, 5)
    compiled = torch.compile(gate, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    expected = gate(x)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels and hidden must be positive, got 0 and 16"),
        ({"hidden": 0}, "channels and hidden must be positive, got 4 and 0"),
        ({"rate": 1.0}, "rate must be between 0 and 1, got 1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_rejects(options, message):
    with pytest.raises(ValueError, match=message):
        Gate(**{"channels": 4, **options})
