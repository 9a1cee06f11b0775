import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastheads.targets import SparseTargets

ROWS = st.lists(st.lists(st.integers(0, 20), max_size=6), max_size=12)


@given(ROWS)
def test_lists_survive(rows):
    targets = SparseTargets.from_lists(rows)
    assert targets.tolist() == [sorted(set(row)) for row in rows]
    assert targets.num_rows == len(rows)
    assert targets.indices.dtype == targets.offsets.dtype == torch.int64
    assert targets.counts.tolist() == [len(set(row)) for row in rows]
    expected = [r for r, row in enumerate(rows) for _ in set(row)]
    assert targets.row_indices().tolist() == expected


@given(ROWS.filter(bool), st.data())
def test_select_is_indexing(rows, data):
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    targets = SparseTargets.from_lists(rows)
    targets = targets._replace(values=torch.arange(targets.indices.numel()) / 7)
    selected = targets.select(torch.tensor(picked, dtype=torch.int64))
    lists = targets.tolist()
    assert selected.tolist() == [lists[p] for p in picked]
    values = torch.split(targets.values, targets.counts.tolist())
    expected = torch.cat([values[p] for p in picked]) if picked else torch.empty(0)
    assert torch.equal(selected.values, expected)


def test_indexing_by_number_stays_that_of_a_tuple():
    targets = SparseTargets.from_lists([[3, 1], []])
    indices, offsets, values = targets
    assert indices.tolist() == [1, 3] and offsets.tolist() == [0, 2, 2] and values is None


def test_to_moves_every_part():
    targets = SparseTargets(torch.tensor([0]), torch.tensor([0, 1]), torch.tensor([0.5]))
    moved = targets.to("meta")
    assert {part.device.type for part in moved} == {"meta"}
    assert targets._replace(values=None).to("meta").values is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_select_on_the_gpu():
    targets = SparseTargets.from_lists([[3, 1], [], [2]]).to("cuda")
    assert targets.select(torch.tensor([2, 0], device="cuda")).tolist() == [[2], [1, 3]]
