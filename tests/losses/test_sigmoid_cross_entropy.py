import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastheads.losses import sigmoid_cross_entropy
from fastheads.targets import SparseTargets


def dense(targets, num_labels):
    y = torch.zeros(targets.num_rows, num_labels, dtype=torch.float64)
    values = torch.ones(targets.indices.numel()) if targets.values is None else targets.values
    y[targets.row_indices(), targets.indices] = values.double()
    return y


def draw(n, num_labels, seed=0, soft=False):
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(n, num_labels, generator=generator) < 0.2
    targets = SparseTargets.from_lists([row.nonzero().flatten().tolist() for row in y])
    if soft:
        targets = targets._replace(values=torch.rand(targets.indices.numel(), generator=generator))
    return 5 * torch.randn(n, num_labels, generator=generator), targets


def test_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    targets = SparseTargets.from_lists([[1], []])
    # Row 0: ln 2 for label 0, -ln(3/4) for label 1; row 1: ln 2 twice.
    expected = [math.log(2) + math.log(4 / 3), 2 * math.log(2)]
    assert sigmoid_cross_entropy(logits, targets, "none").tolist() == pytest.approx(expected)
    mean_rows = sigmoid_cross_entropy(logits, targets)
    assert mean_rows.item() == pytest.approx(sum(expected) / 2)
    assert sigmoid_cross_entropy(logits, targets, "sum").item() == pytest.approx(sum(expected))
    assert sigmoid_cross_entropy(logits, targets, "mean").item() == pytest.approx(sum(expected) / 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_equals_dense(n, num_labels, soft, seed):
    logits, targets = draw(n, num_labels, seed, soft)
    logits = logits.double().requires_grad_()
    loss = sigmoid_cross_entropy(logits, targets, "sum")
    expected = F.binary_cross_entropy_with_logits(
        logits, dense(targets, num_labels), reduction="sum"
    )
    torch.testing.assert_close(loss, expected)
    (grad,) = torch.autograd.grad(loss, logits)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize("reduction", ["mean_rows", "mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_gradcheck(reduction, soft):
    logits, targets = draw(3, 7, soft=soft)
    if soft:
        targets = targets._replace(values=targets.values.double())
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: sigmoid_cross_entropy(z, targets, reduction), (logits,)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_accumulates_in_float32(dtype):
    logits, targets = draw(8, 3000)
    logits = logits.to(dtype).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    loss = sigmoid_cross_entropy(logits, targets)
    expected = sigmoid_cross_entropy(exact, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0.0)
    loss.backward()
    expected.backward()
    assert logits.grad.dtype == dtype
    # One rounding to dtype, of numbers of at most 1/8.
    atol = torch.finfo(dtype).eps / 8
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=0.0, atol=atol)


def test_extreme_logits():
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4], [100.0, -200.0]], requires_grad=True)
    targets = SparseTargets.from_lists([[0], [1], []])
    loss = sigmoid_cross_entropy(logits, targets, "none")
    assert loss.tolist() == [0.0, 2e4, 100.0]
    loss.sum().backward()
    assert logits.grad.tolist() == [[0.0, 0.0], [1.0, -1.0], [1.0, 0.0]]


def test_large_logit_of_a_target_takes_no_digits():
    logits = torch.full((1, 100_000), -11.0)
    logits[0, 5] = 1e6
    loss = sigmoid_cross_entropy(logits, SparseTargets.from_lists([[5]]))
    assert loss.item() == pytest.approx(99_999 * math.log1p(math.exp(-11)), rel=1e-5)


@example(20.0, 1.0)
@given(st.floats(-100, 100), st.floats(0, 1))
def test_digits_of_one_label(logit, value):
    """As exact as softplus in float32, also where softplus(z) and y z are nearly the same."""
    z, y = torch.tensor([[logit]]), torch.tensor([value])
    loss = sigmoid_cross_entropy(z, SparseTargets(torch.tensor([0]), torch.tensor([0, 1]), y))
    zero = torch.zeros((), dtype=torch.float64)
    up, down = (torch.logaddexp(sign * z.double(), zero) for sign in (1, -1))
    expected = ((1 - y.double()) * up + y * down).sum()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-37)


def test_dropped_labels():
    """Minus infinity at labels that are no targets: no loss and no gradient."""
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf], [-torch.inf] * 3], requires_grad=True)
    loss = sigmoid_cross_entropy(logits, SparseTargets.from_lists([[1], []]), "none")
    assert loss.tolist() == pytest.approx([math.log(2), 0.0])
    loss.sum().backward()
    assert logits.grad.tolist() == [[0.0, -0.5, 0.0], [0.0, 0.0, 0.0]]


def test_transposed_logits():
    logits, targets = draw(6, 5)
    column_major = logits.T.contiguous().T
    assert not column_major.is_contiguous()
    torch.testing.assert_close(
        sigmoid_cross_entropy(column_major, targets), sigmoid_cross_entropy(logits, targets)
    )


@pytest.mark.parametrize(
    "logits, rows, reduction, message",
    [
        (torch.zeros(3), [[0]] * 3, "sum", r"logits must be a floating \[N, L\] matrix.*\[3\]"),
        (torch.zeros(3, 2, dtype=torch.int64), [[0]] * 3, "sum", "logits must be a floating"),
        (torch.zeros(3, 2), [[0]] * 2, "sum", "one row for each of the 3 rows of logits, got 2"),
        (torch.zeros(3, 2), [[0]] * 3, "max", "reduction must be one of.*'max'"),
    ],
)
def test_rejects(logits, rows, reduction, message):
    with pytest.raises(ValueError, match=message):
        sigmoid_cross_entropy(logits, SparseTargets.from_lists(rows), reduction)


@pytest.mark.parametrize(
    "indices, offsets, values, message",
    [
        ([-1], [0, 1, 1], None, "targets must hold labels from 0 to 4, got -1 at 0 in row 0"),
        ([0, 5], [0, 1, 2], None, "targets must hold labels from 0 to 4, got 5 at 1 in row 1"),
        ([2, 0, 2], [0, 3, 3], None, "targets must be distinct within a row, got 2 after 2"),
        ([0, 1], [0, 1, 1], None, "ascend from 0 to the 2 entries of indices, got 1 at 2"),
        ([0, 1], [0, 2, 2], [0.5], r"values of targets must be floating \[2\].*\[1\]"),
    ],
)
def test_rejects_targets(indices, offsets, values, message):
    values = None if values is None else torch.tensor(values)
    targets = SparseTargets(torch.tensor(indices), torch.tensor(offsets), values)
    with pytest.raises(ValueError, match=message):
        sigmoid_cross_entropy(torch.zeros(2, 5), targets)


def test_labels_in_any_order():
    logits, targets = draw(5, 40, soft=True)
    turned = [part.flip(0) for part in torch.split(targets.indices, targets.counts.tolist())]
    values = [part.flip(0) for part in torch.split(targets.values, targets.counts.tolist())]
    other = targets._replace(indices=torch.cat(turned), values=torch.cat(values))
    assert torch.equal(sigmoid_cross_entropy(logits, other), sigmoid_cross_entropy(logits, targets))
