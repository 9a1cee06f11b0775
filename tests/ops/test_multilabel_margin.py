"""multilabel_margin against its reference, float64 and literal cases."""

import math

import pytest
import torch
from accuracy import assert_as_accurate
from gpu import is_gpu
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastheads.ops import multilabel_margin, multilabel_margin_reference
from fastheads.targets import SparseTargets

NAN, INF = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (7, 5), (3, 129), (5, 1025), (2, 4099), (8, 64), (0, 8), (4, 0)]


def draw(rows, labels, seed=0, share=0.2, dtype=torch.float32, device="cpu"):
    """Logits whose hinges are above 0 for about half of the pairs, and targets."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(rows, labels, generator=generator) < share
    logits = torch.randn(rows, labels, generator=generator) + y
    targets = SparseTargets.from_lists([row.nonzero().flatten().tolist() for row in y])
    return logits.to(device, dtype), targets.to(device)


def gradient(function, logits, targets, scale=1.0) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    loss = function(logits, targets, scale)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def test_by_hand_section_4_4_1(device):
    """The paper's example of labels 0 and 2 of four; rounded nowhere."""
    logits = torch.tensor([[1.0, 0.5, 3.0, 1.5]], device=device)
    targets = SparseTargets.from_lists([[0, 2]]).to(device)
    # x_0: 1 - 1 + 0.5 and 1 - 1 + 1.5; x_2 lies more than 1 above both.
    loss, grad = gradient(multilabel_margin, logits, targets, 0.25)
    assert loss.item() == 0.25 * (0.5 + 1.5)
    assert grad.tolist() == [[-0.5, 0.25, 0.0, 0.25]]


def test_corner_by_hand(device):
    """1 - 2 + 1 is no more than 0: no gradient; neither has a row without labels."""
    logits = torch.tensor([[2.0, 1.0, 1.5], [9.0, 9.0, 9.0]], device=device)
    targets = SparseTargets.from_lists([[0], []]).to(device)
    loss, grad = gradient(multilabel_margin, logits, targets)
    assert loss.item() == 0.5
    assert grad.tolist() == [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_as_accurate_as_eager(shape, share, dtype, device):
    logits, targets = draw(*shape, share=share, dtype=dtype, device=device)
    scale = 1 / max(logits.numel(), 1)
    ours, eager = (
        gradient(f, logits, targets, scale)
        for f in (multilabel_margin, multilabel_margin_reference)
    )
    exact = gradient(multilabel_margin_reference, logits.double(), targets, scale)
    for a, b, c in zip(ours, eager, exact, strict=True):
        assert_as_accurate(a, b, c)
    assert ours[1].is_contiguous()


@pytest.mark.parametrize("labels", [2_000_003, 1 << 21])
def test_one_huge_row(labels, device):
    logits, _ = draw(1, labels, device=device)
    targets = SparseTargets.from_lists([[0, 1023, 1024, labels - 1]]).to(device)
    ours = gradient(multilabel_margin, logits, targets)
    exact = multilabel_margin_reference(logits.double(), targets)
    torch.testing.assert_close(ours[0].double(), exact, rtol=1e-6, atol=0)
    assert torch.equal(ours[1], gradient(multilabel_margin_reference, logits, targets)[1])


def test_large_gradients(device):
    """More than the caches keep, in aligned rows, which have a way of their own to memory."""
    logits, targets = draw(44, 100_000, share=2e-5, device=device)
    ours = gradient(multilabel_margin, logits, targets)
    other = gradient(multilabel_margin_reference, logits, targets)
    torch.testing.assert_close(ours[0], other[0], rtol=1e-6, atol=0)
    assert torch.equal(ours[1], other[1])  # counts


def test_many_targets_in_a_row(device):
    logits, targets = draw(3, 9001, share=0.1, device=device)
    ours, other = (
        gradient(f, logits, targets) for f in (multilabel_margin, multilabel_margin_reference)
    )
    torch.testing.assert_close(ours[0], other[0], rtol=1e-5, atol=0)
    assert torch.equal(ours[1], other[1])


@given(
    rows=st.integers(0, 6),
    labels=st.integers(0, 70),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape(rows, labels, share, seed, dtype):
    logits, targets = draw(rows, labels, seed, share, dtype)
    ours, other = (
        gradient(f, logits, targets) for f in (multilabel_margin, multilabel_margin_reference)
    )
    torch.testing.assert_close(ours[0], other[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(ours[1], other[1])


def test_special_values(device):
    def loss(*row):
        logits = torch.tensor([row], device=device)
        return multilabel_margin(logits, SparseTargets.from_lists([[0]]).to(device)).item()

    assert loss(0.0, -INF) == 0 and loss(INF, 5.0) == 0
    assert loss(0.0, INF) == INF and not math.isfinite(loss(-INF, 0.0))
    assert loss(1e30, 3.0) == 0 and loss(3.0, -1e30, 2.5) == 0.5
    assert all(map(math.isnan, (loss(NAN, 0.0), loss(0.0, NAN), loss(0.0, 0.0, NAN))))


@pytest.mark.parametrize("rows, labels", [(4, 6), (1, 1), (3, 40)])
def test_gradcheck(rows, labels, device):
    logits, targets = draw(rows, labels, share=0.4, dtype=torch.float64, device=device)
    logits.requires_grad_()
    op = torch.ops.fastheads.multilabel_margin.default
    for function in (
        lambda x: multilabel_margin(x, targets, 0.3),
        lambda x: op(x, targets.indices, targets.offsets),
    ):
        assert torch.autograd.gradcheck(function, (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype, device):
    logits, targets = draw(5, 37, dtype=dtype, device=device)
    grad = torch.rand(5, dtype=torch.float64, device=device)
    column_major = logits.T.contiguous().T
    for x in (logits, logits.clone().requires_grad_(), column_major):
        arguments = (x, targets.indices, targets.offsets)
        opcheck(torch.ops.fastheads.multilabel_margin.default, arguments)
        arguments = (grad, x.detach(), *arguments[1:])
        opcheck(torch.ops.fastheads.multilabel_margin_backward.default, arguments)


def test_rows_in_place_and_transposed(device):
    logits = draw(6, 90, device=device)[0][:, 3:40]
    _, targets = draw(6, 37, device=device)
    expected = gradient(multilabel_margin, logits.clone(), targets)
    for x in (logits, logits.T.contiguous().T, torch.stack([logits, logits], 2)[..., 0]):
        assert not x.is_contiguous()
        found = gradient(multilabel_margin, x, targets)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_backward_twice_and_scaled(device):
    """The gradient that is ready is that of a factor 1, and is handed over once."""
    logits, targets = draw(5, 300, device=device)
    logits.requires_grad_()
    loss = multilabel_margin(logits, targets, 0.5)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    kept = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (third,) = torch.autograd.grad(loss, logits, loss.new_tensor(3.0))
    assert kept.any() and torch.equal(second, kept) and torch.equal(third, 3 * kept)


def test_gradients_below_float16_survive_scaling(device):
    """1 / (N L) alone would be 0 in float16; a loss scaled by 65536 has its gradients."""
    logits, targets = draw(64, 1000, share=0.002, dtype=torch.float16, device=device)
    logits.requires_grad_()
    (65536 * multilabel_margin(logits, targets, 1e-8)).backward()
    exact = gradient(multilabel_margin_reference, logits.double(), targets, 65536e-8)[1]
    torch.testing.assert_close(logits.grad.double(), exact, rtol=1e-3, atol=0)


def test_without_gradients(device):
    logits, targets = draw(5, 300, device=device)
    expected = multilabel_margin(logits.clone().requires_grad_(), targets)
    with torch.no_grad():
        assert torch.equal(multilabel_margin(logits, targets), expected)
    assert not multilabel_margin(logits, targets).requires_grad


def test_compile(device):
    logits, targets = draw(6, 50, device=device)
    logits.requires_grad_()

    def loss(x):
        return 2 * multilabel_margin(x.sin(), targets, 0.1)

    compiled = torch.compile(loss, fullgraph=True)
    found, expected = compiled(logits), loss(logits)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, logits)[0] for v in (found, expected)))


def test_same_bits_for_any_number_of_threads():
    logits, targets = draw(50, 3001)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(gradient(multilabel_margin, logits, targets))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    "rows, message",
    [
        ([[0, 5], []], "targets must hold labels from 0 to 4, got 5 at 1 in row 0"),
        ([[], [-1]], "targets must hold labels from 0 to 4, got -1 at 0 in row 1"),
        ([[1], [2, 2]], "targets must be distinct and ascend within a row, got 2 after 2"),
        ([[3, 1], []], "targets must be distinct and ascend within a row, got 1 after 3"),
    ],
)
def test_rejects_targets(rows, message, device):
    """With their position on the CPU; CUDA does not wait for the device, and the loss is NaN."""
    indices = torch.tensor([label for row in rows for label in row])
    lengths = torch.tensor([0] + [len(row) for row in rows])
    targets = SparseTargets(indices, lengths.cumsum(0)).to(device)
    logits = torch.zeros(2, 5, device=device)
    if is_gpu(device):
        assert multilabel_margin(logits, targets).isnan()
        return
    with pytest.raises(RuntimeError, match=message):
        multilabel_margin(logits, targets)


def test_rejects_values():
    targets = SparseTargets.from_lists([[0], [1]])._replace(values=torch.ones(2))
    with pytest.raises(ValueError, match=r"targets must have no values.*got 2"):
        multilabel_margin(torch.zeros(2, 5), targets)


def test_native_rejects():
    op, long = torch.ops.fastheads.multilabel_margin_backward.default, torch.int64
    right = dict(
        grad=torch.zeros(3, dtype=torch.float64), logits=torch.zeros(3, 5),
        indices=torch.zeros(0, dtype=long), offsets=torch.zeros(4, dtype=long),
    )  # fmt: skip
    op(**right)
    wrong = [
        (dict(logits=torch.zeros(5)), "logits must be [N, L], got 1 dimensions"),
        (dict(logits=torch.zeros(3, 5, dtype=long)), "logits must be float32, float64"),
        (dict(indices=torch.zeros(0)), "indices must be Long, got Float"),
        (dict(indices=torch.zeros(0, 1, dtype=long)), "indices must be [nonzeros], got 2"),
        (dict(offsets=torch.zeros(3, dtype=long)), "offsets of targets must have 4 entries"),
        (dict(offsets=torch.zeros(4)), "offsets must be Long, got Float"),
        (dict(offsets=torch.ones(4, dtype=long)), "offsets of targets must ascend from 0 to the 0"),
        (dict(grad=torch.zeros(2, dtype=torch.float64)), "grad must be [3]"),
        (dict(grad=torch.zeros(3)), "grad must be Double, got Float"),
    ]
    for changed, message in wrong:
        with pytest.raises(RuntimeError) as error:
            op(**{**right, **changed})
        assert message in str(error.value), message


def test_no_multiply_adds():
    logits, targets = draw(4, 50)
    with FlopCounterMode(display=False) as counter:
        gradient(multilabel_margin, logits, targets)
    assert counter.get_total_flops() == 0
