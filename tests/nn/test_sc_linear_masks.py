"""SCLinear.from_dense: which groups a mask of a dense layer has."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from fastheads.nn import SCLinear


@pytest.mark.parametrize(
    "mask, in_sizes, out_sizes, generic",
    [
        (["1100", "1100", "0011"], [2, 2], [2, 1], 0),
        (["1110", "1101"], [1, 1], [1, 1], 2),
        (["111", "111"], [3], [2], 0),
        (["0110"], [1, 2, 1], [0, 1, 0], 0),  # nobody reads the first column and the last
        (["110", "000", "001"], [2, 0, 1], [1, 1, 1], 0),
        (["100", "111"], [0, 2], [1, 1], 1),
    ],
)
def test_groups_of_a_mask(mask, in_sizes, out_sizes, generic):
    mask = torch.tensor([[int(c) for c in row] for row in mask])
    dense = nn.Linear(mask.shape[1], len(mask))
    layer = SCLinear.from_dense(dense, mask)
    assert (layer.in_sizes, layer.out_sizes) == (tuple(in_sizes), tuple(out_sizes))
    assert layer.generic == generic and torch.equal(layer.to_dense().weight, dense.weight * mask)


@pytest.mark.parametrize(
    "shape, in_sizes, out_sizes", [((2, 0), [0], [2]), ((0, 3), [3], [0]), ((0, 0), [], [])]
)
def test_groups_of_a_mask_without_entries(shape, in_sizes, out_sizes):
    """Rows without columns are equal: one group. Columns without rows are read by nobody."""
    layer = SCLinear(in_sizes, out_sizes)
    dense = layer.to_dense()
    assert dense.weight.shape == shape
    again = SCLinear.from_dense(dense, torch.ones(shape))
    assert again.extra_repr() == layer.extra_repr()
    assert (again.in_sizes, again.out_sizes) == (tuple(in_sizes), tuple(out_sizes))
    x = torch.randn(4, shape[1])
    assert torch.equal(again(x), layer(x)) and torch.equal(again(x), dense(x))


sizes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6)


@given(sizes=sizes, generic=st.integers(0, 2))
@example(sizes=[(1, 0), (1, 1)], generic=1)
@example(sizes=[(0, 2)], generic=0)
@example(sizes=[(2, 0)], generic=1)
@example(sizes=[(0, 0)], generic=0)
def test_any_mask_of_blocks(sizes, generic):
    """Whatever groups are found, they compute what the masked matrix does."""
    layer = SCLinear(*zip(*sizes, strict=True), generic=generic)
    nn.init.uniform_(layer.weight, 1, 2)
    dense = layer.to_dense()
    again = SCLinear.from_dense(dense, dense.weight != 0)
    assert torch.equal(again.to_dense().weight, dense.weight)
    assert again.macs <= layer.macs
