"""What operators in place owe to autograd and to their inputs, beside the right numbers."""

import pytest
import torch
from torch import Tensor

from fastheads import ops
from fastheads.targets import SparseTargets

TARGETS = SparseTargets.from_lists([[0], [1]])


def excite(y: Tensor) -> None:
    ops.squeeze_excite_(y, torch.ones(2, 4), None, torch.ones(4, 2), None)


def add_branch(y: Tensor) -> None:
    ops.gated_residual_(y, torch.ones_like(y), torch.ones(2))


def scatter_branch(y: Tensor) -> None:
    ops.gated_residual_scatter_(y, torch.ones_like(y[:1]), torch.tensor([1, 0]))


def add_means(y: Tensor) -> None:
    x = torch.ones(2, 4, 3, 3)
    mean = y.view(2, -1)[:, :4].contiguous() if y.dim() > 2 else y
    ops.gated_residual_scatter_(x, x[:1].clone(), torch.tensor([1, 0]), mean)


def add_logits(y: Tensor) -> None:
    ops.sc_linear_(y, torch.ones(2, 3), torch.ones(12), None, None, [0, 1, 4])


def take_loss(y: Tensor) -> None:
    ops.sc_sigmoid_loss_logits_(y, TARGETS, [0, 1, 4])


def count_confusion(y: Tensor) -> None:
    ops.topk_confusion_(y, torch.tensor([[0], [1]]), TARGETS.indices, TARGETS.offsets)


def count_pairs(y: Tensor) -> None:
    ops.topk_co_detection_(y, torch.tensor([[0, 1], [1, 2]]))


MAPS, MATRIX = (2, 4, 3, 3), (2, 4)
FLOATING = [
    (excite, MAPS), (add_branch, MAPS), (scatter_branch, MAPS), (add_means, MATRIX),
    (add_logits, MATRIX), (take_loss, MATRIX),
]  # fmt: skip


@pytest.mark.parametrize("write, shape", FLOATING)
def test_autograd_refuses_what_was_overwritten_since_it_was_saved(write, shape):
    factor, y = torch.randn(shape, requires_grad=True), torch.randn(shape)
    total = (factor * y).sum()
    write(y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("write, shape", FLOATING)
def test_activations_overwritten_without_gradients_are_refused_too(write, shape):
    saved = torch.randn(shape, requires_grad=True).exp()
    with torch.no_grad():
        write(saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()


@pytest.mark.parametrize("write", [count_confusion, count_pairs])
def test_counts_have_a_version(write):
    counts = torch.zeros(4, 4, dtype=torch.int32)
    write(counts)
    assert counts._version == 1


@pytest.mark.parametrize("write, shape", [*FLOATING, (count_pairs, (4, 4))])
def test_inference_mode_has_no_versions(write, shape):
    with torch.inference_mode():
        y = torch.ones(shape, dtype=torch.int32 if write is count_pairs else None)
        before = y.clone()
        write(y)
        assert not torch.equal(y, before)


@pytest.mark.parametrize("write, shape", [each for each in FLOATING if each[0] is not add_logits])
def test_what_needs_a_gradient_is_not_overwritten(write, shape):
    leaf = torch.randn(shape, requires_grad=True)
    before = leaf.detach().clone()
    with pytest.raises(RuntimeError, match=r"must (not )?require a gradient"):
        write(leaf)
    assert torch.equal(leaf, before)


@pytest.mark.parametrize("other", ["x", "weight", "bias", "generic"])
def test_sc_linear_reads_nothing_where_it_writes(other):
    memory = torch.ones(40)
    inputs = {
        "x": torch.ones(2, 3),
        "weight": torch.ones(20),
        "bias": torch.ones(4),
        "generic": torch.ones(2, 2),
    }
    y = memory[: 2 * 4].view(2, 4)
    inputs[other] = memory[3:].as_strided(inputs[other].shape, inputs[other].stride())
    before = memory.clone()
    with pytest.raises(RuntimeError, match=f"sc_linear_: y must not overlap {other}"):
        ops.sc_linear_(y, *list(inputs.values())[:3], None, [0, 1, 4], generic=inputs["generic"])
    assert torch.equal(memory, before)


def test_sc_linear_writes_columns_beside_those_it_reads():
    both = torch.ones(3, 9)
    ops.sc_linear_(both[:, 5:], both[:, 1:4], torch.ones(12), None, None, [0, 1, 4])
    assert torch.equal(both, torch.tensor([[1.0] * 5 + [4.0] * 4] * 3))


@pytest.mark.parametrize(
    "y", [torch.zeros(1, 4).expand(2, 4), torch.zeros(9).as_strided((2, 4), (3, 1))]
)
def test_sc_linear_refuses_rows_that_overlap(y):
    with pytest.raises(RuntimeError, match="y must not overlap itself, got strides"):
        ops.sc_linear_(y, torch.ones(2, 3), torch.ones(12), None, None, [0, 1, 4])
