"""Logits of -inf, as labels are masked with, count for nothing where logits are not normalised."""

import pytest
import torch

from fastheads.losses import multilabel_soft_margin, self_paced_sigmoid_cross_entropy
from fastheads.ops import sc_sigmoid_loss_logits_reference
from fastheads.targets import SparseTargets

OFFSETS, MASKED, LABELS = [0, 40, 41, 90], [3, 40, 41, 89], 90


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize("gammas", [0, 3, LABELS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_as_finite_logits_of_labels_that_weigh_nothing(dtype, gammas, device):
    logits = torch.randn(7, LABELS).to(device, dtype)
    bias, gamma = torch.rand(LABELS), 1 + torch.rand(gammas)
    targets = SparseTargets.from_lists([[n, 42 + n] for n in range(4, 11)]).to(device)
    weights = torch.ones(LABELS, dtype=torch.float64, device=device)
    weights[MASKED] = 0
    given = [t.to(device, sum_dtype(dtype)) for t in (bias, gamma)]

    finite = [t.double().clone().requires_grad_() for t in (logits, *given)]
    options = {"label_bias": finite[1], "gamma": finite[2] if gammas else None}
    expected = sc_sigmoid_loss_logits_reference(
        finite[0], targets, OFFSETS, normalize=False, label_weights=weights, **options
    ).sum()
    gradients = torch.autograd.grad(expected, finite[: 2 + bool(gammas)])

    logits[:, MASKED] = -torch.inf
    for label_weights in (None, weights.to(sum_dtype(dtype))):
        wanted = [t.clone().requires_grad_() for t in (logits, *given)]
        options = {"label_bias": wanted[1], "gamma": wanted[2] if gammas else None}
        loss = self_paced_sigmoid_cross_entropy(
            wanted[0], targets, OFFSETS, normalize=False, reduction="sum",
            label_weights=label_weights, **options,
        )  # fmt: skip
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
        found = torch.autograd.grad(loss, wanted[: 2 + bool(gammas)])
        close = 1e-2 if dtype == torch.bfloat16 else 1e-5
        for ours, right in zip(found, gradients, strict=True):
            torch.testing.assert_close(ours.double(), right, rtol=close, atol=1e-6)


def test_soft_margin_is_that_of_pytorch(device):
    logits = torch.tensor([[0.1, 0.2, 0.3, -torch.inf]], device=device)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = multilabel_soft_margin(ours, SparseTargets.from_lists([[0]]).to(device))
    loss.backward()
    dense = torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=device)
    torch.nn.functional.multilabel_soft_margin_loss(theirs[:, :3], dense[:, :3]).backward()
    torch.testing.assert_close(ours.grad, theirs.grad * 3 / 4)
    assert loss.isfinite()
