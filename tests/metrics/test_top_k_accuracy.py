import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastheads.metrics import TopKAccuracy, evaluate
from fastheads.targets import SparseTargets


def test_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [0.5, 0.5, 0.5], [1.0, 0.0, 0.0]])
    targets = SparseTargets.from_lists([[1, 2], [0, 2], [1], []])
    for k, expected in [(1, 1 / 3), (2, 1.0), (3, 1.0), (9, 1.0)]:
        metric = TopKAccuracy(k)
        metric.update(scores, targets)
        assert metric.compute().item() == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 25), st.integers(0, 99))
def test_equals_brute_force(n, num_labels, k, seed):
    rng = np.random.default_rng(seed)
    scores, y = rng.integers(0, 4, (n, num_labels)), rng.random((n, num_labels)) < 0.2
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    correct = [row[top].any() for row, top in zip(y, best, strict=True) if row.any()]
    metric = TopKAccuracy(k)
    targets = SparseTargets.from_lists([np.flatnonzero(row) for row in y])
    metric.update(torch.from_numpy(scores).double(), targets)
    np.testing.assert_equal(metric.compute().item(), np.mean(correct) if correct else np.nan)


def test_evaluate():
    scores = torch.eye(8) + torch.arange(8) / 100
    scores[0] = torch.arange(8)  # label 0 comes last
    targets = SparseTargets.from_lists([[i] for i in range(8)])
    batches = [(scores[:3], targets.select(torch.arange(3)))]
    batches += [(scores[3:], targets.select(torch.arange(3, 8)))]
    result = evaluate(batches, 8)
    assert result["top1"] == 7 / 8 and result["top5"] == 7 / 8
    assert result["map50_per_image"] == pytest.approx((7 + 1 / 8) / 8)
    # Image 0 comes before the right image at labels 2 to 7, and first among equals at its own.
    assert result["map50_per_label"] == pytest.approx((1 + 1 + 6 / 2) / 8)


def test_evaluate_rejects_nothing():
    with pytest.raises(ValueError, match="score_batches must hold at least one batch"):
        evaluate([], 3)
