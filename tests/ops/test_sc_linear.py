"""sc_linear and sc_linear_ against their reference, float64 and literal cases."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear_groups import GROUPS, Layer, zipf
from torch import Tensor

from fastheads.ops import sc_linear, sc_linear_, sc_linear_conditional, sc_linear_reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def assert_as_accurate(layer: Layer) -> None:
    """Result and gradients: off by at most twice what eager PyTorch is, and one rounding."""
    dtype = layer.x.dtype
    wanted = layer.gradients(sc_linear_reference, torch.float64)
    eager, found = (layer.gradients(f, dtype) for f in (sc_linear_reference, sc_linear))
    for ours, theirs, exact in zip(found, eager, wanted, strict=True):
        assert ours.dtype == dtype and ours.shape == exact.shape and ours.is_contiguous()
        if exact.numel() == 0:
            continue
        errors = [(t.double() - exact).abs().max() for t in (ours, theirs)]
        # In float64 eager is the reference itself, so its error is not known: 64 roundings.
        roundings = 64 if dtype == torch.float64 else 1
        assert errors[0] <= 2 * errors[1] + roundings * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_by_hand(dtype, device):
    """Figure 3 (d) of Gao et al.: generic features before those of the group."""

    def tensor(values):
        return torch.tensor(values, dtype=dtype, device=device)

    x, generic = tensor([[1.0, 2, 3]]), tensor([[10.0]])
    weight = tensor([1.0, 1, 0, 2, 0, 1, 0, 4, 1, 5])  # [2, 1 + 2] and [2, 1 + 1]
    y = sc_linear(x, weight, tensor([0.0, 1, 2, 3]), [0, 2, 3], [0, 2, 4], generic=generic)
    assert y.tolist() == [[11, 10 * 2 + 2 + 1, 12 + 2, 10 + 15 + 3]]
    shared = sc_linear(x, tensor([1.0, 0, 0, 0, 1, 1]), None, None, [0, 1, 2])
    assert shared.tolist() == [[1, 5]]


@pytest.mark.parametrize("generic", [None, 9])
@pytest.mark.parametrize("batch", [0, 1, 7, 64])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_accuracy(dtype, groups, batch, generic, device):
    assert_as_accurate(Layer(batch, *GROUPS[groups], generic=generic, device=device, dtype=dtype))


@pytest.mark.parametrize("generic", [None, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_batch(dtype, generic, device):
    """Of groups that are ragged, without labels, without columns, and of one number."""
    read, written = [40, 7, 0, 9, 1], [130, 0, 5, 21, 1]
    assert_as_accurate(Layer(1000, read, written, generic=generic, device=device, dtype=dtype))


# Groups large enough for the products of the library, from some batch on: even enough for one on
# each thread or not, groups without labels or columns, one label, and as large ones with generic
# columns, which are not for the library.
LARGE = {
    "even": ([256, 0, 256, 300, 1], [512, 3, 700, 0, 1], None),
    "uneven": ([400, 30], [900, 1], None),
    "one": ([300], [500], None),
    "generic": ([256, 280], [512, 500], 3),
}


@pytest.mark.parametrize("width", [2304, 2305])
def test_rows_on_both_sides_of_what_a_panel_holds(width, device):
    assert_as_accurate(Layer(70, [width, 3], [51, 20], device=device, dtype=torch.float32))


@pytest.mark.parametrize("batch", [65, 150])
def test_rows_in_several_passes(batch, device):
    """Of 64 rows: as many as the cache holds of 2,004 columns. The last pass may have few."""
    layer = Layer(batch, [2000, 3, 300], [51, 5, 200], generic=4, device=device)
    assert_as_accurate(layer)


@pytest.mark.parametrize("batch", [40, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_a_large_weight(dtype, batch, device):
    """Written past the caches where rows begin at cache lines, which those of 513 columns do not.

    150 rows are more than the cache holds, and add up.
    """
    layer = Layer(batch, [480, 481], [12_000, 6000], generic=32, device=device, dtype=dtype)
    assert_as_accurate(layer)


@pytest.mark.parametrize("groups", LARGE)
@pytest.mark.parametrize("batch", [16, 63, 64, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_groups(dtype, batch, groups, device):
    read, written, generic = LARGE[groups]
    layer = Layer(
        batch, read, written, generic=generic, bias=batch != 63, device=device, dtype=dtype
    )
    assert_as_accurate(layer)
    runs = [layer.gradients(sc_linear, dtype) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_groups_in_place(dtype, device):
    """Strided features into columns of a larger matrix, whose other columns stay as they are."""
    layer = Layer(256, [256, 0, 300], [512, 3, 400], device=device, dtype=dtype)
    wanted = layer(sc_linear_reference, [t if t is None else t.double() for t in layer.tensors()])
    wide = torch.zeros(256, 600, dtype=dtype, device=device)
    wide[:, 7:563] = layer.x
    larger = torch.ones(256, 1000, dtype=dtype, device=device)
    for y, before in ((larger[:, 5:920], 0), (larger[:, 5:920], wanted)):
        sc_linear_(y, wide[:, 7:563], layer.weight, layer.bias, layer.ins, layer.outs,
                   accumulate=before is wanted)  # fmt: skip
        difference = (y.double() - wanted - before).abs().max()
        assert difference <= 8 * torch.finfo(dtype).eps * (wanted + before).abs().max()
    assert larger[:, :5].eq(1).all() and larger[:, 920:].eq(1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_shared_input(bias, dtype, device):
    assert_as_accurate(
        Layer(13, None, [5, 0, 70], shared=37, bias=bias, device=device, dtype=dtype)
    )


def test_no_groups(device):
    x, weight = torch.ones(3, 0, device=device), torch.ones(0, device=device)
    assert sc_linear(x, weight, weight, [0], [0]).shape == (3, 0)


def test_every_pair_is_the_whole_layer(device):
    layer = Layer(5, [33, 7, 20], [40, 40, 40], device=device)
    rows = torch.arange(5, device=device).repeat_interleave(3)
    groups = torch.arange(3, device=device).repeat(5)
    x, weight, bias, _ = layer.tensors()
    values, _ = sc_linear_conditional(x, weight, bias, rows, groups, layer.ins, layer.outs)
    torch.testing.assert_close(values.view(5, -1), layer(sc_linear))


@pytest.mark.parametrize("batch", [3, 64])
def test_many_small_groups(batch, device):
    rng = np.random.default_rng(0)
    written, read = rng.integers(1, 51, 2000).tolist(), rng.integers(1, 20, 2000).tolist()
    layer = Layer(batch, read, written, device=device)
    found = layer.gradients(sc_linear, torch.float32)
    for ours, exact in zip(found, by_shape(layer), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
    assert_as_accurate(Layer(batch, read[:150], written[:150], device=device))


def by_shape(layer: Layer) -> list[Tensor]:
    """The result and the gradients in float64: one batched product for all groups of one shape.

    Quick for thousands of groups, whose reference keeps a gradient of the whole for each of them.
    """
    x, weight, bias, _ = (None if t is None else t.double() for t in layer.tensors())
    grad, y = layer.grad.double(), torch.empty_like(layer.grad, dtype=torch.float64)
    of_x, of_weight = torch.full_like(x, torch.nan), torch.full_like(weight, torch.nan)
    ins, outs = (torch.tensor(places, device=x.device) for places in (layer.ins, layer.outs))
    begins = torch.cat([outs[:1], (ins.diff() * outs.diff()).cumsum(0)])
    shapes, members = torch.stack([ins.diff(), outs.diff()], 1).unique(dim=0, return_inverse=True)
    for shape, (k, n) in enumerate(shapes.tolist()):
        groups = (members == shape).nonzero()  # [m, 1]
        columns, labels, flat = (
            first[groups] + torch.arange(size, device=x.device)
            for first, size in ((ins, k), (outs, n), (begins, n * k))
        )
        read, dy = x[:, columns].movedim(0, 1), grad[:, labels].movedim(0, 1)  # [m, B, k or n]
        w = weight[flat].view(-1, n, k)
        y[:, labels] = (read @ w.mT + bias[labels][:, None]).movedim(1, 0)
        of_x[:, columns] = (dy @ w).movedim(1, 0)
        of_weight[flat] = (dy.mT @ read).flatten(1)
    return [y, of_x, of_weight, grad.sum(0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_vocabulary(dtype, device):
    """100,000 labels, the largest group 30,000, the smallest 1; gradients summed over segments."""
    written = [*zipf(12, 30_000), 1]
    written.append(100_000 - sum(written))
    assert_as_accurate(Layer(2, [8] * 14, written, device=device, dtype=dtype))


def test_large_vocabulary_and_batch(device):
    """100,000 labels in 20 groups, from 27,795 to 1,397."""
    written = zipf(19, 27_795)
    written.append(100_000 - sum(written))
    assert_as_accurate(Layer(64, [16] * 20, written, device=device))


@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(0, 40) | st.integers(60, 140),  # whole panels of rows, and parts of them
    sizes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=6),
    generic=st.none() | st.integers(0, 20),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_shape(seed, batch, sizes, generic, dtype):
    """Whole numbers, so that the order of the sums does not matter."""
    layer = Layer(batch, [k for k, _ in sizes], [n for _, n in sizes], generic=generic, dtype=dtype)
    for tensor in (*layer.tensors(), layer.grad):
        if tensor is not None:
            tensor.mul_(3).round_()
    found, wanted = (layer.gradients(f, dtype) for f in (sc_linear, sc_linear_reference))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("generic", [None, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place(dtype, generic, device):
    """Adds to columns of a larger matrix, to transposed logits, and overwrites."""
    layer = Layer(9, [12, 30], [17, 6], generic=generic, device=device, dtype=dtype)
    product = layer(sc_linear_reference, [t if t is None else t.double() for t in layer.tensors()])
    larger = layer.grad.new_zeros(9, 31)
    for y in (layer.grad.clone(), larger[:, 5:28], layer.grad.t().contiguous().t()):
        before = y.double()
        for add in (True, False):
            wanted = before + product if add else product
            y.copy_(before)
            x, *rest = layer.tensors()
            given = (*rest[:2], layer.ins, layer.outs)
            assert sc_linear_(y, x, *given, generic=rest[2], accumulate=add) is y
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(y.double(), wanted, rtol=4 * eps, atol=16 * eps)
    assert larger[:, :5].eq(0).all() and larger[:, 28:].eq(0).all()


def test_gradients_in_place(device):
    layer = Layer(4, [3, 5], [6, 2], generic=2, device=device, dtype=torch.float64)
    x, weight, bias, generic = (t.requires_grad_() for t in layer.tensors())
    base = layer.grad.clone().requires_grad_()

    def added(base, x, weight, bias, generic):
        return sc_linear_(2 * base, x, weight, bias, layer.ins, layer.outs, generic=generic)

    assert torch.autograd.gradcheck(added, (base, x, weight, bias, generic))
    with pytest.raises(ValueError, match="accumulate must be True where gradients are wanted"):
        sc_linear_(2 * base, x, weight, bias, layer.ins, layer.outs, generic=generic,
                   accumulate=False)  # fmt: skip


@pytest.mark.parametrize("groups", ["ragged", "empty"])
@pytest.mark.parametrize("generic", [None, 2])
def test_gradcheck(groups, generic, device):
    read, written = GROUPS[groups]
    layer = Layer(2, [k % 9 for k in read], [n % 7 for n in written], generic=generic,
                  device=device, dtype=torch.float64)  # fmt: skip
    leaves = [t for t in layer.tensors() if t is not None]

    def call(*tensors):
        return layer(sc_linear, [*tensors, None][:4])

    assert torch.autograd.gradcheck(call, [t.requires_grad_() for t in leaves])
