"""sc_sigmoid_loss in float16 and bfloat16: scaled losses, and sums over chunks."""

import pytest
import torch
from sc_layers import draw

from fastheads.losses import self_paced_sigmoid_cross_entropy
from fastheads.ops import (
    sc_linear_reference,
    sc_sigmoid_loss,
    sc_sigmoid_loss_logits_reference,
    sc_sigmoid_loss_reference,
)


def rare(sizes, rows, bias, dtype, device, **options):
    """Layer and targets of ``dtype``, a gamma a group and a bias a label of float32."""
    example = draw(sizes, rows, gamma="group", label_bias=True, **options)
    example.options["label_bias"].fill_(bias)
    example.options["gamma"].copy_(torch.tensor(sizes).sqrt())
    wide = example.to(torch.float32, device).options
    half = example.to(dtype, device)
    return half._replace(options=half.options | {k: wide[k] for k in ("gamma", "label_bias")})


def errors(function, example, factor=1.0, **options):
    """Of each gradient of a scaled loss, relative to the norm of the exact one."""
    exact = example.to(torch.float64)
    right = sc_sigmoid_loss_reference(
        *exact[:6], **exact.options, reduction=options.get("reduction", "mean_rows")
    )
    loss = function(*example[:6], **example.options, **options)
    found = torch.autograd.grad(loss * factor, example.leaves)
    pairs = zip(found, torch.autograd.grad(right, exact.leaves), strict=True)
    return [float((a.double() / factor - b).norm() / b.norm()) for a, b in pairs]


@pytest.mark.parametrize("budget", [None, 300_000])
@pytest.mark.parametrize("bias", [-1, -10])
@pytest.mark.parametrize(
    "reduction, factor", [("mean", 2**16), ("mean_rows", 2**14), ("sum", 2**8), ("sum", 1)]
)
def test_scaled_loss_in_float16(reduction, factor, bias, budget, device):
    """What a GradScaler multiplies by meets 1 / (B N) before anything is rounded."""
    example = rare([1000] * 20, 64, bias, torch.float16, device, width=8)
    ours = errors(sc_sigmoid_loss, example, factor, reduction=reduction, scratch_bytes=budget)
    eager = errors(sc_sigmoid_loss_reference, example, factor, reduction=reduction)
    assert max(eager) < 2e-3
    assert all(a <= 2 * b for a, b in zip(ours, eager, strict=True)), (ours, eager)


def test_scaled_loss_in_float16_compiled(device):
    example = rare([1000] * 20, 64, -10, torch.float16, device, width=8)
    compiled = torch.compile(sc_sigmoid_loss, backend="aot_eager", fullgraph=True)
    assert max(errors(compiled, example, 2.0**16, reduction="mean")) < 1e-3


def test_scaled_loss_of_logits_in_float16(device):
    example = rare([1000] * 20, 64, -10, torch.float16, device, width=8)
    logits = sc_linear_reference(*example[:3], *example[4:6]).detach().requires_grad_()
    gamma, bias = (example.options[name].detach() for name in ("gamma", "label_bias"))
    layout = example.targets, example.out_offsets
    loss = self_paced_sigmoid_cross_entropy(
        logits, *layout, gamma=gamma, label_bias=bias, reduction="mean"
    )
    (found,) = torch.autograd.grad(loss * 2.0**16, logits)
    exact = logits.detach().double().requires_grad_()
    options = {"gamma": gamma.double(), "label_bias": bias.double()}
    loss = sc_sigmoid_loss_logits_reference(exact, *layout, **options).sum() / exact.numel()
    (right,) = torch.autograd.grad(loss * 2.0**16, exact)
    assert (found.double() - right).norm() < 1e-3 * right.norm()


@pytest.mark.parametrize("reduction", ["mean", "mean_rows"])
def test_sums_over_many_rows_stay_in_float16(reduction, device):
    """5,000 rows that all pull the same way: their sum is beyond float16, their mean is not."""
    example = rare([3], 5000, 0, torch.float16, device, width=1)
    with torch.no_grad():
        example.x.abs_().add_(40)
        example.options["gamma"].fill_(1)
    example.options["normalize"] = False
    ours = errors(sc_sigmoid_loss, example, reduction=reduction)
    assert max(ours) < 1e-2, ours


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "sizes, rows, options",
    [
        ([300] * 4, 512, {"shared_input": True}),
        ([300] * 4, 512, {"generic": 3}),
        ([7] * 200, 64, {"shared_input": True}),
    ],
    ids=["rows in parts", "generic", "many groups"],
)
def test_sums_over_chunks_are_as_exact_as_without(sizes, rows, options, dtype, device):
    """However small the budget: what several chunks add up to is float32."""
    example = rare(sizes, rows, -4, dtype, device, width=8, **options)
    whole = errors(sc_sigmoid_loss, example)
    for budget in (100_000, 20_000):
        found = errors(sc_sigmoid_loss, example, scratch_bytes=budget)
        assert all(a <= 2 * b for a, b in zip(found, whole, strict=True)), (budget, found, whole)
