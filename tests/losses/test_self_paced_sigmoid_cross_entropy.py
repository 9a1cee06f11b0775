"""Self-paced sigmoid cross-entropy of given logits, in what it does not share with the operator."""

import pytest
import torch
from gpu import is_gpu

from fastheads.losses import self_paced_sigmoid_cross_entropy, sigmoid_cross_entropy
from fastheads.ops import sc_sigmoid_loss, sc_sigmoid_loss_logits_reference
from fastheads.targets import SparseTargets

OUT = [0, 5, 5, 6, 40]


def draw(rows=6, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, OUT[-1], generator=generator, dtype=dtype).requires_grad_()
    lists = [torch.randint(0, OUT[-1], (3,), generator=generator).tolist() for _ in range(rows)]
    targets = SparseTargets.from_lists(lists)
    return logits, targets._replace(values=torch.rand(len(targets.indices), generator=generator))


def parameters(level, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    gamma = torch.rand(len(OUT) - 1 if level == "group" else OUT[-1], generator=generator)
    bias = torch.randn(OUT[-1], generator=generator)
    return 5 * gamma.to(dtype).requires_grad_().detach(), bias.to(dtype)


@pytest.mark.parametrize("level", ["group", "label"])
@pytest.mark.parametrize("reduction", ["mean_rows", "mean", "sum"])
def test_equals_the_plain_formula(level, reduction):
    logits, targets = draw()
    gamma, bias = (t.requires_grad_() for t in parameters(level))
    options = dict(gamma=gamma, label_bias=bias)
    loss = self_paced_sigmoid_cross_entropy(logits, targets, OUT, reduction=reduction, **options)
    expected = sc_sigmoid_loss_logits_reference(logits, targets, OUT, **options).sum()
    expected = expected / {"mean_rows": 6, "mean": 240, "sum": 1}[reduction]
    torch.testing.assert_close(loss, expected)
    leaves = (logits, gamma, bias)
    for found, right in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(found, right)


def test_as_many_groups_as_labels():
    """Gamma is one a label if the caller says so, or one a group; the shape does not tell."""
    logits, out = torch.tensor([[3.0, 4.0]], dtype=torch.float64), [0, 2, 2]
    targets, gamma = SparseTargets.from_lists([[1]]), torch.tensor([2.0, 0.5], dtype=torch.float64)
    for per_label in (True, False):
        options = dict(gamma=gamma, gamma_per_label=per_label)
        loss = self_paced_sigmoid_cross_entropy(logits, targets, out, **options)
        expected = sc_sigmoid_loss_logits_reference(logits, targets, out, **options).sum()
        torch.testing.assert_close(loss, expected)


def test_without_norm_it_is_sigmoid_cross_entropy():
    logits, targets = draw()
    for reduction in ("mean_rows", "mean", "sum"):
        found, expected = (
            self_paced_sigmoid_cross_entropy(
                logits, targets, OUT, normalize=False, reduction=reduction
            ),
            sigmoid_cross_entropy(logits, targets, reduction),
        )
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            *(torch.autograd.grad(loss, logits)[0] for loss in (found, expected))
        )


def test_equals_the_operator_on_a_layer():
    _, targets = draw()
    gamma, _ = parameters("group")
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    of_layer = sc_sigmoid_loss(x, weight.flatten(), None, targets, None, OUT, gamma=gamma)
    of_logits = self_paced_sigmoid_cross_entropy(x @ weight.T, targets, OUT, gamma=gamma)
    torch.testing.assert_close(of_layer, of_logits)


def test_logits_are_left_alone():
    logits, targets = draw(dtype=torch.float32)
    before = logits.detach().clone()
    loss = self_paced_sigmoid_cross_entropy(logits, targets, OUT)
    with torch.no_grad():
        assert torch.equal(self_paced_sigmoid_cross_entropy(logits, targets, OUT), loss)
    assert torch.equal(logits.detach(), before)
    (grad,) = torch.autograd.grad(loss, logits)
    silent = self_paced_sigmoid_cross_entropy(logits, targets, OUT, with_loss=False)
    assert silent == 0 and torch.equal(torch.autograd.grad(silent, logits)[0], grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_in_float32(dtype):
    logits = draw(dtype=torch.float32)[0].detach().to(dtype).requires_grad_()
    targets = draw()[1]
    loss = self_paced_sigmoid_cross_entropy(logits, targets, OUT)
    exact = sc_sigmoid_loss_logits_reference(logits.double(), targets, OUT).sum() / 6
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
    (grad,) = torch.autograd.grad(loss, logits)
    (right,) = torch.autograd.grad(exact, logits)
    assert grad.dtype == dtype
    torch.testing.assert_close(grad, right)


def test_transposed_logits():
    logits, targets = draw()
    column_major = logits.detach().T.contiguous().T.requires_grad_()
    losses = [self_paced_sigmoid_cross_entropy(z, targets, OUT) for z in (logits, column_major)]
    assert torch.equal(*losses)
    grads = [torch.autograd.grad(*pair)[0] for pair in zip(losses, (logits, column_major))]  # noqa: B905
    assert torch.equal(*grads)


def test_compile():
    logits, targets = draw(dtype=torch.float32)
    gamma = torch.ones(4, requires_grad=True)

    def loss(logits):
        return self_paced_sigmoid_cross_entropy(2 * logits, targets, OUT, gamma=gamma)

    found, expected = torch.compile(loss, fullgraph=True)(logits), loss(logits)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, (logits, gamma)),
        torch.autograd.grad(expected, (logits, gamma)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(logits=torch.zeros(3)), r"logits must be a floating \[B, N\] matrix"),
        (dict(logits=torch.zeros(6, 40, dtype=torch.int64)), "logits must be a floating"),
        (dict(out_offsets=[0, 5]), "out_offsets must end at the 40 columns of logits, got 5"),
        (dict(out_offsets=[0, 50, 40]), "out_offsets must ascend from 0"),
        (dict(logits=torch.zeros(5, 40)), "one row for each of the 5 rows of logits, got 6"),
        (dict(reduction="none"), "reduction must be one of"),
        (dict(gamma=torch.zeros(3)), r"gamma must be \[4\], one per group, or \[40\]"),
    ],
)
def test_rejects(changed, message):
    logits, targets = draw()
    arguments = {"logits": logits, "targets": targets, "out_offsets": OUT, **changed}
    with pytest.raises(ValueError, match=message):
        self_paced_sigmoid_cross_entropy(**arguments)


@pytest.mark.parametrize(
    "indices, message",
    [
        ([0, 3, 40], "targets must hold labels from 0 to 39, got 40 at 2 in row 1"),
        ([-1, 3, 4], "targets must hold labels from 0 to 39, got -1 at 0 in row 0"),
        ([0, 9, 9], "distinct and ascend within a row, got 9 after 9 at 2 in row 1"),
        ([0, 9, 4], "distinct and ascend within a row, got 4 after 9 at 2 in row 1"),
    ],
)
@pytest.mark.parametrize("trained", [True, False])
def test_rejects_targets(trained, indices, message, device):
    """With their position on the CPU; CUDA does not wait for the device, and the loss is NaN."""
    targets = SparseTargets(torch.tensor(indices), torch.tensor([0, 1, 3])).to(device)
    logits = draw(rows=2)[0].detach().to(device).requires_grad_(trained)
    if is_gpu(device):
        assert self_paced_sigmoid_cross_entropy(logits, targets, OUT).isnan()
        return
    with pytest.raises(RuntimeError, match=message):
        self_paced_sigmoid_cross_entropy(logits, targets, OUT)
