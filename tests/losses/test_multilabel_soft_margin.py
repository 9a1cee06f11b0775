"""The kernel itself is tested as sc_sigmoid_loss."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fastheads.losses import multilabel_soft_margin
from fastheads.targets import SparseTargets


def test_by_hand_section_4_4_2():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    targets = SparseTargets.from_lists([[1], []])
    # sigmoid is 1/2 and 3/4: the label costs -ln 3/4, what is none -ln 1/2.
    rows = [(math.log(2) + math.log(4 / 3)) / 2, math.log(2)]
    assert multilabel_soft_margin(logits, targets).item() == pytest.approx(sum(rows) / 2)


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 99))
def test_equals_torch(rows, labels, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(rows, labels, generator=generator) < 0.2
    targets = SparseTargets.from_lists([row.nonzero().flatten().tolist() for row in y])
    logits = (5 * torch.randn(rows, labels, generator=generator)).requires_grad_()
    loss = multilabel_soft_margin(logits, targets)
    expected = nn.MultiLabelSoftMarginLoss()(logits, y.float())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, logits)[0] for v in (loss, expected)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_dtypes(dtype):
    """torch.nn.MultiLabelSoftMarginLoss averages in the dtype of the logits."""
    logits = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0)).to(dtype)
    targets = SparseTargets.from_lists([[5], [], [7, 1999]])
    loss = multilabel_soft_margin(logits, targets)
    assert loss.dtype == torch.float32
    exact = multilabel_soft_margin(logits.double(), targets)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0.0)


def test_many_labels():
    """More than the kernel takes at a time, with labels at the borders."""
    logits = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = SparseTargets.from_lists([[8191, 8192], [0, 16_384, 19_999]])
    y = torch.zeros(2, 20_000)
    y[targets.row_indices(), targets.indices] = 1
    loss = multilabel_soft_margin(logits, targets)
    expected = nn.MultiLabelSoftMarginLoss()(logits, y)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, logits)[0] for v in (loss, expected)))


def test_nothing():
    for shape in [(0, 5), (2, 0)]:
        logits = torch.zeros(shape, requires_grad=True)
        loss = multilabel_soft_margin(logits, SparseTargets.from_lists([[]] * shape[0]))
        loss.backward()
        assert loss.item() == 0 and logits.grad.shape == shape


@pytest.mark.parametrize(
    "logits, rows, message",
    [
        (torch.zeros(3), [[0]] * 3, r"logits must be a floating \[N, L\] matrix.*\[3\]"),
        (torch.zeros(3, 2), [[0], [1]], "one row for each of the 3 rows of logits, got 2"),
    ],
)
def test_rejects(logits, rows, message):
    with pytest.raises(ValueError, match=message):
        multilabel_soft_margin(logits, SparseTargets.from_lists(rows))
