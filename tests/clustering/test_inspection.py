"""The reordered similarity and the purity of groups, against loops over all pairs."""

import numpy as np
import pytest
from scipy import sparse

from fastheads.clustering import group_purity, similarity_image
from fastheads.labels import Grouping


@pytest.mark.parametrize("bins", [1, 7, 30, 512])
def test_image_sums_pairs(bins):
    rng = np.random.default_rng(bins)
    A = (rng.random((40, 40)) < 0.3) * rng.integers(1, 6, (40, 40))
    grouping = Grouping(rng.integers(-1, 3, 40))
    image, bounds = similarity_image(sparse.csr_array(A), grouping, bins)

    order = [j for j in grouping.permutation if grouping.group_of[j] >= 0]
    m = min(bins, len(order))
    sums = np.zeros((m, m))
    for p, j in enumerate(order):
        for q, k in enumerate(order):
            if j != k:
                sums[p * m // len(order), q * m // len(order)] += A[:, j] @ A[:, k]
    volume = sums.sum(axis=1)
    np.testing.assert_allclose(image, sums * volume.sum() / np.outer(volume, volume), rtol=1e-5)
    assert image.dtype == np.float32
    np.testing.assert_allclose(bounds, grouping.offsets * m / len(order))


def test_image_shows_groups():
    A = np.kron(np.eye(2, dtype=int), np.full((50, 50), 3)) + 1
    image, bounds = similarity_image(A, Grouping(np.repeat([1, 0], 50)), bins=10)
    assert bounds.tolist() == [0, 5, 10]
    assert image[:5, :5].min() > 1 > image[:5, 5:].max()


def test_image_without_similar_labels_is_zero():
    image, _ = similarity_image(np.eye(4, dtype=int), Grouping(np.zeros(4)))
    assert (image == 0).all()
    image, bounds = similarity_image(np.ones((4, 4)), Grouping(np.full(4, -1)))
    assert image.shape == (0, 0) and bounds.tolist() == [0]


def test_purity():
    grouping = Grouping(np.array([0, 0, 0, 1, 1, -1]), ("a", "b", "empty"))
    names, purity = group_purity(grouping, ["x", "y", "x", "z", "y", "y"])
    assert names == ["x", "z", ""]
    np.testing.assert_allclose(purity, [2 / 3, 1 / 2, 0])


def test_rejects():
    with pytest.raises(ValueError, match="grouping must be of the 3 labels of A, got 2"):
        similarity_image(np.ones((3, 3)), Grouping(np.zeros(2)))
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        similarity_image(np.ones((3, 3)), Grouping(np.zeros(3)), bins=0)
    with pytest.raises(ValueError, match="above must name all 2 labels, got 1"):
        group_purity(Grouping(np.zeros(2)), ["x"])
