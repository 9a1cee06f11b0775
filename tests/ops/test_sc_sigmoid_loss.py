"""sc_sigmoid_loss against plain PyTorch in float64, the paper's equations and literal cases."""

import math
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accuracy import assert_as_accurate
from hypothesis import given, settings
from hypothesis import strategies as st
from sc_layers import RAGGED, draw
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastheads.ops import (
    sc_sigmoid_loss,
    sc_sigmoid_loss_logits_,
    sc_sigmoid_loss_logits_reference,
    sc_sigmoid_loss_reference,
)
from fastheads.targets import SparseTargets

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
ZIPF = [30_000 // (g + 1) for g in range(40)] + [1] * 25
MODES = {
    "plain": dict(normalize=False, bias=False),
    "as worded": dict(gamma="group"),
    "per label": dict(gamma="label", label_bias=True, soft=True),
    "weights": dict(gamma="group", label_bias=True, label_weights=True),
    "generic": dict(gamma="group", generic=3, soft=True),
    "shared input": dict(shared_input=True, gamma="label", label_weights=True),
    "scaled only": dict(normalize=False, gamma="label", label_bias=True, generic=2),
}


def gradients(function, example, **more):
    loss = function(*example[:6], **example.options, **more)
    if not loss.requires_grad:  # the reference, where there are no labels
        return [loss, *(torch.zeros_like(leaf) for leaf in example.leaves)]
    return [loss.detach(), *torch.autograd.grad(loss, example.leaves)]


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


@pytest.mark.parametrize("budget", [None, 3000, 200])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode, budget, device):
    for dtype in (torch.float32, torch.float64):
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


def test_error_of_exp_and_log():
    """Each softplus and sigmoid by itself, from the far tail to where it is linear."""
    z = torch.cat([torch.linspace(-80, 80, 40_001), torch.tensor([0.0, 1e-7, -1e-7, -86.0, 90.0])])
    targets, out = SparseTargets.from_lists([[]]), list(range(len(z) + 1))
    found = z[None].clone()
    loss = sc_sigmoid_loss_logits_(found, targets, out, normalize=False)[0]
    exact = z.double()
    np.testing.assert_allclose(loss, F.softplus(exact, threshold=100), rtol=6e-7)
    np.testing.assert_allclose(found[0].double(), torch.sigmoid(exact), rtol=4e-7)


def test_tail_adds_up():
    """A sum of numbers that 1 + e^z would round off."""
    logits = torch.full((1, 99_999), -20.0)
    targets = SparseTargets.from_lists([[]])
    loss = sc_sigmoid_loss_logits_(logits, targets, [0, 99_999], normalize=False).item()
    assert loss == pytest.approx(99_999 * math.log1p(math.exp(-20)), rel=1e-6)


def test_without_the_value(device):
    for mode in MODES.values():
        example = draw(**mode).to(torch.float32, device)
        loss, *grads = gradients(sc_sigmoid_loss, example)
        nothing, *same = gradients(sc_sigmoid_loss, example, with_loss=False)
        assert nothing == 0 and loss > 0
        assert all(torch.equal(a, b) for a, b in zip(grads, same, strict=True))


def test_without_gradients(device):
    example = draw(gamma="group").to(torch.float32, device)
    loss = sc_sigmoid_loss(*example[:6], **example.options)
    with torch.no_grad():
        assert torch.equal(sc_sigmoid_loss(*example[:6], **example.options), loss)


def test_some_gradients(device):
    """What is not asked for is not computed, and does not change what is."""
    example = draw(gamma="label", label_bias=True, generic=2).to(torch.float32, device)
    everything = gradients(sc_sigmoid_loss, example)[1:]
    for i, leaf in enumerate(example.leaves):
        for other in example.leaves:
            other.requires_grad_(other is leaf)
        loss = sc_sigmoid_loss(*example[:6], **example.options)
        (grad,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(grad, everything[i])


def test_backward_twice_and_scaled(device):
    example = draw(gamma="group", bias=True).to(torch.float32, device)
    loss = sc_sigmoid_loss(*example[:6], **example.options)
    first = torch.autograd.grad(loss, example.leaves, retain_graph=True)
    kept = [grad.clone() for grad in first]
    third = torch.autograd.grad(loss, example.leaves, loss.new_tensor(3.0))
    for a, b, c in zip(first, kept, third, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(c, 3 * b)


def test_same_bits_from_run_to_run_and_any_number_of_threads(device):
    example = draw([300, 5, 1000], rows=50, gamma="label", label_bias=True).to(
        torch.float32, device
    )
    logits = torch.randn(50, 1305, device=device)
    options = {name: example.options[name].detach() for name in ("gamma", "label_bias")}

    def run(threads):
        torch.set_num_threads(threads)
        found = logits.clone()
        loss = sc_sigmoid_loss_logits_(found, example.targets, example.out_offsets, **options)
        return loss, found

    for again in (run(1), run(3)):
        assert all(torch.equal(a, b) for a, b in zip(run(1), again, strict=True))
    torch.set_num_threads(2)
    runs = [gradients(sc_sigmoid_loss, example, scratch_bytes=40_000) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_with_lesser_instruction_sets(capability):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    run = subprocess.run(
        [*command, "-k", "hand or every_mode or dtypes or extreme or error_of or tail"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout + run.stderr


def op_arguments(example, needed):
    x, weight, bias, targets, own, out, options = example
    return (
        x, weight, bias, options["generic"], options["gamma"], options["label_bias"],
        options["label_weights"], *targets, own, out, True, True, 0.5, 2000, True, needed,
    )  # fmt: skip


def test_opcheck(device):
    op = torch.ops.fastheads.sc_sigmoid_loss.default
    example = draw(gamma="label", label_bias=True, generic=2).to(torch.float32, device)
    opcheck(op, op_arguments(example, [True] * 6))
    transposed = example._replace(x=example.x.detach().T.contiguous().T)
    opcheck(op, op_arguments(transposed, [False] + [True] * 5))
    native = torch.ops.fastheads.sc_sigmoid_loss_logits_.default
    indices, offsets, _ = example.targets
    logits = torch.randn(7, 363, device=device)
    groups = torch.tensor(example.out_offsets, device=device)
    for given_logits in (logits, torch.randn(7, 400, device=device)[:, :363]):
        arguments = (
            given_logits, indices, offsets, None, groups, 363, None, None, None, False, True, True,
            True, 0.5, False, True,
        )  # fmt: skip
        opcheck(native, arguments)


def test_compile(device):
    example = draw(gamma="group", label_bias=True).to(torch.float32, device)
    x, weight, bias, targets, own, out, options = example

    def loss(x, weight, bias):
        return 2 * sc_sigmoid_loss(x.sin(), weight, bias, targets, own, out, **options)

    compiled = torch.compile(loss, fullgraph=True)
    found, expected = (f(x, weight, bias) for f in (compiled, loss))
    torch.testing.assert_close(found, expected)
    grads = (torch.autograd.grad(value, example.leaves) for value in (found, expected))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype, device):
    example = draw(gamma="group", rows=5).to(torch.float32, device)
    with torch.autocast(device.type, dtype):
        loss = sc_sigmoid_loss(*example[:6], **example.options)
    rounded = example._replace(
        **{name: getattr(example, name).detach().to(dtype) for name in ("x", "weight", "bias")}
    )
    torch.testing.assert_close(loss, sc_sigmoid_loss(*rounded[:6], **example.options))
    grads = torch.autograd.grad(loss, example.leaves)
    assert {grad.dtype for grad in grads} == {torch.float32}


def test_strided_inputs(device):
    example = draw(gamma="group", generic=4).to(torch.float32, device)
    expected = gradients(sc_sigmoid_loss, example)
    generic = example.options["generic"].detach().T.contiguous().T.requires_grad_()
    apart = example._replace(
        x=example.x.detach().T.contiguous().T.requires_grad_(),
        weight=torch.stack([example.weight.detach()] * 2, 1)[:, 0].requires_grad_(),
        options={**example.options, "generic": generic},
    )
    for a, b in zip(gradients(sc_sigmoid_loss, apart), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_flops():
    example = draw(bias=False).to(torch.float32)
    for needed, factor in [((True, True), 3), ((False, True), 2), ((False, False), 1)]:
        for leaf, need in zip(example.leaves, needed, strict=True):
            leaf.requires_grad_(need)
        with FlopCounterMode(display=False) as counter:
            sc_sigmoid_loss(*example[:6])
        assert counter.get_total_flops() == 2 * factor * 7 * example.weight.numel()


@pytest.mark.parametrize(
    "rows, message",
    [
        ([[0], [2, 9, 9]], "distinct and ascend within a row, got 9 after 9 at 3 in row 1"),
        ([[0], [9, 2]], "distinct and ascend within a row, got 2 after 9 at 2 in row 1"),
        ([[0], [363]], "labels from 0 to 362, got 363 at 1 in row 1"),
        ([[-1], [3]], "labels from 0 to 362, got -1 at 0 in row 0"),
    ],
)
def test_rejects_targets(rows, message, device):
    """With their position on the CPU; CUDA does not wait for the device, and the loss is NaN."""
    indices = torch.tensor([label for row in rows for label in row])
    lengths = torch.tensor([0] + [len(row) for row in rows])
    targets = SparseTargets(indices, lengths.cumsum(0)).to(device)
    example = draw(rows=2).to(torch.float32, device)._replace(targets=targets)
    if device.type == "cuda":
        assert sc_sigmoid_loss(*example[:6], **example.options).isnan()
        return
    with pytest.raises(RuntimeError) as error:
        sc_sigmoid_loss(*example[:6], **example.options)
    assert message in str(error.value)


def rejected():
    example = draw(gamma="group", generic=2, label_bias=True).to(torch.float32)
    x, weight, bias, targets, own, out, options = example
    yield dict(x=x[0]), "x must be a floating [B, K] matrix"
    yield dict(x=x.long()), "x must be a floating [B, K] matrix, got torch.int64"
    yield dict(weight=weight[1:]), f"weight must be [{len(weight)}], got [{len(weight) - 1}]"
    yield dict(weight=weight.double()), "weight must have dtype and device of x, torch.float32"
    yield dict(bias=bias[1:]), "bias must be [363], got [362]"
    yield dict(in_offsets=own[1:]), "in_offsets must have the 7 entries of out_offsets, got 6"
    yield dict(in_offsets=[*own[:-1], 99]), f"in_offsets must ascend from 0 to the {x.shape[1]}"
    yield dict(out_offsets=[1, *out[1:]]), "out_offsets must ascend from 0, got [1, 5"
    yield dict(targets=targets.select(torch.arange(3))), "one row for each of the 7 rows of x"
    yield dict(generic=options["generic"][1:]), "generic must be [7, s], got [6, 2]"
    yield dict(gamma=torch.ones(5)), "gamma must be [6], one per group, or [363], one per label"
    yield dict(label_bias=torch.ones(5)), "label_bias must be [363], got [5]"
    yield dict(label_weights=torch.ones(5)), "label_weights must be [363], got [5]"
    yield dict(reduction="max"), "reduction must be one of"


def test_rejects():
    example = draw(gamma="group", generic=2, label_bias=True).to(torch.float32)
    for changed, message in rejected():
        arguments = {**example._asdict(), **example.options, **changed}
        arguments.pop("options")
        with pytest.raises(ValueError) as error:
            sc_sigmoid_loss(**arguments)
        assert message in str(error.value), message


def test_native_rejects():
    op, long = torch.ops.fastheads.sc_sigmoid_loss_logits_.default, torch.int64
    offsets, groups = torch.zeros(4, dtype=long), torch.tensor([0, 2, 5])
    right = dict(
        logits=torch.zeros(3, 5), indices=torch.zeros(0, dtype=long), offsets=offsets, values=None,
        out_offsets=groups, labels=5, gamma=None, label_bias=None, label_weights=None,
        gamma_per_label=False, normalize=True, with_loss=True, with_grad=True, scale=1.0,
        gamma_columns=False, bias_columns=False,
    )  # fmt: skip
    op(**right)
    wrong = [
        (dict(logits=torch.zeros(5)), "logits must be [B, N], got 1 dimensions"),
        (dict(logits=torch.zeros(3, 5, dtype=torch.int32)), "logits must be float32, float64"),
        (dict(logits=torch.zeros(5, 3).T), "logits must have rows of unit stride"),
        (dict(indices=torch.zeros(0)), "indices must be Long, got Float"),
        (dict(offsets=offsets[1:]), "offsets must be [4], got 1 dimensions of 3 entries"),
        (dict(offsets=offsets + 1), "offsets of targets must ascend from 0 to the 0 entries"),
        (dict(out_offsets=groups[:0]), "out_offsets must be [M + 1], got no entries"),
        (dict(out_offsets=groups[:2]), "out_offsets must span the 5 columns of logits, got 0 to 2"),
        (dict(out_offsets=groups.flip(0)), "out_offsets must ascend, got 2 after 5 at 1"),
        (dict(values=torch.zeros(2)), "values must be [0]"),
        (dict(gamma=torch.zeros(5)), "gamma must be [2], got 1 dimensions of 5 entries"),
        (dict(gamma=torch.zeros(2).double()), "gamma must be Float, got Double"),
        (dict(label_bias=torch.zeros(2)), "label_bias must be [5]"),
        (dict(label_weights=torch.zeros(2)), "label_weights must be [5]"),
        (dict(labels=4), "labels must be at least the 5 columns of logits, got 4"),
    ]
    for changed, message in wrong:
        with pytest.raises(RuntimeError) as error:
            op(**{**right, **changed})
        assert message in str(error.value), message
