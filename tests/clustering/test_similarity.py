"""The similarity operator against the similarity matrix, formed in float64."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from fastheads.clustering import SimilarityOperator
from fastheads.clustering.similarity import as_counts, similarity_degrees


def random_counts(labels: int, density: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((labels, labels)) < density) * rng.integers(1, 9, (labels, labels))


def dense_similarity(A: np.ndarray, drop_diagonal: bool) -> np.ndarray:
    """B = A^T A, paper 000 section 4; Ng, Jordan, Weiss 2002, step 1: the diagonal is 0."""
    B = A.T.astype(np.float64) @ A.astype(np.float64)
    if drop_diagonal:
        np.fill_diagonal(B, 0)
    return B


def test_by_hand():
    # Label 0 is detected for 0 and 1; label 1 for 1; label 2 only for itself.
    A = np.array([[2, 3, 0], [0, 1, 0], [0, 0, 5]])
    degrees, diagonal = similarity_degrees(as_counts(A))
    assert degrees.tolist() == [6, 6, 0]  # B_01 = 2 * 3
    assert diagonal.tolist() == [4, 10, 25]
    operator = SimilarityOperator(A)
    assert operator.connected.tolist() == [0, 1]
    np.testing.assert_allclose(operator @ np.eye(2), [[0, 1], [1, 0]], atol=1e-15)


def test_columns_are_compared():
    """B = A^T A compares annotated labels, paper 000 section 4; A A^T would compare detected."""
    A = np.array([[4, 4, 0], [0, 0, 0], [0, 0, 0]])
    assert SimilarityOperator(A).connected.tolist() == [0, 1]
    with pytest.raises(ValueError, match="3 isolated labels"):
        SimilarityOperator(A.T)


@settings(deadline=None, max_examples=50)
@given(
    labels=st.integers(2, 40),
    density=st.floats(0.02, 1),
    drop_diagonal=st.booleans(),
    regularization=st.sampled_from([0.0, 0.5]),
    width=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_product(labels, density, drop_diagonal, regularization, width, seed):
    """L = D^-1/2 B D^-1/2 (Ng, Jordan, Weiss 2002, step 2) times any vectors."""
    A = random_counts(labels, density, seed)
    B = dense_similarity(A, drop_diagonal)
    connected = np.flatnonzero(B.sum(axis=1))
    if connected.size == 0:
        with pytest.raises(ValueError, match="isolated labels"):
            SimilarityOperator(A, drop_diagonal)
        return
    B = B[np.ix_(connected, connected)]
    B += regularization * B.sum(axis=1).mean() / connected.size
    D = B.sum(axis=1)
    L = B / np.sqrt(np.outer(D, D))

    operator = SimilarityOperator(sparse.csr_array(A), drop_diagonal, regularization)
    np.testing.assert_array_equal(operator.connected, connected)
    np.testing.assert_allclose(operator.degrees[connected], D)
    vectors = np.random.default_rng(seed).standard_normal((connected.size, width))
    np.testing.assert_allclose(operator @ vectors, L @ vectors, atol=1e-12)
    np.testing.assert_allclose(operator @ vectors[:, 0], L @ vectors[:, 0], atol=1e-12)
    known = operator.component_vectors(operator.components())
    np.testing.assert_allclose(L @ known, known, atol=1e-12)
    assert known.shape[1] == (np.linalg.eigvalsh(L) > 1 - 1e-9).sum()


def test_float32_at_scale(monkeypatch):
    A = random_counts(300, 0.1, 0)
    exact = SimilarityOperator(A)
    monkeypatch.setattr("fastheads.clustering.similarity._MAX_NONZEROS_FLOAT64", 100)
    single = SimilarityOperator(A)
    assert (exact.dtype, single.dtype) == (np.float64, np.float32)
    vector = np.random.default_rng(1).standard_normal(300)
    np.testing.assert_allclose(single @ vector, exact @ vector, atol=2e-6)


def test_indices_are_narrowed():
    A = sparse.csr_array(random_counts(20, 0.5, 0))
    A.indices, A.indptr = A.indices.astype(np.int64), A.indptr.astype(np.int64)
    operator = SimilarityOperator(A)
    assert operator._matrix.indices.dtype == operator._matrix.indptr.dtype == np.int32
    assert A.indices.dtype == np.int64


def test_large_self_confusion_leaves_degrees_exact():
    """A label that is all but never confused still has its degree to the last bit."""
    A = sparse.csr_array(np.array([[10**9, 1, 0], [0, 10**9, 0], [0, 0, 10**9]]))
    degrees, _ = similarity_degrees(as_counts(A))
    assert degrees.tolist() == [10**9, 10**9, 0]


def test_input_is_read_only_and_made_canonical():
    repeated = sparse.csr_array(
        (np.array([1, 1, 0, 3]), np.array([0, 0, 1, 1]), np.array([0, 4, 4])), shape=(2, 2)
    )
    before = repeated.data.copy()
    degrees, diagonal = similarity_degrees(as_counts(repeated))
    assert (degrees.tolist(), diagonal.tolist()) == ([6, 6], [4, 9])
    np.testing.assert_array_equal(repeated.data, before)
    canonical = sparse.csr_array(np.eye(3, dtype=np.int64))
    assert np.shares_memory(as_counts(canonical).data, canonical.data)


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (np.ones((2, 3)), r"A must be \[labels, labels\].*got \[2, 3\]"),
        (np.ones(3), r"got \[3\]"),
        (np.zeros((0, 0)), "at least 1 label"),
        (np.array([[1, -1], [0, 1]]), "at least 0"),
        (np.array([[1, np.nan], [0, 1]]), "NaN"),
        (np.array([[1, np.inf], [0, 1]]), "infinity"),
        (np.array([["a"]]), "integers or floating numbers"),
        (np.ones((2, 2), complex), "got complex128"),
        (np.eye(3), "3 isolated labels"),
        (sparse.csr_array((4, 4)), "4 isolated labels"),
    ],
)
def test_rejects(A, message):
    with pytest.raises(ValueError, match=message):
        SimilarityOperator(A)


def test_rejects_regularization():
    with pytest.raises(ValueError, match="regularization must be at least 0, got -1"):
        SimilarityOperator(np.ones((2, 2)), regularization=-1)


def test_read_only_counts_are_taken_without_a_warning():
    """Of a memory-mapped file, say; PyTorch warns of tensors that cannot be written."""
    A = sparse.csr_array(random_counts(9, 0.5, 0).astype(np.float64))
    expected = SimilarityOperator(A) @ np.ones(9)
    for part in (A.data, A.indices, A.indptr):
        part.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(SimilarityOperator(A) @ np.ones(9), expected)
