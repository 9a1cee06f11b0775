"""ConfusionCounts, dense and sparse, against a brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastheads import _C
from fastheads.clustering import sorted_pairs
from fastheads.clustering.confusion import ConfusionCounts
from fastheads.clustering.sorted_pairs import SortedPairs
from fastheads.ops import topk_indices
from fastheads.targets import SparseTargets

KINDS = ["confusion", "co_detection"]


class Sorted(ConfusionCounts):
    """Sparse in tensors, as they are on a GPU."""

    def _no_pairs(self):
        return SortedPairs(self.num_labels, self._device)


FORMS = {"dense": (ConfusionCounts, 2**30), "sparse": (ConfusionCounts, 0), "sorted": (Sorted, 0)}


def batches(seed: int, labels: int, count: int, rows: int = 8):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        n = int(generator.integers(0, rows + 1))
        scores = torch.from_numpy(generator.standard_normal((n, labels)))
        annotation = [
            generator.permutation(labels)[: generator.integers(0, 4)].tolist() for _ in range(n)
        ]
        yield scores, SparseTargets.from_lists(annotation)


def brute_force(kind: str, labels: int, k: int, data) -> np.ndarray:
    expected = np.zeros((labels, labels), np.int64)
    for scores, targets in data:
        top = scores.numpy().argsort(axis=1)[:, ::-1][:, :k].tolist()
        for detected, annotated in zip(top, targets.tolist(), strict=True):
            for i in detected:
                for j in annotated if kind == "confusion" else detected:
                    expected[i, j] += 1
    return expected


def counted(kind: str, labels: int, k: int, data, form: str, device="cpu") -> ConfusionCounts:
    form_of_counts, limit = FORMS[form]
    counts = form_of_counts(labels, k, kind, memory_limit=limit, device=device)
    for scores, targets in data:
        counts.update(scores.to(device), targets.to(device))
    return counts


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_brute_force(kind, form, device):
    data = list(batches(0, 37, 20))
    counts = counted(kind, 37, 5, data, form, device)
    matrix = counts.matrix()
    assert matrix.dtype == np.int64 and matrix.shape == (37, 37) and matrix.has_sorted_indices
    np.testing.assert_array_equal(matrix.toarray(), brute_force(kind, 37, 5, data))
    assert counts.num_samples == sum(len(scores) for scores, _ in data)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 70),
    st.integers(0, 6),
    st.sampled_from(KINDS),
    st.booleans(),
)
def test_all_forms_are_equal(seed, labels, count, kind, look_between):
    k = 1 + seed % labels
    data = list(batches(seed, labels, count))
    forms = [counted(kind, labels, k, [], form) for form in FORMS]
    for batch in data:
        for counts in forms:
            counts.update(*batch)
            if look_between:
                assert (counts.matrix() != forms[0].matrix()).nnz == 0
    expected = brute_force(kind, labels, k, data)
    for counts in forms:
        np.testing.assert_array_equal(counts.matrix().toarray(), expected)


@pytest.mark.parametrize("first", FORMS)
@pytest.mark.parametrize("second", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_merge_adds(kind, second, first, device):
    data = list(batches(1, 30, 12))
    ours = counted(kind, 30, 4, data[:5], first, device)
    theirs = counted(kind, 30, 4, data[5:], second)
    ours.merge(theirs)
    np.testing.assert_array_equal(ours.matrix().toarray(), brute_force(kind, 30, 4, data))
    assert ours.num_samples == sum(len(scores) for scores, _ in data)
    np.testing.assert_array_equal(theirs.matrix().toarray(), brute_force(kind, 30, 4, data[5:]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_continues_from_its_state(kind, form, device, tmp_path):
    data = list(batches(2, 30, 12))
    first = counted(kind, 30, 4, data[:7], form, device)
    torch.save(first.state_dict(), tmp_path / "counts.pt")
    resumed = counted(kind, 30, 4, data[:2], form, device)
    resumed.load_state_dict(torch.load(tmp_path / "counts.pt", weights_only=True))
    for scores, targets in data[7:]:
        resumed.update(scores.to(device), targets)
    np.testing.assert_array_equal(resumed.matrix().toarray(), brute_force(kind, 30, 4, data))
    assert resumed.num_samples == sum(len(scores) for scores, _ in data)
    np.testing.assert_array_equal(first.matrix().toarray(), brute_force(kind, 30, 4, data[:7]))


def test_counts_widen_before_they_overflow():
    counts = ConfusionCounts(3, 1, "co_detection")
    counts.load_state_dict({**counts.state_dict(), "num_samples": 2**31 - 2})
    counts._dense.fill_diagonal_(2**31 - 2)
    counts.update(torch.tensor([[1.0, 0, 0]] * 5))
    assert counts.matrix()[0, 0] == 2**31 + 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [1, 7, 40])
def test_sorted_in_small_parts(kind, most, monkeypatch):
    monkeypatch.setattr(sorted_pairs, "_MAX_PAIRS", most)
    data = list(batches(4, 30, 12))
    counts = counted(kind, 30, 4, data, "sorted")
    np.testing.assert_array_equal(counts.matrix().toarray(), brute_force(kind, 30, 4, data))


@pytest.mark.parametrize("kind", KINDS)
def test_hundred_thousand_labels(kind, device):
    labels, k = 100_000, 50
    scores = torch.randn(6, labels)
    targets = SparseTargets.from_lists([[n, labels - 1 - n] for n in range(6)])
    counts = ConfusionCounts(labels, k, kind, device=device)
    counts.update(scores[:4], targets.select(torch.arange(4)))
    counts.update(scores[4:], targets.select(torch.arange(4, 6)))
    matrix = counts.matrix()
    top = topk_indices(scores, k)
    second = targets.tolist() if kind == "confusion" else top.tolist()
    assert matrix.sum() == sum(k * len(row) for row in second)
    for n in range(6):
        assert matrix[top[n, 0], second[n][0]] >= 1
    if kind == "co_detection":
        assert (matrix != matrix.T).nnz == 0
        assert matrix.diagonal().sum() == 6 * k


@pytest.mark.parametrize("form", ["host", "tensors"])
def test_many_runs_merge_exactly(form):
    """Runs of growing and shrinking size, so that merges cascade."""
    pairs = _C.PairCounts(200) if form == "host" else SortedPairs(200, "cpu")
    expected = np.zeros((200, 200), np.int64)
    generator = np.random.default_rng(3)
    for size in [1, 1, 50, 2, 1, 1, 300, 7, 7, 7, 1]:
        top = np.stack([generator.permutation(200)[:9] for _ in range(size)])
        if form == "host":
            pairs.add_co_detection(top, 2)
        else:
            pairs.add_co_detection(torch.from_numpy(top))
        for row in np.sort(top):
            for a, i in enumerate(row):
                expected[i, row[a:]] += 1
    offsets, columns, counts = pairs.merged()
    found = np.zeros_like(expected)
    found[np.repeat(np.arange(200), np.diff(offsets)), columns] = counts
    np.testing.assert_array_equal(found, expected)
    assert len(columns) == np.count_nonzero(expected)


BAD_OFFSETS = [
    ([0, 2], "have 3 entries, one more than there are rows, got [2]"),
    ([[0, 1, 2]], "have 3 entries, one more than there are rows, got [1, 3]"),
    ([1, 1, 2], "ascend from 0 to the 2 entries, got [1, 1, 2]"),
    ([0, 1, 1], "ascend from 0 to the 2 entries, got [0, 1, 1]"),
    ([0, 1, 3], "ascend from 0 to the 2 entries, got [0, 1, 3]"),
    ([0, 3, 2], "ascend from 0 to the 2 entries, got [0, 3, 2]"),
]


def confused(offsets):
    """Adds two rows, each with a label of its own by right offsets; nothing is counted."""

    def add():
        pairs = SortedPairs(3, "cpu")
        try:
            pairs.add_confusion(*map(torch.tensor, ([[1], [0]], [2, 1], offsets)))
        finally:
            assert not pairs._runs

    return add


def test_rejects():
    counts = ConfusionCounts(5, 2)
    one = SparseTargets.from_lists([[0]])
    sparse = ConfusionCounts(5, 2, memory_limit=0)
    cases = [
        (lambda: ConfusionCounts(0), "num_labels must be at least 1, got 0"),
        (lambda: ConfusionCounts(5, 6), "k must be between 1 and the 5 labels, got 6"),
        (lambda: ConfusionCounts(5, 2, "both"), "kind must be 'confusion' or 'co_detection'"),
        (lambda: counts.update(torch.zeros(1, 4), one), r"scores must be [N, 5], got [1, 4]"),
        (lambda: counts.update_top(torch.zeros(1, 3)), "top must be [N, 2], got [1, 3]"),
        (lambda: counts.update(torch.zeros(1, 5)), "targets must be given"),
        (lambda: counts.update(torch.zeros(2, 5), one), "one row for each of the 2 samples, got 1"),
        (
            lambda: counts.update(torch.zeros(2, 5), SparseTargets.from_lists([[0], [4, 5]])),
            "targets must hold labels from 0 to 4, got 5 in row 1",
        ),
        (lambda: counts.merge(ConfusionCounts(5, 3)), "other must have k=2, got 3"),
        (lambda: counts.load_state_dict(sparse.state_dict()), "dense or sparse"),
        (
            lambda: counts.load_state_dict(ConfusionCounts(6, 2).state_dict()),
            "state must have num_labels=5, got 6",
        ),
        (lambda: SortedPairs(2**30 + 1, "cpu"), "num_labels must be between 1 and 2^30"),
        (
            lambda: SortedPairs(3, "cpu").add_co_detection(torch.tensor([[1, 3]])),
            "top must hold labels from 0 to 2, got 3",
        ),
        (
            lambda: SortedPairs(3, "cpu").add_confusion(*map(torch.tensor, ([[1]], [-1], [0, 1]))),
            "indices must hold labels from 0 to 2, got -1",
        ),
        *((confused(offsets), f"offsets must {message}") for offsets, message in BAD_OFFSETS),
        (
            lambda: SortedPairs(2, "cpu").add_run(*map(np.array, ([0, 2, 1], [0], [1]))),
            "offsets must ascend from 0 to the 1 entries, got [0, 2, 1]",
        ),
        (lambda: _C.PairCounts(0), "num_labels must be between 1"),
        (lambda: _C.PairCounts(3).add_co_detection(np.array([[3]])), "labels from 0 to 2, got 3"),
        (
            lambda: _C.PairCounts(3).add_confusion(np.array([[1]]), np.array([1]), np.array([0])),
            "offsets must have one entry more",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError) as error:
            call()
        assert message in str(error.value), message
    assert counts.num_samples == 0 and counts.matrix().nnz == 0
