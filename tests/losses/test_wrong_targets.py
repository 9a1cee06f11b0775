"""Targets that the losses over ascending labels refuse, by the check that they share."""

import pytest
import torch

from fastheads.losses import multilabel_margin, multilabel_soft_margin
from fastheads.targets import SparseTargets

WRONG = [
    ([0, 1, 5], "targets must hold labels from 0 to 4, got 5 at 2 in row 1"),
    ([-1, 1, 2], "targets must hold labels from 0 to 4, got -1 at 0 in row 0"),
    ([0, 3, 1], "targets must be distinct and ascend within a row, got 1 after 3 in row 1"),
    ([0, 1, 1], "targets must be distinct and ascend within a row, got 1 after 1 in row 1"),
]


@pytest.mark.parametrize("loss", [multilabel_margin, multilabel_soft_margin])
@pytest.mark.parametrize("indices, message", WRONG)
def test_labels(loss, indices, message):
    targets = SparseTargets(torch.tensor(indices), torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(2, 5), targets)


@pytest.mark.parametrize("loss", [multilabel_margin, multilabel_soft_margin])
def test_offsets(loss):
    """An end before the last label would drop it."""
    targets = SparseTargets(torch.tensor([1, 2]), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="ascend from 0 to the 2 entries of indices, got 1 at 2"):
        loss(torch.zeros(2, 5), targets)
