import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

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


def refusal(targets, num_labels, ordered=True):
    """What the check says of targets of two rows; nothing if they are right."""
    try:
        targets.check(torch.empty(2, num_labels), "scores", ordered=ordered)
    except ValueError as error:
        return str(error)
    return None


@given(ROWS, st.integers(0, 3))
def test_check_passes_what_is_right(rows, more):
    targets = SparseTargets.from_lists(rows)
    num_labels = max([0, *targets.indices.tolist()]) + 1 + more
    targets.check(torch.empty(len(rows), num_labels), "scores")
    targets = targets._replace(values=torch.empty(len(targets.indices), dtype=torch.float16))
    targets.check(torch.empty(len(rows), num_labels), "scores")


@given(
    st.lists(st.integers(-2, 6), max_size=5), st.lists(st.integers(-1, 6), min_size=3, max_size=3)
)
def test_check_equals_its_definition(indices, offsets):
    targets = SparseTargets(torch.tensor(indices, dtype=torch.int64), torch.tensor(offsets))
    fits = offsets == sorted(offsets) and offsets[0] == 0 and offsets[-1] == len(indices)
    rows = targets.tolist() if fits else []
    known = fits and all(0 <= label < 5 for label in indices)
    distinct = known and all(len(set(row)) == len(row) for row in rows)
    assert (refusal(targets, 5, ordered=False) is None) == distinct
    ascending = distinct and rows == [sorted(row) for row in rows]
    assert (refusal(targets, 5) is None) == ascending


@pytest.mark.parametrize(
    "indices, offsets, message",
    [
        ([0, 5], [0, 0, 2], "targets must hold labels from 0 to 4, got 5 at 1 in row 1"),
        ([0, -1], [0, 2, 2], "targets must hold labels from 0 to 4, got -1 at 1 in row 0"),
        ([3, 1, 1], [0, 1, 3], "distinct and ascend within a row, got 1 after 1 in row 1"),
        ([3, 1], [0, 2, 2], "distinct and ascend within a row, got 1 after 3 in row 0"),
        ([3], [1, 1, 1], "must ascend from 0 to the 1 entries of indices, got 1 at 0"),
        ([3], [0, 2, 1], "must ascend from 0 to the 1 entries of indices, got 1 at 2"),
        ([3, 4], [0, 1, 1], "must ascend from 0 to the 2 entries of indices, got 1 at 2"),
        ([], [0, 0], "targets must have one row for each of the 2 rows of scores, got 1"),
        ([1.0], [0, 1, 1], "indices of targets must be an int64 vector, got torch.float32 [1]"),
        ([[1]], [0, 1, 1], "indices of targets must be an int64 vector, got torch.int64 [1, 1]"),
        ([], [False] * 3, "offsets of targets must be an int64 vector, got torch.bool [3]"),
    ],
)
def test_check_says_what_is_wrong(indices, offsets, message):
    dtype = None if indices else torch.int64
    targets = SparseTargets(torch.tensor(indices, dtype=dtype), torch.tensor(offsets))
    assert refusal(targets, 5).endswith(message)


@pytest.mark.parametrize("values", [torch.ones(1), torch.ones(2, 1), torch.ones(2).long()])
def test_check_of_values(values):
    targets = SparseTargets.from_lists([[1], [2]])._replace(values=values)
    assert refusal(targets, 5).startswith("values of targets must be floating [2], as indices, got")


def test_check_of_no_rows():
    none = torch.empty(0, 5)
    SparseTargets.from_lists([]).check(none, "scores")
    with pytest.raises(ValueError, match="to the 1 entries of indices, got 1 at 0"):
        SparseTargets(torch.tensor([0]), torch.tensor([1])).check(none, "scores")


def wrong_label():
    return SparseTargets(torch.tensor([7]), torch.tensor([0, 1, 1]))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_check_reads_nothing_elsewhere():
    """Neither on another device nor in a compiler, tracer or transform."""

    def scaled(x):
        wrong_label().check(x, "scores")
        return 2 * x

    x = torch.ones(2, 5)
    with pytest.raises(ValueError, match="got 7"):
        scaled(x)
    wrong_label().to("meta").check(x, "scores")
    with FakeTensorMode() as mode:
        scaled(mode.from_tensor(x))
    assert torch.equal(torch.compile(scaled, backend="eager", fullgraph=True)(x), 2 * x)
    assert torch.equal(torch.vmap(scaled, in_dims=2)(x[:, :, None])[0], 2 * x)
    assert torch.equal(torch.jit.trace(scaled, x, check_trace=False)(x), 2 * x)
    with pytest.raises(ValueError, match="got 1"):
        SparseTargets(torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)).to(
            "meta"
        ).check(x, "scores")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_select_on_the_gpu():
    targets = SparseTargets.from_lists([[3, 1], [], [2]]).to("cuda")
    assert targets.select(torch.tensor([2, 0], device="cuda")).tolist() == [[2], [1, 3]]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_check_does_not_wait_for_the_gpu():
    x, targets = torch.ones(2, 5, device="cuda"), wrong_label().to("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        targets.check(x, "scores")
    finally:
        torch.cuda.set_sync_debug_mode("default")
