"""Against a float64 brute force over dense arrays, and scikit-learn where it means the same."""

import multiprocessing
import os
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.distributed as dist
from allocations import peak_bytes
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score
from test_mean_average_precision import cut_precision, draw, sparse

from fastheads.labels import Grouping
from fastheads.metrics import PerVerticalAveragePrecision, TopKAccuracy, evaluate_verticals
from fastheads.targets import SparseTargets

READINGS = ["image", "label"]


def brute_force(scores, y, members, reading, k):
    """One vertical, all of whose labels are `members`; NaN if no image is annotated with any."""
    rows = y[:, members].any(1)
    scores, y = scores[np.ix_(rows, members)], y[np.ix_(rows, members)]
    if reading == "label":
        scores, y = scores.T, y.T
    limit = k if reading == "label" else max(len(members), 1)
    each = [cut_precision(s, t, limit) for s, t in zip(scores, y, strict=True) if t.any()]
    return np.mean(each) if each else np.nan


def expected(scores, y, grouping, labels, reading, k):
    labels = np.arange(grouping.num_labels) if labels is None else labels
    return np.array(
        [
            brute_force(scores, y, np.intersect1d(grouping.members(g), labels), reading, k)
            for g in range(grouping.num_groups)
        ]
    )


def nan_mean(values):
    return np.nan if np.isnan(values).all() else np.nanmean(values)


def test_by_hand():
    """Section 4.1: labels 0, 2, 4 are one vertical, 1 and 3 another, 5 is in none."""
    grouping = Grouping(np.array([0, 1, 0, 1, 0, -1]), ("even", "odd", "empty"))
    scores = torch.tensor(
        [
            [0.1, 0.9, 0.3, 0.8, 0.2, 1.0],
            [0.6, 0.5, 0.7, 0.4, 0.1, 0.0],
            [0.2, 0.1, 0.3, 0.9, 0.4, 0.0],
        ]
    )
    targets = SparseTargets.from_lists([[0, 3], [0, 4], [5]])
    by_image = PerVerticalAveragePrecision(grouping)
    by_image.update(scores, targets)
    # Even: image 0 ranks 2 4 0, place 3: 1/3; image 1 ranks 2 0 4, places 2 and 3: (1/2 + 2/3) / 2.
    # Odd: image 0 ranks 1 3, place 2.
    even, odd = (1 / 3 + (1 / 2 + 2 / 3) / 2) / 2, 1 / 2
    assert by_image.per_vertical().tolist()[:2] == pytest.approx([even, odd])
    assert by_image.per_vertical()[2].isnan()
    assert by_image.compute().item() == pytest.approx((even + odd) / 2)
    by_label = PerVerticalAveragePrecision(grouping, reading="label")
    by_label.update(scores, targets)
    # Of images 0 and 1: label 0 is in both, 1; label 4 ranks 0 before 1, which it is in: 1/2.
    assert by_label.per_vertical().tolist()[:2] == pytest.approx([(1 + 1 / 2) / 2, 1])
    assert by_label.compute().item() == pytest.approx((0.75 + 1) / 2)


@pytest.mark.parametrize("reading", READINGS)
@given(
    n=st.integers(1, 30),
    num_labels=st.integers(1, 25),
    groups=st.integers(1, 5),
    k=st.integers(1, 30),
    levels=st.sampled_from([None, 1, 3]),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    some=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_brute_force(reading, n, num_labels, groups, k, levels, cuts, some, seed):
    scores, y = draw(n, num_labels, seed, levels)
    rng = np.random.default_rng(seed)
    names = [str(g) for g in range(groups)]
    grouping = Grouping(rng.integers(-1, groups, num_labels), names)
    labels = rng.permutation(num_labels)[: rng.integers(1, num_labels + 1)] if some else None
    metric = PerVerticalAveragePrecision(grouping, labels, reading, k)
    bounds = [0, *sorted(min(cut, n) for cut in cuts), n]
    for a, b in pairwise(bounds):
        metric.update(torch.from_numpy(scores[a:b]), sparse(y[a:b]))
    right = expected(scores, y, grouping, labels, reading, k)
    np.testing.assert_allclose(metric.per_vertical(), right, rtol=1e-12)
    np.testing.assert_allclose(metric.compute(), nan_mean(right), rtol=1e-12)


def test_equals_scikit_learn():
    """Without equal scores, and with all images among the best k."""
    scores, y = draw(50, 40, 3)
    grouping = Grouping(np.arange(40) % 3)
    by_image = PerVerticalAveragePrecision(grouping)
    by_label = PerVerticalAveragePrecision(grouping, reading="label")
    for metric in (by_image, by_label):
        metric.update(torch.from_numpy(scores), sparse(y))
    for g in range(3):
        rows = y[:, grouping.members(g)].any(1)
        part = np.ix_(rows, grouping.members(g))
        theirs = label_ranking_average_precision_score(y[part], scores[part])
        assert by_image.per_vertical()[g].item() == pytest.approx(theirs, rel=1e-12)
        assert y[part].any(0).all()
        theirs = average_precision_score(y[part], scores[part], average="macro")
        assert by_label.per_vertical()[g].item() == pytest.approx(theirs, rel=1e-12)


def test_equal_scores_rank_by_lowest_label():
    grouping = Grouping(np.array([0, 1, 0, 0]))
    metric = PerVerticalAveragePrecision(grouping)
    metric.update(torch.tensor([[0.0, 5.0, -0.0, 0.0]]), SparseTargets.from_lists([[2]]))
    assert metric.compute().item() == 1 / 2


def test_equal_scores_rank_by_earliest_image():
    metric = PerVerticalAveragePrecision(Grouping(np.zeros(2)), reading="label")
    metric.update(torch.zeros(2, 2), SparseTargets.from_lists([[1], [0]]))
    metric.update(torch.zeros(1, 2), SparseTargets.from_lists([[1]]))
    # Label 0 is in the second image, label 1 in the first and the third.
    assert metric.compute().item() == pytest.approx((1 / 2 + (1 + 2 / 3) / 2) / 2)


def test_nan_ranks_last():
    nan, least = torch.nan, -torch.inf
    scores = torch.tensor([[nan, least, 1.0, nan, 7.0]])
    grouping = Grouping(np.array([0, 0, 0, 0, 1]))
    # Ranking: 2, 1, and then 0, 3.
    for label, place in [(2, 1), (1, 2), (0, 3), (3, 4)]:
        metric = PerVerticalAveragePrecision(grouping)
        metric.update(scores, SparseTargets.from_lists([[label]]))
        assert metric.compute().item() == 1 / place
    metric = PerVerticalAveragePrecision(Grouping(np.zeros(1)), reading="label")
    metric.update(torch.tensor([[nan]]), SparseTargets.from_lists([[0]]))
    assert metric.compute().item() == 0


@pytest.mark.parametrize("reading", READINGS)
def test_other_labels_are_not_there(reading):
    """Ancestors that are not ranked: neither their scores nor their annotations change anything."""
    scores, y = draw(40, 12, 5)
    grouping = Grouping(np.arange(12) % 2)
    leaves = np.arange(8)
    metric = PerVerticalAveragePrecision(grouping, leaves, reading)
    metric.update(torch.from_numpy(scores), sparse(y))
    alone = PerVerticalAveragePrecision(Grouping(np.arange(8) % 2), None, reading)
    alone.update(torch.from_numpy(scores[:, :8]), sparse(y[:, :8]))
    assert metric.compute() == alone.compute()


@pytest.mark.parametrize("reading", READINGS)
def test_nothing_annotated(reading):
    metric = PerVerticalAveragePrecision(Grouping(np.arange(3)), [0, 2], reading)
    metric.update(torch.zeros(0, 3), SparseTargets.from_lists([]))
    metric.update(torch.zeros(2, 3), SparseTargets.from_lists([[], [1]]))
    assert metric.compute().isnan() and metric.per_vertical().isnan().all()


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype, reading):
    scores, y = draw(60, 9, 5)
    rounded = torch.from_numpy(scores).to(dtype)
    grouping = Grouping(np.arange(9) % 2)
    metric = PerVerticalAveragePrecision(grouping, reading=reading, k=20)
    metric.update(rounded, sparse(y))
    right = expected(rounded.double().numpy(), y, grouping, None, reading, 20)
    assert metric.per_vertical().tolist() == pytest.approx(right.tolist(), rel=1e-12)


@pytest.mark.parametrize("reading", READINGS)
def test_100_000_labels(reading):
    """20 verticals, and what is held at a time is less than the scores of one batch."""
    rng = np.random.default_rng(0)
    n, num_labels, k = 64, 100_000, 5
    grouping = Grouping(np.sort(rng.integers(0, 20, num_labels)))
    scores = rng.normal(size=(n, num_labels)).astype(np.float32)
    lists = rng.integers(0, num_labels, (n, 10))
    targets = SparseTargets.from_lists(lists)
    metric = PerVerticalAveragePrecision(grouping, reading=reading, k=k)
    metric.update(torch.from_numpy(scores), targets)
    y = np.zeros(scores.shape, bool)
    np.put_along_axis(y, lists, True, 1)
    right = expected(scores, y, grouping, None, reading, k)
    np.testing.assert_allclose(metric.per_vertical(), right, rtol=1e-12)
    assert peak_bytes(lambda: metric.update(torch.from_numpy(scores), targets)) < scores.nbytes
    states = [getattr(metric, name) for name in metric._defaults]
    assert sum(state.nbytes for state in states) <= num_labels * (8 * k + 8)


def test_evaluate():
    scores, y = draw(80, 30, 9)
    grouping = Grouping(np.arange(30) % 4)
    shuffled = np.random.default_rng(1).permutation(30)[:20]
    for labels in (None, np.arange(20), shuffled, torch.from_numpy(shuffled)):
        cuts = [slice(0, 33), slice(33, 80)]
        batches = [(torch.from_numpy(scores[c]), sparse(y[c])) for c in cuts]
        found = evaluate_verticals(batches, grouping, labels)
        few = np.arange(30) if labels is None else np.sort(labels)
        for reading, suffix in zip(READINGS, ["", "_per_label"], strict=True):
            right = expected(scores, y, grouping, few, reading, 50)
            np.testing.assert_allclose(found[f"pvap{suffix}"], right, rtol=1e-12)
            assert found[f"mpvap{suffix}"] == pytest.approx(right.mean(), rel=1e-12)
        for k in (1, 5):
            accuracy = TopKAccuracy(k)
            accuracy.update(torch.from_numpy(scores[:, few]), sparse(y[:, few]))
            assert found[f"top{k}"] == accuracy.compute().item()


def count(rank, ranks, store):
    """One of the processes; it ends with 0 if every answer was right."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    scores, y = draw(41, 30, 6, levels=50)
    grouping = Grouping(np.arange(30) % 4)
    mine = slice(0, 17) if rank == 0 else slice(17, 41)
    for reading in READINGS:
        metric = PerVerticalAveragePrecision(grouping, reading=reading, k=10)
        metric.update(torch.from_numpy(scores[mine]), sparse(y[mine]))
        right = expected(scores, y, grouping, None, reading, 10)
        for _ in range(2):  # nothing is added twice
            np.testing.assert_allclose(metric.per_vertical(), right, rtol=1e-12)
            np.testing.assert_allclose(metric.compute(), right.mean(), rtol=1e-12)
    dist.destroy_process_group()


def test_processes_equal_one(tmp_path):
    context = multiprocessing.get_context("forkserver")
    # The server imports once, and reads sys.path from the environment alone.
    context.set_forkserver_preload(["test_per_vertical_average_precision"])
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    processes = [
        context.Process(target=count, args=(rank, 2, tmp_path / "store")) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def make(num_labels=4, **options):
    return PerVerticalAveragePrecision(Grouping(np.zeros(num_labels)), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(reading="row"), "reading must be image or label, got 'row'"),
        (lambda: make(k=0), "k must be at least 1, got 0"),
        (lambda: make(0), "grouping must have at least one vertical, got 0"),
        (lambda: make(labels=[4]), r"labels must be distinct labels of the 4 .*, got \[4\]"),
        (lambda: make(labels=[-1]), r"labels must be distinct labels .*, got \[-1\]"),
        (lambda: make(labels=[1, 1]), r"labels must be distinct labels .*, got \[1, 1\]"),
        (lambda: make(labels=[[1]]), r"labels must be distinct labels .*, got \[\[1\]\]"),
        (
            lambda: make().update(torch.zeros(1, 3), SparseTargets.from_lists([[0]])),
            "scores must have 4 columns, one a label, got 3",
        ),
        (
            lambda: make().update(torch.zeros(2, 4), SparseTargets.from_lists([[0]])),
            "one row for each of the 2 rows of scores, got 1",
        ),
        (
            lambda: evaluate_verticals([], Grouping(np.zeros(2))),
            "score_batches must hold at least one batch, got none",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
