import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastheads.losses import softmax_cross_entropy
from fastheads.targets import SparseTargets


def draw(n, num_labels, seed, soft):
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(n, num_labels, generator=generator) < 0.3
    targets = SparseTargets.from_lists([row.nonzero().flatten().tolist() for row in y])
    p = y.double()
    if soft:
        values = torch.rand(targets.indices.numel(), dtype=torch.float64, generator=generator) + 0.1
        p[targets.row_indices(), targets.indices] = values
        targets = targets._replace(values=values)
    p = p / p.sum(1, keepdim=True).clamp(min=1e-300)
    return 4 * torch.randn(n, num_labels, dtype=torch.float64, generator=generator), targets, p


def test_by_hand():
    logits = torch.tensor([[0.0, 0.0, math.log(2.0)], [5.0, 6.0, 7.0]])
    targets = SparseTargets.from_lists([[0, 2], []])
    # Probabilities 1/4, 1/4, 1/2; half the target on 1/4 and half on 1/2; no label adds 0.
    expected = (math.log(4) + math.log(2)) / 2
    loss = softmax_cross_entropy(logits, targets, "none")
    assert loss.tolist() == pytest.approx([expected, 0.0])
    assert softmax_cross_entropy(logits, targets).item() == pytest.approx(expected / 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_equals_dense(n, num_labels, soft, seed):
    logits, targets, p = draw(n, num_labels, seed, soft)
    logits.requires_grad_()
    loss = softmax_cross_entropy(logits, targets)
    expected = F.cross_entropy(logits, p)
    torch.testing.assert_close(loss, expected)
    (grad,) = torch.autograd.grad(loss, logits)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize("reduction", ["mean_rows", "mean", "sum", "none"])
def test_gradcheck(reduction):
    logits, targets, _ = draw(4, 6, 1, True)
    assert torch.autograd.gradcheck(
        lambda z: softmax_cross_entropy(z, targets, reduction), (logits.requires_grad_(),)
    )


def test_accumulates_in_float32():
    logits, targets, _ = draw(8, 3000, 2, False)
    half = logits.to(torch.bfloat16)
    loss = softmax_cross_entropy(half, targets)
    assert loss.dtype == torch.float32
    expected = softmax_cross_entropy(half.double(), targets)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    "indices, message",
    [
        ([-1, 0], "targets must hold labels from 0 to 4, got -1 at 0 in row 0"),
        ([0, 5], "targets must hold labels from 0 to 4, got 5 at 1 in row 0"),
        ([2, 2], "targets must be distinct within a row, got 2 after 2 in row 0"),
    ],
)
def test_rejects_targets(indices, message):
    targets = SparseTargets(torch.tensor(indices), torch.tensor([0, 2, 2]))
    with pytest.raises(ValueError, match=message):
        softmax_cross_entropy(torch.zeros(2, 5), targets)


def test_labels_in_any_order():
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    sums = [
        softmax_cross_entropy(logits, SparseTargets(torch.tensor(order), torch.tensor([0, 2])))
        for order in ([1, 3], [3, 1])
    ]
    torch.testing.assert_close(*sums)
