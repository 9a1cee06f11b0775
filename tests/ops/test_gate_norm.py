"""The batch norm inside the gate: running statistics and the affine map of the hidden units."""

import math
import warnings
from typing import Any

import pytest
import torch
from accuracy import assert_as_accurate
from gated import DTYPES, LAYOUTS, sum_dtype
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck

from fastheads.ops import gate, gate_reference

NAMES = ("running_mean", "running_var", "norm_weight", "norm_bias")
# N, C, H, W, d: one, rows of four and fewer units, whole vectors, more samples than threads, empty.
SHAPES = [(1, 1, 1, 1, 1), (5, 7, 3, 5, 7), (2, 64, 8, 8, 16), (70, 131, 1, 2, 5), (0, 8, 2, 2, 4)]


def arguments(shape, dtype, device) -> tuple[list[Tensor], dict[str, Any]]:
    """What every gate takes, and its norm."""
    n, c, h, w, d = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = [(n, c, h, w), (d, c), (d,), (2, d), (2,), (d,), (d,), (d,), (d,)]
    tensors = [torch.randn(size, generator=generator) for size in sizes]
    tensors[1], tensors[3] = tensors[1] / c**0.5, tensors[3] / d**0.5  # logits of about 1
    tensors[6] = tensors[6].abs() + 0.5
    tensors = [t.to(device, dtype) for t in tensors]
    return tensors[:5], {**dict(zip(NAMES, tensors[5:], strict=True)), "eps": 1e-3}


def in_double(norm: dict[str, Any]) -> dict[str, Any]:
    return {name: v.double() if isinstance(v, Tensor) else v for name, v in norm.items()}


def test_norm_by_hand(device):
    """Products [2, -2], with biases [3, 1], normalised [(3 - 1) / 2, (1 + 2) / 3] = [1, 1]."""
    x = torch.tensor([[2.0]], device=device)
    weight1 = torch.tensor([[1.0], [-1.0]], device=device)
    bias1 = torch.tensor([1.0, 3.0], device=device)
    weight2 = torch.eye(2, device=device)
    statistics = {
        "running_mean": torch.tensor([1.0, -2.0], device=device),
        "running_var": torch.tensor([3.0, 8.0], device=device),
        "eps": 1.0,
    }
    affine = {
        "norm_weight": torch.tensor([3.0, 2.0], device=device),
        "norm_bias": torch.tensor([-2.5, 0.5], device=device),
    }
    betas = {
        (): (1.0, 1.0),
        ("norm_weight",): (3.0, 2.0),
        ("norm_bias",): (0.0, 1.5),
        ("norm_weight", "norm_bias"): (0.5, 2.5),
    }
    for names, (skip, execute) in betas.items():
        chosen = {name: affine[name] for name in names}
        z, probability = gate(x, weight1, bias1, weight2, None, **statistics, **chosen)
        assert z.tolist() == [float(execute >= skip)]
        assert probability.item() == pytest.approx(1 / (1 + math.exp(skip - execute)), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_is_as_accurate_as_eager(shape, layout, dtype, device):
    inputs, norm = arguments(shape, dtype, device)
    inputs[0] = inputs[0].contiguous(memory_format=LAYOUTS[layout])
    exact = gate_reference(*(t.double() for t in inputs), **in_double(norm))[1]
    z, probability = gate(*inputs, **norm)
    assert_as_accurate(probability, gate_reference(*inputs, **norm)[1], exact, roundings=4)
    decided = (exact - 0.5).abs() > 1e-5
    assert torch.equal(z[decided], (exact[decided] >= 0.5).to(z.dtype))
    assert torch.equal(gate(*inputs, **norm, soft=True)[0], probability)


@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 40), st.sampled_from(DTYPES))
def test_norm_of_any_shape(samples, channels, hidden, dtype):
    inputs, norm = arguments((samples, channels, 1, 1, hidden), dtype, "cpu")
    exact = gate_reference(*(t.double() for t in inputs), **in_double(norm))[1]
    eager = gate_reference(*inputs, **norm)[1]
    # Any of so many probabilities of eager's may be lucky.
    assert_as_accurate(gate(*inputs, **norm)[1], eager, exact, roundings=8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_that_does_nothing_gives_the_same_bits(dtype, device):
    inputs, _ = arguments((5, 37, 3, 3, 7), dtype, device)
    plain = gate(*inputs, soft=True)[0]
    zeros, ones = torch.zeros_like(inputs[2]), torch.ones_like(inputs[2])
    normed = gate(*inputs, soft=True, running_mean=zeros, running_var=ones, eps=0.0)[0]
    assert torch.equal(normed, plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_as_accurate_as_eager(shape, dtype, device):
    inputs, norm = arguments(shape, dtype, device)
    upstream = torch.linspace(-1, 2, shape[0], device=device)

    def gradients(function, inputs, norm):
        leaves = [*inputs, norm["norm_weight"], norm["norm_bias"]]
        leaves = [t.detach().requires_grad_() for t in leaves]
        norm = {**norm, "norm_weight": leaves[5], "norm_bias": leaves[6]}
        z, probability = function(*leaves[:5], temperature=0.7, **norm)
        loss = (z * upstream.to(z.dtype)).sum() + probability.square().sum()
        return torch.autograd.grad(loss, leaves)

    ours, eager = gradients(gate, inputs, norm), gradients(gate_reference, inputs, norm)
    exact = gradients(gate_reference, [t.double() for t in inputs], in_double(norm))
    for a, b, c in zip(ours, eager, exact, strict=True):
        assert_as_accurate(a, b, c, roundings=4)


def test_gradcheck(device):
    inputs, norm = arguments((3, 4, 2, 2, 3), torch.float64, device)
    statistics = {name: norm[name] for name in ("running_mean", "running_var", "eps")}
    affine = [norm["norm_weight"], norm["norm_bias"]]
    leaves = [t.requires_grad_() for t in (*inputs, *affine)]

    def soft(*leaves):
        affine = dict(zip(NAMES[2:], leaves[5:], strict=False))
        return gate(*leaves[:5], temperature=0.7, soft=True, **statistics, **affine)

    for count in (7, 6, 5):  # with all of the norm, without its bias, without either
        assert torch.autograd.gradcheck(soft, leaves[:count])
    x, weight1, _, weight2, _, *_ = leaves
    assert torch.autograd.gradcheck(
        lambda x, a, b: gate(x, a, None, b, None, soft=True, **statistics), (x, weight1, weight2)
    )


def test_opcheck(device):
    op = torch.ops.fastheads.gate.default
    for dtype in (torch.float64, torch.bfloat16):
        inputs, norm = arguments((3, 4, 2, 5, 3), dtype, device)
        noise = torch.zeros(3, 2, device=device, dtype=sum_dtype(dtype))
        mean, variance, *affine = (torch.stack((norm[n], norm[n]), 1)[:, 0] for n in NAMES)
        assert not mean.is_contiguous()
        trained = [t.detach().requires_grad_(dtype == torch.float64) for t in (*inputs, *affine)]
        opcheck(op, (*trained[:5], noise, 0.7, True, mean, variance, *trained[5:], 1e-3))
        opcheck(op, (*trained[:5], None, 1.0, False, mean, variance))


def test_compile(device):
    inputs, norm = arguments((5, 6, 3, 3, 4), torch.float32, device)
    leaves = [t.requires_grad_() for t in (*inputs, norm["norm_weight"], norm["norm_bias"])]

    def step(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        return gate(*inputs, temperature=0.5, **norm)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        results = [function(*inputs) for function in (compiled, step)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    gradients = [torch.autograd.grad(z.sum(), leaves) for z, _ in results]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def rejected(device):
    """Every check of the norm once: a call and a part of its sentence."""
    inputs, norm = arguments((3, 4, 2, 2, 5), torch.float32, device)

    def call(**options):
        given = {name: v for name, v in {**norm, **options}.items() if v is not None}
        return lambda: gate(*inputs, **given)

    together = "running_mean and running_var must be given together, got one of them"
    yield call(running_var=None), together
    yield call(running_mean=None), together
    needs = "norm_weight and norm_bias need running_mean and running_var, got none"
    yield call(running_mean=None, running_var=None, norm_bias=None), needs
    yield call(running_mean=None, running_var=None, norm_weight=None), needs
    for name in NAMES:
        yield call(**{name: norm[name][:4]}), f"{name} must be [5], got 1 dimensions"
        yield call(**{name: norm[name][None]}), f"{name} must be [5], got 2 dimensions"
        yield call(**{name: norm[name].half()}), f"{name} must be Float, got Half"
        if device.type == "cuda":
            yield call(**{name: norm[name].cpu()}), f"{name} must be on the device of x"
    for eps in (-1e-5, float("nan")):
        yield call(eps=eps), "eps must be at least 0, got"


def test_rejects(device):
    for call, message in rejected(device):
        with pytest.raises(RuntimeError) as error:
            call()
        assert message in str(error.value), message
