"""Targets that TopLayers refuses, in the words of who gave them: not of the group order inside."""

import pytest
import torch
from top_layers import features_of, groupings, head_of
from torch._subclasses.fake_tensor import FakeTensorMode

from fastheads.targets import SparseTargets


@groupings
@pytest.mark.parametrize(
    "rows, label, position",
    [
        ([[0, 3], [1, 7, 7]], 7, 4),
        ([[5, 5], [2]], 5, 1),
        ([[8], [0, 0, 0]], 0, 2),
        ([[5], [0, 0, 1]], 0, 2),  # in another order by group: 1 comes first
    ],
)
@pytest.mark.parametrize("soft", [False, True])
def test_a_label_twice_in_a_row(soft, rows, label, position, group_of):
    """Named as it was given, with its position among the indices."""
    indices = torch.tensor([label for row in rows for label in row])
    offsets = torch.tensor([0, len(rows[0]), len(indices)])
    values = torch.ones(len(indices), dtype=torch.float64) if soft else None
    named = rf"got {label}\b.* at (position )?{position}\b"
    with pytest.raises((ValueError, RuntimeError), match=named):
        head_of("fc_sc", group_of).loss(features_of(2), SparseTargets(indices, offsets, values))


@groupings
def test_a_label_in_two_rows(group_of):
    """Is no label twice, though the last of one row and the first of the next are equal."""
    targets = SparseTargets(torch.tensor([1, 7, 7]), torch.tensor([0, 2, 3]))
    assert head_of("fc_sc", group_of).loss(features_of(2), targets).isfinite()


@groupings
def test_fakes_are_not_looked_at(group_of):
    head, targets = head_of("fc_sc", group_of), SparseTargets.from_lists([[0, 3], [1]])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x, indices, offsets = map(mode.from_tensor, (features_of(2), *targets[:2]))
        assert head.loss(x, SparseTargets(indices, offsets)).shape == ()
