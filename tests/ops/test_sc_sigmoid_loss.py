"""sc_sigmoid_loss against plain PyTorch in float64, the paper's equations and literal cases."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accuracy import assert_as_accurate
from gpu import EMULATED, is_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from sc_layers import MODES, RAGGED, Example, draw, gradients

from fastheads.ops import (
    sc_sigmoid_loss,
    sc_sigmoid_loss_logits_,
    sc_sigmoid_loss_logits_reference,
    sc_sigmoid_loss_reference,
)
from fastheads.targets import SparseTargets

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
ZIPF = [30_000 // (g + 1) for g in range(40)] + [1] * 25


def assert_right(example, dtype, roundings=8, **more):
    """Loss and every gradient, against float64 and with eager PyTorch beside."""
    device = more.pop("device", torch.device("cpu"))
    ours = gradients(sc_sigmoid_loss, example.to(dtype, device), **more)
    more.pop("scratch_bytes", None)
    rounded = example.to(dtype, device)
    eager = gradients(sc_sigmoid_loss_reference, rounded, **more)
    exact = gradients(sc_sigmoid_loss_reference, rounded.to(torch.float64), **more)
    for found, beside, right in zip(ours, eager, exact, strict=True):
        assert_as_accurate(found, beside, right, roundings)


def test_by_hand(device):
    """Logits (3, 4) of norm 5 and gamma 10: z = (6, 8), eq. 3-4; the second is a target."""
    x = torch.tensor([[1.0]], device=device, requires_grad=True)
    weight = torch.tensor([3.0, 4.0], device=device)
    gamma = torch.tensor([10.0], device=device, requires_grad=True)
    targets = SparseTargets.from_lists([[1]]).to(device)
    loss = sc_sigmoid_loss(x, weight, None, targets, [0, 1], [0, 2], gamma=gamma)
    first, second = 1 / (1 + math.exp(-6)), 1 / (1 + math.exp(-8)) - 1
    assert loss.item() == pytest.approx(math.log1p(math.exp(6)) + math.log1p(math.exp(8)) - 8)
    loss.backward()
    assert gamma.grad.item() == pytest.approx(0.6 * first + 0.8 * second)
    assert abs(x.grad.item()) < 1e-5  # a longer x does not change the direction


def test_as_many_groups_as_labels(device):
    """Gamma per label where its shape does not tell: logits (3, 4), and a group without labels."""
    x = torch.tensor([[1.0]], dtype=torch.float64, device=device)
    weight, targets = x.new_tensor([3.0, 4.0]), SparseTargets.from_lists([[1]]).to(device)
    gamma, out = x.new_tensor([2.0, 0.5]).requires_grad_(), [0, 2, 2]
    exact = {True: (1.2, 0.4), False: (1.2, 1.6), None: (1.2, 1.6)}
    for per_label, z in exact.items():
        options = dict(gamma=gamma, gamma_per_label=per_label)
        loss = sc_sigmoid_loss(x, weight, None, targets, None, out, **options)
        assert loss.item() == pytest.approx(sum(math.log1p(math.exp(v)) for v in z) - z[1])
        plain = sc_sigmoid_loss_reference(x, weight, None, targets, None, out, **options)
        torch.testing.assert_close(
            torch.autograd.grad(loss, gamma), torch.autograd.grad(plain, gamma)
        )
        given = sc_sigmoid_loss_logits_(
            weight[None].clone(), targets, out, gamma=gamma.detach(), gamma_per_label=per_label
        )
        torch.testing.assert_close(given.sum(), loss.detach())


@pytest.mark.parametrize("budget", [None, 3000, 200])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_mode(dtype, mode, budget, device):
    assert_right(draw(**MODES[mode]), dtype, device=device, scratch_bytes=budget)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean_rows", "mean", "sum"])
def test_dtypes_and_reductions(dtype, reduction, device):
    example = draw(gamma="group", label_bias=True, bias=True, rows=9, width=9)
    assert_right(example, dtype, device=device, reduction=reduction)


@pytest.mark.parametrize("rows", [0, 1, 7, 64, 1000])
def test_batches(rows, device):
    example = draw(rows=rows, gamma="label", label_bias=True)
    assert_right(example, torch.float32, device=device, scratch_bytes=100_000)


@pytest.mark.parametrize(
    "sizes",
    [[8] * 9, [1], [], [0, 0], [1] * 50, ZIPF, [1, 3] * 1000, [100_000], [5000] * 20],
    ids=["equal", "one", "none", "empty", "ones", "Zipf", "many", "large", "paper"],
)
def test_groups(sizes, device):
    example = draw(sizes, rows=3, gamma="group", label_bias=True, width=2, soft=True)
    assert_right(example, torch.float32, device=device, scratch_bytes=1 << 20)


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 70), max_size=6), st.integers(0, 40), st.sampled_from(list(MODES)),
    st.integers(1, 5000), st.integers(0, 999),
)  # fmt: skip
def test_any_shape(sizes, rows, mode, budget, seed):
    example = draw(sizes, rows, seed=seed, **MODES[mode])
    ours = gradients(sc_sigmoid_loss, example.to(), scratch_bytes=budget)
    for found, right in zip(ours, gradients(sc_sigmoid_loss_reference, example.to()), strict=True):
        torch.testing.assert_close(found, right, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(mode, device):
    example = draw([3, 0, 1, 4], rows=4, **MODES[mode]).to(device=device)

    def loss(*leaves):
        return sc_sigmoid_loss(*example[:6], **example.options, scratch_bytes=100)

    assert torch.autograd.gradcheck(loss, example.leaves, fast_mode=False)


def test_soft_targets_are_binary_cross_entropy(device):
    """Eq. 1 with labels of 0 and 1, eq. 2 with soft targets: the mean over rows of the sums."""
    for soft in (False, True):
        example = draw(normalize=False, soft=soft).to(device=device)
        x, weight, bias, targets, own, out, _ = example
        y = torch.zeros(7, out[-1], dtype=torch.float64, device=device)
        y[targets.row_indices(), targets.indices] = targets.values if soft else 1.0
        parts, begin = [], 0
        for g in range(len(RAGGED)):
            rows, width = RAGGED[g], own[g + 1] - own[g]
            w = weight[begin : begin + rows * width].view(rows, width)
            parts.append(F.linear(x[:, own[g] : own[g + 1]], w, bias[out[g] : out[g + 1]]))
            begin += rows * width
        expected = F.binary_cross_entropy_with_logits(torch.cat(parts, 1), y, reduction="sum") / 7
        found = sc_sigmoid_loss(x, weight, bias, targets, own, out, normalize=False)
        torch.testing.assert_close(found, expected)


def identity_layer(logits, **options):
    """The loss of given logits of one group, through a layer that multiplies by 1."""
    rows, labels = logits.shape
    targets = SparseTargets.from_lists([[]] * rows)
    weight = torch.eye(labels, dtype=logits.dtype).flatten()
    return sc_sigmoid_loss(logits, weight, None, targets, [0, labels], [0, labels], **options)


def test_equation_5_is_the_diagonal():
    """Only label i adds loss: then the gradient of its logit is eq. 5, and others are not 0."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 6, dtype=torch.float64, generator=generator).requires_grad_()
    gamma = torch.rand(6, dtype=torch.float64, generator=generator) + 1
    jacobian = torch.autograd.functional.jacobian(lambda x: F.normalize(x, dim=0), logits[0])
    norm = logits.detach().norm()
    diagonal = 1 / norm - logits.detach()[0] ** 2 / norm**3
    torch.testing.assert_close(jacobian.diagonal(), diagonal)
    for i in range(6):
        only = torch.zeros(6, dtype=torch.float64)
        only[i] = 1
        loss = identity_layer(logits, gamma=gamma, label_weights=only)
        (grad,) = torch.autograd.grad(loss, logits)
        slope = torch.sigmoid(gamma[i] * logits.detach()[0, i] / norm)  # dl / dy_i
        torch.testing.assert_close(grad[0, i], gamma[i] * slope * diagonal[i])
        torch.testing.assert_close(grad[0], gamma[i] * slope * jacobian[i])
        assert grad.abs().min() > 1e-4


def test_equation_6_scale_of_gradients():
    """At initialisation gradients shrink by 1 / sqrt(N_v), and gamma = sqrt(N_v) restores them."""
    scales = {}
    for labels, level in product((100, 10_000), ("none", "sqrt")):
        generator = torch.Generator().manual_seed(labels)
        logits = torch.randn(50, labels, dtype=torch.float64, generator=generator)
        targets = SparseTargets.from_lists([[]] * 50)
        gamma = None if level == "none" else logits.new_tensor([labels**0.5])
        only = torch.zeros(labels, dtype=torch.float64)  # dl / dy_j of the first ten labels
        only[:10] = 1
        found = logits.clone()
        options = dict(gamma=gamma, label_weights=only)
        sc_sigmoid_loss_logits_(found, targets, [0, labels], **options)
        z = logits / logits.norm(dim=1, keepdim=True) * (1 if gamma is None else gamma)
        ratio = found[:, :10] / torch.sigmoid(z[:, :10])  # dx_hat / dx, times gamma
        scales[labels, level] = ratio.mean().item()
    assert scales[100, "none"] / scales[10_000, "none"] == pytest.approx(10, rel=0.06)
    assert scales[10_000, "none"] == pytest.approx(0.01, rel=0.01)  # E(x^2) = 1
    assert scales[100, "sqrt"] == pytest.approx(1, rel=0.06)
    assert scales[10_000, "sqrt"] == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e4, 1e19, 1e30])
def test_extreme_logits(scale, device):
    """Norms whose square is beyond float32; gamma of 100 saturates the sigmoids."""
    exact = draw(gamma="group").to(torch.float32).x[:, :6].detach().double() * scale
    gamma = torch.tensor([100.0, 0.5], device=device)
    targets = SparseTargets.from_lists([[0, 3]] * 7).to(device)
    found = exact.float().to(device)
    exact = found.double().requires_grad_()
    loss = sc_sigmoid_loss_logits_(found, targets, [0, 4, 6], gamma=gamma)
    expected = sc_sigmoid_loss_logits_reference(exact, targets, [0, 4, 6], gamma=gamma.double())
    torch.testing.assert_close(loss, expected.detach(), rtol=2e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(expected.sum(), exact)
    close = found.double() * scale, grad * scale
    torch.testing.assert_close(*close, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "dtype, scale",
    [(torch.float16, scale) for scale in (1e-3, 1e4)]
    + [(torch.bfloat16, scale) for scale in (1e-30, 1e-20, 1e4, 1e19, 1e30)],
)
def test_extreme_logits_in_half_precision(dtype, scale, device):
    """Through a layer that multiplies by 1, so that logits are what x is rounded to."""
    weight = torch.cat([torch.eye(4).flatten(), torch.eye(2).flatten()])
    targets, offsets = SparseTargets.from_lists([[0, 3]] * 7), [0, 4, 6]
    options = {"gamma": torch.tensor([20.0, 0.5])}
    example = Example(draw().x[:, :6] * scale, weight, None, targets, offsets, offsets, options)
    example = example.to(dtype, device)
    found = gradients(sc_sigmoid_loss, example)
    right = gradients(sc_sigmoid_loss_reference, example.to(torch.float64))
    assert found[0].item() == pytest.approx(right[0].item(), rel=2e-6)
    for ours, exact in zip(found[1:], right[1:], strict=True):
        error, largest = (ours.double() - exact).abs().max(), exact.abs().max()
        assert error <= 2 * torch.finfo(dtype).eps * largest


def test_large_logits_without_norm(device):
    logits = torch.tensor([[1e4, -1e4, 200.0, -200.0]], device=device)
    targets = SparseTargets.from_lists([[1, 2]]).to(device)
    loss = sc_sigmoid_loss_logits_(logits, targets, [0, 2, 4], normalize=False)
    assert loss.tolist() == [[2e4, 0.0]]
    torch.testing.assert_close(logits, logits.new_tensor([[1.0, -1, 0, 0]]), atol=1e-30, rtol=0)


def test_group_of_norm_zero(device):
    """Z = label_bias, and by definition no gradient of the logits and of gamma."""
    logits = torch.zeros(2, 3, device=device)
    logits[1, 2] = -2.0
    bias = torch.tensor([-1.0, 0.5, 2.0], device=device, requires_grad=True)
    gamma = torch.tensor([3.0, 4.0], device=device, requires_grad=True)
    x = torch.ones(2, 1, device=device)
    weight = torch.zeros(3, device=device, requires_grad=True)
    targets = SparseTargets.from_lists([[0], []]).to(device)
    options = dict(gamma=gamma, label_bias=bias, reduction="sum")
    loss = sc_sigmoid_loss(x, weight, None, targets, None, [0, 2, 3], **options)
    loss.backward()
    expected = 2 * F.softplus(bias.detach()).sum() + 1
    torch.testing.assert_close(loss.detach(), expected)
    assert not weight.grad.any() and not gamma.grad.any()
    slopes = 2 * torch.sigmoid(bias.detach()) - torch.tensor([1.0, 0, 0], device=device)
    torch.testing.assert_close(bias.grad, slopes)
    sc_sigmoid_loss_logits_(logits, targets, [0, 2, 3], gamma=gamma.detach())
    assert logits.tolist()[0] == [0, 0, 0] and logits.tolist()[1][:2] == [0, 0]


def test_error_of_exp_and_log(device):
    """Each softplus and sigmoid by itself, from the far tail to where it is linear."""
    points = torch.linspace(-80, 80, 2001 if EMULATED else 40_001)  # a block of threads each
    z = torch.cat([points, torch.tensor([0.0, 1e-7, -1e-7, -86.0, 90.0])])
    targets, out = SparseTargets.from_lists([[]]).to(device), list(range(len(z) + 1))
    found = z[None].to(device, copy=True)
    loss = sc_sigmoid_loss_logits_(found, targets, out, normalize=False)[0].cpu()
    exact = z.double()
    np.testing.assert_allclose(loss, F.softplus(exact, threshold=100), rtol=6e-7)
    close = 6e-7 if is_gpu(device) else 4e-7  # an exponential and a quotient of 2 ulp each
    np.testing.assert_allclose(found[0].cpu().double(), torch.sigmoid(exact), rtol=close)


def test_tail_adds_up(device):
    """A sum of numbers that 1 + e^z would round off."""
    logits = torch.full((1, 99_999), -20.0, device=device)
    targets = SparseTargets.from_lists([[]]).to(device)
    loss = sc_sigmoid_loss_logits_(logits, targets, [0, 99_999], normalize=False).item()
    assert loss == pytest.approx(99_999 * math.log1p(math.exp(-20)), rel=1e-6)
