"""gate, against its reference, literal cases and statistics; operators of gates compiled."""

import itertools
import math
import warnings

import pytest
import torch
from accuracy import assert_as_accurate
from gated import DTYPES, LAYOUTS, sum_dtype
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastheads.ops import (
    active_samples,
    active_samples_reference,
    gate,
    gate_reference,
    gumbel_noise,
)

# N, C, H, W, d: one, primes, whole vectors, wide rows in several blocks, many pixels, empty, maps
# of a first stage, many samples.
SHAPES = [
    (1, 1, 1, 1, 1),
    (5, 7, 3, 5, 3),
    (2, 64, 8, 8, 16),
    (3, 131, 7, 7, 5),
    (1, 2309, 1, 2, 9),
    (2, 3, 61, 67, 2),
    (0, 8, 2, 2, 4),
    (1, 9, 112, 112, 3),
    (301, 5, 3, 2, 4),
]
Arguments = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]


def arguments(shape, dtype, device, *, biases=True, weight_dtype=None) -> Arguments:
    n, c, h, w, d = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = [(n, c, h, w), (d, c), (d,), (2, d), (2,)]
    tensors = [torch.randn(size, generator=generator) for size in sizes]
    tensors[1], tensors[3] = tensors[1] / c**0.5, tensors[3] / d**0.5  # logits of about 1
    x, *weights = (t.to(device, dtype) for t in tensors)
    weight1, bias1, weight2, bias2 = (t.to(weight_dtype or dtype) for t in weights)
    return (x, weight1, bias1, weight2, bias2) if biases else (x, weight1, None, weight2, None)


def logits_only(logits: Tensor) -> Arguments:
    """Arguments whose beta is [0, logit]: one channel passes where positive, one where negative."""
    weight1 = torch.tensor([[1.0], [-1.0]]).to(logits)
    weight2 = torch.tensor([[0.0, 0.0], [1.0, -1.0]]).to(logits)
    return logits[:, None], weight1, None, weight2, None


def test_gate_by_hand(device):
    """Means [2, -1], hidden relu([2 - 1, -2 + 1.5]) = [1, 0], beta [1 + 0.5, 2]: it executes."""
    x = torch.tensor([[[[1.0, 3.0]], [[-2.0, 0.0]]]], device=device)
    weight1 = torch.tensor([[1.0, 1.0], [-1.0, 0.0]], device=device)
    bias1 = torch.tensor([0.0, 1.5], device=device)
    weight2 = torch.tensor([[1.0, 7.0], [2.0, -7.0]], device=device)
    bias2 = torch.tensor([0.5, 0.0], device=device)
    z, probability = gate(x, weight1, bias1, weight2, bias2)
    assert z.tolist() == [1.0]
    assert probability.item() == pytest.approx(1 / (1 + math.exp(-0.5)), rel=1e-6)
    noise = torch.tensor([[0.75, 0.0]], device=device)  # beta + noise = [2.25, 2]
    z, probability = gate(x, weight1, bias1, weight2, bias2, noise=noise, temperature=0.5)
    assert z.tolist() == [0.0]
    assert probability.item() == pytest.approx(1 / (1 + math.exp(0.25 / 0.5)), rel=1e-6)
    assert gate(x, weight1, bias1, weight2, None, noise=-bias2[None].flip(1))[0].tolist() == [1.0]


def test_a_tie_executes_eq_5_6(device):
    x, *weights = logits_only(torch.tensor([0.0, -1e-6, 1e-6], device=device))
    z, probability = gate(x, *weights)
    assert z.tolist() == [1.0, 0.0, 1.0] and probability[0].item() == 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gate_is_as_accurate_as_eager(shape, layout, dtype, device):
    inputs = arguments(shape, dtype, device)
    inputs = (inputs[0].contiguous(memory_format=LAYOUTS[layout]), *inputs[1:])
    generator = torch.Generator(device).manual_seed(0)
    kept = sum_dtype(dtype)
    noise = gumbel_noise((shape[0], 2), generator=generator, device=device, dtype=kept)
    exact_inputs = [t.double() for t in inputs]
    for soft, n in itertools.product((False, True), (None, noise)):
        options = {"temperature": 0.7, "soft": soft}
        ours = gate(*inputs, noise=n, **options)
        eager = gate_reference(*inputs, noise=n, **options)
        double = None if n is None else n.double()
        exact = gate_reference(*exact_inputs, noise=double, **options)
        # A handful of probabilities: eager's may all be lucky.
        assert_as_accurate(ours[1], eager[1], exact[1], roundings=4)
        if soft:
            assert torch.equal(ours[0], ours[1])
        else:  # the decisions agree wherever they are not a matter of rounding
            decided = (exact[1] - 0.5).abs() > 1e-5
            assert torch.equal(ours[0].double()[decided], exact[0][decided])
            assert set(ours[0].tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("weight_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gate_of_means_and_mixed_dtypes(dtype, weight_dtype, device):
    """[N, C] means of any dtype, weights of any other; float64 goes with float64 alone."""
    if (dtype == torch.float64) != (weight_dtype == torch.float64):
        return
    x, *weights = arguments((6, 37, 1, 1, 5), dtype, device, weight_dtype=weight_dtype)
    ours, same = gate(x[:, :, 0, 0], *weights), gate(x, *weights)
    eager = gate_reference(x[:, :, 0, 0], *weights)
    exact = gate_reference(x[:, :, 0, 0].double(), *(w.double() for w in weights))
    assert_as_accurate(ours[1], eager[1], exact[1], roundings=4)
    assert all(torch.equal(a, b) for a, b in zip(ours, same, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_as_accurate_as_eager(shape, dtype, device):
    inputs = [t.requires_grad_() for t in arguments(shape, dtype, device)]
    exact_inputs = [t.detach().double().requires_grad_() for t in inputs]
    upstream = torch.linspace(-1, 2, shape[0], device=device)

    def gradients(function, inputs):
        z, probability = function(*inputs, temperature=0.7)
        loss = (z * upstream.to(z.dtype)).sum() + probability.square().sum()
        return torch.autograd.grad(loss, inputs)

    ours, eager = gradients(gate, inputs), gradients(gate_reference, inputs)
    exact = gradients(gate_reference, exact_inputs)
    for a, b, c in zip(ours, eager, exact, strict=True):
        assert_as_accurate(a, b, c, roundings=4)


def test_straight_through_gradient_eq_5_6_and_5_7(device):
    """The decision's gradient is the relaxation's, p (1 - p) / temperature by hand."""
    logits = torch.tensor([-3.0, -0.2, 0.4, 5.0], dtype=torch.float64, device=device)
    x, *weights = logits_only(logits)
    x.requires_grad_()
    generator = torch.Generator(device).manual_seed(3)
    noise = gumbel_noise((4, 2), generator=generator, device=device, dtype=torch.float64)
    z, p = gate(x, *weights, noise=noise, temperature=0.3)
    soft, _ = gate(x, *weights, noise=noise, temperature=0.3, soft=True)
    assert torch.equal(z, (logits + noise[:, 1] >= noise[:, 0]).double())
    hard_grad, soft_grad = (torch.autograd.grad(out.sum(), x)[0][:, 0] for out in (z, soft))
    assert torch.equal(hard_grad, soft_grad)
    torch.testing.assert_close(hard_grad, p * (1 - p) / 0.3, rtol=1e-12, atol=0)


def test_gradcheck(device):
    inputs = [t.requires_grad_() for t in arguments((3, 4, 2, 2, 3), torch.float64, device)]
    noise = gumbel_noise((3, 2), device=device, dtype=torch.float64)

    def soft(*inputs):
        return gate(*inputs, noise=noise, temperature=0.7, soft=True)

    assert torch.autograd.gradcheck(soft, inputs)
    x, weight1, _, weight2, _ = inputs
    means = x.detach()[:, :, 0, 0].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, a, b: gate(x, a, None, b, None, soft=True), (means, weight1, weight2)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_gate_of_any_temperature_and_logit_is_finite(dtype, device):
    """Eq. 5.7: towards 0 the decisions, towards infinity a half; gradients finite throughout."""
    logits = torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4]).to(device, dtype)
    for temperature in (1e-300, 1e-30, 1e-3, 1.0, 1e3, 1e30, 1e300):
        x, *weights = logits_only(logits)
        x.requires_grad_()
        z, p = gate(x, *weights, temperature=temperature)
        (grad,) = torch.autograd.grad(p.sum(), x)
        assert p.isfinite().all() and z.tolist() == [0, 0, 1, 1, 1]
        assert grad[[0, 1, 3, 4]].isfinite().all()
        if temperature <= 1e-3:
            assert p.tolist() == [0, 0, 0.5, 1, 1] and not grad[[0, 1, 3, 4]].any()
        if temperature >= 1e30:
            assert p.tolist() == [0.5] * 5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("soft", [False, True])
def test_nan_is_not_hidden(soft, dtype, device):
    """Neither in the features nor in the noise, nor where infinities leave no larger entry."""
    x, *weights = arguments((5, 5, 2, 2, 4), dtype, device)
    noise = torch.zeros(5, 2, device=device, dtype=sum_dtype(dtype))
    x[1, 2, 0, 1] = float("nan")
    noise[2, 0] = float("nan")
    noise[3] = float("inf")
    noise[4, 1] = float("inf")
    results = gate(x, *weights, noise=noise, soft=soft)
    for found, wanted in zip(results, gate_reference(x, *weights, noise=noise), strict=True):
        assert found.isnan().tolist() == [False, True, True, True, False]
        assert torch.equal(found[:4].isnan(), wanted[:4].isnan())
    assert results[0][4].item() == results[1][4].item() == 1


def test_gate_opens_as_often_as_its_probability_eq_5_6(device):
    """Gumbel-max: P(z = 1) = sigmoid(beta_1 - beta_0) by a chi-square test, 5 degrees, 0.1 %."""
    generator = torch.Generator(device).manual_seed(0)
    draws, statistic = 40_000, 0.0
    for logit in (-2.5, -1.0, 0.0, 0.7, 2.0):
        x, *weights = logits_only(torch.full((draws,), logit, device=device))
        noise = gumbel_noise((draws, 2), generator=generator, device=device)
        opened = float(gate(x, *weights, noise=noise)[0].sum())
        chance = 1 / (1 + math.exp(-logit))
        statistic += (opened - draws * chance) ** 2 / (draws * chance * (1 - chance))
    assert statistic < 20.5


def test_gate_does_not_depend_on_threads():
    inputs = arguments((1, 200, 9, 9, 8), torch.float32, "cpu")
    last = (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = [gate(*i, soft=True)[0] for i in (inputs, last)]
        torch.set_num_threads(4)
        four = [gate(*i, soft=True)[0] for i in (inputs, last)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))


def test_opcheck(device):
    op = torch.ops.fastheads.gate.default
    for dtype in (torch.float64, torch.bfloat16):
        x, *weights = arguments((3, 4, 2, 5, 3), dtype, device)
        noise = gumbel_noise((3, 2), device=device, dtype=sum_dtype(dtype))
        last = x.contiguous(memory_format=torch.channels_last)
        for view in (x, last, x.transpose(2, 3), x[:, :, 0, 0].t().clone().t()):
            inputs = [t.detach().requires_grad_(dtype == torch.float64) for t in (view, *weights)]
            opcheck(op, (*inputs, noise, 0.7, True))
        opcheck(op, (x, weights[0], None, weights[2], None, None, 1.0, False))
    z = torch.rand(7, device=device) - 0.5
    for view in (z, torch.stack((z, z), 1)[:, 0], z.double()):
        opcheck(torch.ops.fastheads.active_samples.default, (view,))


def test_compile(device):
    def step(noise: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        z, probability = gate(*inputs, noise=noise, temperature=0.5)
        return z, probability, *active_samples(z.detach())

    inputs = [t.requires_grad_() for t in arguments((5, 6, 3, 3, 4), torch.float32, device)]
    noise = gumbel_noise((5, 2), device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        ours, eager = compiled(noise, *inputs), step(noise, *inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, eager, strict=True))
    gradients = [torch.autograd.grad(out[0].sum(), inputs) for out in (ours, eager)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_flops(device):
    """2 a multiply-add of both layers: 2 N d (C + 2)."""
    inputs = arguments((5, 6, 3, 3, 4), torch.float32, device)
    with FlopCounterMode(display=False) as counter:
        z, _ = gate(*inputs)
        active_samples(z)
    assert counter.get_total_flops() == 2 * 5 * 4 * (6 + 2)


def rejected(device):
    """Every check of the operators once: a call and a part of its sentence."""
    x, weight1, bias1, weight2, bias2 = arguments((3, 4, 2, 2, 5), torch.float32, device)
    noise = torch.zeros(3, 2, device=device)

    def call(x=x, w1=weight1, b1=bias1, w2=weight2, b2=bias2, **options):
        return lambda: gate(x, w1, b1, w2, b2, **options)

    yield call(x[0]), "x must be [N, C, H, W] or [N, C], got 3 dimensions"
    yield call(x.int()), "x must be float32, float64, float16 or bfloat16, got Int"
    yield call(x[:, :, :0]), "x must have pixels to average"
    yield call(w1=weight1[:, :3]), "weight1 must be [d, 4]"
    yield call(w1=weight1[0]), "weight1 must be [d, 4], got 1 dimensions"
    yield call(w2=weight2[:, :4]), "weight2 must be [2, 5]"
    yield call(w1=weight1.int()), "weight1 must be float32"
    yield call(w1=weight1.double()), "weight1 must be Double if and only if x is, got Double"
    yield call(w2=weight2.half()), "weight2 must be Float, got Half"
    yield call(b1=bias1[:4]), "bias1 must be [5], got 1 dimensions or another size"
    yield call(b2=bias2.half()), "bias2 must be Float, got Half"
    yield call(noise=noise[:2]), "noise must be [3, 2]"
    yield call(noise=noise.double()), "noise must be Float, got Double"
    for temperature in (0.0, -1.0, float("inf"), float("nan")):
        yield call(temperature=temperature), "temperature must be positive and finite, got"
    yield lambda: active_samples(noise), "z must be [N], got 2 dimensions"
    yield lambda: active_samples(noise[:, 0].half()), "z must be Float or Double, got Half"
    if device.type == "cuda":
        yield call(w1=weight1.cpu()), "weight1 must be on the device of x"
        yield call(noise=noise.cpu()), "noise must be on the device of x"


def test_rejects(device):
    for call, message in rejected(device):
        with pytest.raises(RuntimeError) as error:
            call()
        assert message in str(error.value), message


@pytest.mark.gpu
def test_side_stream():
    inputs = arguments((64, 256, 14, 14, 16), torch.float32, "cuda")
    wanted = gate(inputs[0] * 2, *inputs[1:], soft=True)[0]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        z, _ = gate(inputs[0].clone().mul_(2), *inputs[1:], soft=True)
        active, _ = active_samples(z - 0.5)
    stream.synchronize()
    assert torch.equal(z, wanted)
    assert torch.equal(active, active_samples_reference(wanted - 0.5)[0])


@pytest.mark.gpu
def test_cuda_graph():
    inputs = arguments((8, 256, 14, 14, 16), torch.float32, "cuda")
    active_samples(gate(*inputs)[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        z, probability = gate(*inputs)
        active, count = active_samples(z)
    inputs[0].neg_()
    graph.replay()
    torch.cuda.synchronize()
    wanted = gate(*inputs)
    assert torch.equal(z, wanted[0]) and torch.equal(probability, wanted[1])
    assert torch.equal(active, active_samples_reference(z)[0]) and int(count) == int(z.sum())
