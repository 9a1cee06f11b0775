"""Against a float64 brute force over dense arrays, and torchmetrics where it means the same."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MultilabelAveragePrecision
from torchmetrics.retrieval import RetrievalMAP

from fastheads.labels import Grouping
from fastheads.metrics import (
    MeanAveragePrecisionPerImage,
    MeanAveragePrecisionPerLabel,
    PerVerticalAveragePrecision,
    TopKAccuracy,
)
from fastheads.targets import SparseTargets


def draw(n, num_labels, seed, levels=None, density=0.15):
    """Scores, few distinct ones if ``levels`` is given, and dense 0/1 annotations."""
    rng = np.random.default_rng(seed)
    shape = (n, num_labels)
    scores = rng.normal(size=shape) if levels is None else rng.integers(0, levels, shape)
    y = rng.random(shape) < density
    return scores.astype(np.float32), y


def sparse(y):
    return SparseTargets.from_lists([np.flatnonzero(row) for row in y])


def cut_precision(scores, y, k):
    """Average precision of one ranking; equal scores in their order."""
    order = np.argsort(-scores.astype(np.float64), kind="stable")[:k]
    hits, total = 0, 0.0
    for place, i in enumerate(order, 1):
        if y[i]:
            hits += 1
            total += hits / place
    return total / min(k, y.sum())


def brute_force(scores, y, k):
    """Mean over the rows that have a positive."""
    each = [cut_precision(s, t, k) for s, t in zip(scores, y, strict=True) if t.any()]
    return np.mean(each) if each else np.nan


def update_retrieval(metric, scores, y):
    """Each image is a query; torchmetrics takes scores of at most 0 for not retrieved."""
    queries = torch.arange(len(scores))[:, None].expand(scores.shape)
    probabilities = torch.from_numpy(scores).sigmoid()
    metric.update(probabilities.flatten(), torch.from_numpy(y).flatten(), queries.flatten())


def metrics(num_labels, k):
    return MeanAveragePrecisionPerImage(k), MeanAveragePrecisionPerLabel(num_labels, k)


def test_by_hand():
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.7, 0.6], [0.5, 0.1, 0.3]])
    targets = SparseTargets.from_lists([[1, 2], [1], []])
    per_image = MeanAveragePrecisionPerImage(k=2)
    per_image.update(scores, targets)
    # Image 0 hits at place 2 of its best two, with 2 labels: (1/2) / 2; image 1 at place 1: 1.
    assert per_image.compute().item() == pytest.approx((0.25 + 1) / 2)
    per_label = MeanAveragePrecisionPerLabel(3, k=2)
    per_label.update(scores, targets)
    # Label 1 ranks images 0, 1: both hit, 1. Label 2 ranks 1, 2, and image 0 is third: 0.
    assert per_label.per_label().tolist()[1:] == [1.0, 0.0]
    assert per_label.per_label()[0].isnan()
    assert per_label.compute().item() == 0.5


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    num_labels=st.integers(1, 30),
    k=st.integers(1, 50),
    levels=st.sampled_from([None, 1, 3]),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    seed=st.integers(0, 999),
)
def test_equals_brute_force(n, num_labels, k, levels, cuts, seed):
    scores, y = draw(n, num_labels, seed, levels)
    per_image, per_label = metrics(num_labels, k)
    bounds = [0, *sorted(min(cut, n) for cut in cuts), n]
    for a, b in pairwise(bounds):
        for metric in (per_image, per_label):
            metric.update(torch.from_numpy(scores[a:b]), sparse(y[a:b]))
    np.testing.assert_allclose(per_image.compute(), brute_force(scores, y, k), rtol=1e-12)
    np.testing.assert_allclose(per_label.compute(), brute_force(scores.T, y.T, k), rtol=1e-12)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("parts", [2, 3])
def test_merged_parts_equal_the_whole(levels, parts):
    scores, y = draw(90, 12, 7, levels)
    whole, merged = metrics(12, 10), metrics(12, 10)
    for metric in whole:
        metric.update(torch.from_numpy(scores), sparse(y))
    for i, total in enumerate(merged):
        rows = np.array_split(np.arange(90), parts)
        total.update(torch.from_numpy(scores[rows[0]]), sparse(y[rows[0]]))
        for part in rows[1:]:
            other = metrics(12, 10)[i]
            other.update(torch.from_numpy(scores[part]), sparse(y[part]))
            # merge_state puts the incoming state first, as if it were of a lower process.
            other.merge_state(total)
            total = other
        # Sums in another order.
        torch.testing.assert_close(total.compute(), whole[i].compute(), rtol=1e-12, atol=0.0)


def test_state_does_not_grow():
    per_label = MeanAveragePrecisionPerLabel(12, 10)
    for seed in range(3):
        scores, y = draw(50, 12, seed)
        per_label.update(torch.from_numpy(scores), sparse(y))
        assert per_label.best.shape == (2, 12, 10)


def test_per_image_equals_torchmetrics():
    """Every label is among the best 50, where both divide by the number of annotations."""
    scores, y = draw(30, 40, 1)
    ours = MeanAveragePrecisionPerImage(k=50)
    ours.update(torch.from_numpy(scores), sparse(y))
    theirs = RetrievalMAP(top_k=50, empty_target_action="skip")
    update_retrieval(theirs, scores, y)
    torch.testing.assert_close(ours.compute().float(), theirs.compute())


def test_per_image_equals_torchmetrics_beyond_k():
    """One label an image: torchmetrics divides by the hits, 1, as we do by the annotations."""
    scores, _ = draw(200, 300, 2)
    label = np.random.default_rng(3).integers(0, 300, 200)
    y = np.eye(300, dtype=bool)[label]
    ours = MeanAveragePrecisionPerImage(k=50)
    ours.update(torch.from_numpy(scores), sparse(y))
    theirs = RetrievalMAP(top_k=50)
    update_retrieval(theirs, scores, y)
    torch.testing.assert_close(ours.compute().float(), theirs.compute())


def test_per_label_equals_torchmetrics():
    """All images are among the best 50, and no two scores are equal."""
    scores, y = draw(50, 8, 4)
    assert y.any(0).all()
    probabilities = torch.from_numpy(scores).sigmoid()
    ours = MeanAveragePrecisionPerLabel(8, k=50)
    ours.update(probabilities, sparse(y))
    theirs = MultilabelAveragePrecision(num_labels=8, average="macro")
    theirs.update(probabilities, torch.from_numpy(y).long())
    torch.testing.assert_close(ours.compute().float(), theirs.compute())


def test_labels_that_are_dropped():
    """Minus infinity ranks below every score, NaN below that and never as a hit."""
    scores = torch.tensor([[-torch.inf], [torch.nan], [0.5], [-torch.inf]])
    metric = MeanAveragePrecisionPerLabel(1, k=4)
    metric.update(scores, SparseTargets.from_lists([[], [0], [], [0]]))
    # Ranking: 2, 0, 3 (hit at place 3), and nothing: image 1 has no score.
    assert metric.compute().item() == pytest.approx((1 / 3) / 2)


def test_nothing_annotated():
    for metric in metrics(3, 2):
        metric.update(torch.zeros(2, 3), SparseTargets.from_lists([[], []]))
        assert metric.compute().isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    scores, y = draw(60, 9, 5)
    rounded = torch.from_numpy(scores).to(dtype)
    per_image, per_label = metrics(9, 5)
    for metric in (per_image, per_label):
        metric.update(rounded, sparse(y))
    exact = rounded.double().numpy()
    assert per_image.compute().item() == pytest.approx(brute_force(exact, y, 5), rel=1e-12)
    assert per_label.compute().item() == pytest.approx(brute_force(exact.T, y.T, 5), rel=1e-12)


def test_rejects():
    targets = SparseTargets.from_lists([[0]])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        MeanAveragePrecisionPerImage(0)
    with pytest.raises(ValueError, match="num_labels and k must be at least 1, got 0 labels"):
        MeanAveragePrecisionPerLabel(0)
    with pytest.raises(ValueError, match="scores must have 4 columns, one a label, got 3"):
        MeanAveragePrecisionPerLabel(4).update(torch.zeros(1, 3), targets)
    for metric in metrics(3, 2):
        with pytest.raises(ValueError, match="one row for each of the 2 rows of scores, got 1"):
            metric.update(torch.zeros(2, 3), targets)
        with pytest.raises(ValueError, match=r"scores must be a floating \[N, L\] matrix"):
            metric.update(torch.zeros(3), targets)


@pytest.mark.parametrize(
    "indices, offsets, message",
    [
        ([5], [0, 1, 1], "targets must hold labels from 0 to 4, got 5 at 0 in row 0"),
        ([2, -1], [0, 1, 2], "targets must hold labels from 0 to 4, got -1 at 1 in row 1"),
        ([3, 0], [0, 2, 2], "distinct and ascend within a row, got 0 after 3 in row 0"),
        ([3, 3], [0, 0, 2], "distinct and ascend within a row, got 3 after 3 in row 1"),
        ([3, 3], [0, 1, 1], "ascend from 0 to the 2 entries of indices, got 1 at 2"),
        ([3, 3], [0, 3, 2], "ascend from 0 to the 2 entries of indices, got 2 at 2"),
    ],
)
def test_rejects_targets(indices, offsets, message):
    vertical = Grouping(np.zeros(5))
    targets = SparseTargets(torch.tensor(indices), torch.tensor(offsets))
    for metric in (*metrics(5, 2), TopKAccuracy(1), PerVerticalAveragePrecision(vertical)):
        with pytest.raises(ValueError, match=message):
            metric.update(torch.tensor([[0.0, 1, 2, 3, 4], [5.0, 1, 2, 3, 4]]), targets)
