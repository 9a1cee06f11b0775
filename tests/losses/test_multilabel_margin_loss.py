import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fastheads.losses import multilabel_margin
from fastheads.targets import SparseTargets


def draw(rows, labels, seed):
    """Logits, sparse targets, and the same targets as torch wants them: padded by -1."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(rows, labels, generator=generator) < 0.3
    targets = SparseTargets.from_lists([row.nonzero().flatten().tolist() for row in y])
    padded = torch.full((rows, labels), -1)
    for row, chosen in zip(padded, targets.tolist(), strict=True):
        row[: len(chosen)] = torch.tensor(chosen, dtype=torch.int64)
    return 2 * torch.randn(rows, labels, generator=generator), targets, padded


def test_by_hand_section_4_4_1():
    """Pairs cost 1.1 and 1.3, 0.4 and 0.6; the row without labels counts in the mean."""
    logits = torch.tensor([[0.1, 0.2, 0.4, 0.8], [3.0, 1.0, 4.0, 1.0]])
    targets = SparseTargets.from_lists([[0, 3], []])
    assert multilabel_margin(logits, targets).item() == pytest.approx(3.4 / 4 / 2)


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 99))
def test_equals_torch(rows, labels, seed):
    logits, targets, padded = draw(rows, labels, seed)
    logits.requires_grad_()
    loss = multilabel_margin(logits, targets)
    expected = nn.MultiLabelMarginLoss()(logits, padded)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, logits)[0] for v in (loss, expected)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_accumulates_in_float32(dtype):
    logits, targets, _ = draw(8, 3000, 0)
    logits = logits.to(dtype).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    loss, expected = multilabel_margin(logits, targets), multilabel_margin(exact, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0.0)
    loss.backward()
    assert logits.grad.dtype == dtype and logits.grad.isfinite().all()


def test_learns_to_rank_labels_first():
    """Gradient descent on the logits lifts the labels 1 above everything else."""
    logits, targets, _ = draw(5, 30, 1)
    logits.requires_grad_()
    for _ in range(500):
        (grad,) = torch.autograd.grad(multilabel_margin(logits, targets), logits)
        logits = (logits - 2 * grad).detach().requires_grad_()
    for row, labels in zip(logits.detach(), targets.tolist(), strict=True):
        others = [i for i in range(30) if i not in labels]
        if labels:
            assert row[labels].min() > row[others].max() + 0.9


def test_empty_batch():
    logits = torch.zeros(0, 7, requires_grad=True)
    loss = multilabel_margin(logits, SparseTargets.from_lists([]))
    loss.backward()
    assert loss.item() == 0 and logits.grad.shape == (0, 7)


@pytest.mark.parametrize(
    "logits, rows, message",
    [
        (torch.zeros(3), [[0]] * 3, r"logits must be a floating \[N, L\] matrix.*\[3\]"),
        (torch.zeros(3, 2, dtype=torch.int64), [[0]] * 3, "logits must be a floating"),
        (torch.zeros(3, 2), [[0]] * 2, "one row for each of the 3 rows of logits, got 2"),
    ],
)
def test_rejects(logits, rows, message):
    with pytest.raises(ValueError, match=message):
        multilabel_margin(logits, SparseTargets.from_lists(rows))
