"""Groups of labels against a dense eigendecomposition and against planted groups."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import check_no_attributes_set_in_init

from fastheads.clustering import ConfusionClustering
from fastheads.clustering.spectral import by_size


def planted(labels, groups, per_row, inside, seed=0):
    """Row i holds ``per_row`` labels, the share ``inside`` of them from its own group."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(labels) % groups)
    members = np.argsort(truth, kind="stable")
    sizes = np.bincount(truth)
    first = np.cumsum(sizes) - sizes
    shape = labels, per_row
    own = members[first[truth][:, None] + rng.integers(0, 2**31, shape) % sizes[truth][:, None]]
    columns = np.where(rng.random(shape) < inside, own, rng.integers(0, labels, shape))
    rows = np.repeat(np.arange(labels), per_row)
    counts = rng.geometric(0.5, labels * per_row)
    A = sparse.coo_array((counts, (rows, columns.ravel())), shape=(labels, labels)).tocsr()
    return A, truth


def dense_spectrum(A):
    """B = A^T A, paper 000 section 4, its diagonal 0; L = D^-1/2 B D^-1/2 (NJW, steps 1 and 2)."""
    B = (A.T @ A).toarray().astype(np.float64)
    np.fill_diagonal(B, 0)
    D = B.sum(axis=1)
    values, vectors = np.linalg.eigh(B / np.sqrt(np.outer(D, D)))
    return values[::-1], vectors[:, ::-1]


@pytest.mark.parametrize("solver", ["lanczos", "lobpcg"])
def test_njw_steps(solver):
    """Ng, Jordan, Weiss 2002, steps 2 to 5, one by one against dense float64."""
    A, _ = planted(200, 5, 12, 0.7)
    found = ConfusionClustering(
        5, max_clusters=8, eigen_solver=solver, eigen_tol=1e-9, random_state=0
    ).fit(A)
    values, vectors = dense_spectrum(A)
    np.testing.assert_allclose(found.eigenvalues_, values[:9], atol=1e-9)  # step 3
    X = vectors[:, :5]
    Y = X / np.linalg.norm(X, axis=1, keepdims=True)  # step 4
    # Row products do not depend on signs or on a rotation within the leading subspace.
    np.testing.assert_allclose(found.embedding_ @ found.embedding_.T, Y @ Y.T, atol=1e-6)
    oracle = KMeans(5, n_init=10, random_state=0).fit_predict(Y)  # step 5
    assert adjusted_rand_score(oracle, found.labels_) == 1


@settings(deadline=None, max_examples=40)
@given(
    labels=st.integers(2, 60),
    density=st.floats(0.05, 0.6),
    n_clusters=st.integers(1, 8),
    max_clusters=st.integers(2, 8),
    seed=st.integers(0, 1000),
)
def test_any_matrix(labels, density, n_clusters, max_clusters, seed):
    rng = np.random.default_rng(seed)
    dense = (rng.random((labels, labels)) < density) * rng.integers(1, 5, (labels, labels))
    B = (dense.T @ dense).astype(np.float64)
    np.fill_diagonal(B, 0)
    D = B.sum(axis=1)
    connected = np.flatnonzero(D)
    L = B[np.ix_(connected, connected)] / np.sqrt(np.outer(D[connected], D[connected]))
    values = np.linalg.eigvalsh(L)[::-1]
    components = int((values > 1 - 1e-9).sum())

    estimator = ConfusionClustering(
        n_clusters, max_clusters=max_clusters, n_init=1, eigen_tol=0, random_state=seed
    )
    if not components <= n_clusters <= connected.size:
        with pytest.raises(ValueError, match=r"n_clusters must be at|isolated"):
            estimator.fit(dense)
        return
    groups = estimator.fit_predict(dense)
    np.testing.assert_array_equal(np.flatnonzero(groups >= 0), connected)
    np.testing.assert_allclose(
        estimator.eigenvalues_, values[: estimator.eigenvalues_.size], atol=1e-9
    )
    assert estimator.eigenvalues_.size == min(max(n_clusters, max_clusters) + 1, connected.size)
    assert estimator.n_components_ == components
    norms = np.linalg.norm(estimator.embedding_, axis=1)
    np.testing.assert_allclose(norms, (groups >= 0).astype(float))
    sizes = np.bincount(groups[groups >= 0])
    assert (np.diff(sizes) <= 0).all()
    assert sizes.min() > 0


@pytest.mark.parametrize("solver", ["lanczos", "lobpcg"])
@pytest.mark.parametrize("groups", [2, 6, 13])
def test_planted_groups_are_found_and_counted(groups, solver):
    A, truth = planted(600, groups, 60, 0.6)
    found = ConfusionClustering(eigen_solver=solver, random_state=0).fit(A)
    assert found.n_clusters_ == found.suggested_n_clusters_ == groups
    assert adjusted_rand_score(truth, found.labels_) == 1
    np.testing.assert_allclose(found.eigengaps_, -np.diff(found.eigenvalues_))
    assert found.eigengaps_[1:].argmax() == groups - 2


def test_min_clusters_bounds_the_choice():
    A, _ = planted(400, 3, 40, 0.6)
    assert ConfusionClustering(random_state=0).fit(A).n_clusters_ == 3
    found = ConfusionClustering(min_clusters=5, max_clusters=9, random_state=0).fit(A)
    assert 5 <= found.n_clusters_ <= 9


def test_isolated_labels_are_in_no_group():
    A, truth = planted(300, 3, 20, 0.8)
    alone = np.arange(0, 300, 7)
    dense = A.toarray()
    dense[:, alone] = 0
    dense[alone] = 0
    dense[alone, alone] = 50  # detected for itself alone
    found = ConfusionClustering(3, random_state=0).fit(dense)
    others = np.setdiff1d(np.arange(300), alone)
    assert (found.labels_[alone] == -1).all()
    assert (found.degrees_[alone] == 0).all()
    assert (found.embedding_[alone] == 0).all()
    assert adjusted_rand_score(truth[others], found.labels_[others]) == 1
    grouping = found.grouping(["a", "b", "c"])
    assert grouping.sizes.sum() == others.size
    assert grouping.names == ("a", "b", "c")


@pytest.mark.parametrize("solver", ["lanczos", "lobpcg"])
def test_disconnected_components(solver):
    """Eigenvalue 1 once a component: a Krylov method alone may miss copies of it."""
    blocks = [planted(200, 1, 10, 1.0, seed)[0] for seed in range(6)]
    A = sparse.block_diag(blocks, format="csr")
    truth = np.repeat(np.arange(6), 200)
    found = ConfusionClustering(6, max_clusters=7, eigen_solver=solver, random_state=0).fit(A)
    assert found.n_components_ == 6
    np.testing.assert_allclose(found.eigenvalues_[:6], 1)
    assert found.eigenvalues_[6] < 0.9
    assert adjusted_rand_score(truth, found.labels_) == 1

    with pytest.raises(ValueError, match="n_clusters must be at least the 6 disconnected"):
        ConfusionClustering(5).fit(A)
    with pytest.raises(ValueError, match="max_clusters must be at least the 6 disconnected"):
        ConfusionClustering(max_clusters=5).fit(A)
    joined = ConfusionClustering(5, regularization=0.1, random_state=0).fit(A)
    assert joined.n_components_ == 1
    assert joined.labels_.max() == 4


def test_many_components_are_refused_without_a_vector_for_each():
    """20,000 pairs: their indicator vectors alone would take 6.4 GB."""
    A = sparse.kron(sparse.eye_array(20_000, dtype=np.int64), np.ones((2, 2), np.int64))
    tracemalloc.start()
    with pytest.raises(ValueError, match="at least the 20000 disconnected components"):
        ConfusionClustering().fit(A)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6


def test_regularization_keeps_a_tiny_component_from_taking_a_group():
    A, truth = planted(400, 2, 40, 0.8)
    pair = np.array([[1, 1], [1, 1]])
    A = sparse.block_diag([A, pair], format="csr")
    found = ConfusionClustering(2, regularization=0.25, random_state=0).fit(A)
    assert adjusted_rand_score(truth, found.labels_[:400]) == 1


def test_diagonal_kept():
    """Where a label is detected for itself far more than for others, the diagonal is all of B."""
    A = planted(300, 3, 20, 0.8)[0] + 1000 * sparse.eye_array(300, dtype=np.int64)
    dropped = ConfusionClustering(3, random_state=0).fit(A)
    kept = ConfusionClustering(3, drop_diagonal=False, random_state=0).fit(A)
    B = (A.T @ A).toarray()
    np.testing.assert_allclose(kept.degrees_, B.sum(axis=1))
    np.testing.assert_allclose(dropped.degrees_, B.sum(axis=1) - B.diagonal())
    assert kept.eigenvalues_[3] > 0.9 > dropped.eigenvalues_[3]


@pytest.mark.parametrize("solver", ["lanczos", "lobpcg"])
def test_random_state_determines_everything(solver):
    A, _ = planted(500, 4, 15, 0.4)
    first, second = (
        ConfusionClustering(4, eigen_solver=solver, random_state=7).fit(A) for _ in range(2)
    )
    np.testing.assert_array_equal(first.labels_, second.labels_)
    np.testing.assert_array_equal(first.embedding_, second.embedding_)
    np.testing.assert_array_equal(first.eigenvalues_, second.eigenvalues_)
    largest = np.abs(first.embedding_).argmax(axis=0)
    assert np.isfinite(first.embedding_[largest, range(4)]).all()


def test_groups_follow_a_permutation_of_the_labels():
    A, _ = planted(400, 4, 30, 0.7)
    order = np.random.default_rng(0).permutation(400)
    groups = ConfusionClustering(4, random_state=0).fit_predict(A)
    permuted = ConfusionClustering(4, random_state=0).fit_predict(A[order][:, order])
    assert adjusted_rand_score(groups[order], permuted) == 1


def test_similarity_is_never_formed():
    """At 20,000 labels; B would hold 57 million nonzeros, 460 MB with 8 bytes each."""
    A, truth = planted(20_000, 8, 60, 0.7)
    bytes_of_similarity = (A[:, :200].T @ A).nnz * 100 * 8
    assert bytes_of_similarity > 400e6
    tracemalloc.start()
    found = ConfusionClustering(8, max_clusters=8, random_state=0).fit(A)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < bytes_of_similarity / 4
    assert adjusted_rand_score(truth, found.labels_) == 1


def test_scikit_learn_conventions():
    estimator = ConfusionClustering(3, n_init=2, random_state=1)
    copy = clone(estimator)
    assert copy is not estimator and copy.get_params() == estimator.get_params()
    copy.set_params(max_clusters=5)
    assert copy.max_clusters == 5
    check_no_attributes_set_in_init("ConfusionClustering", estimator)
    A, _ = planted(60, 3, 12, 0.9)
    assert estimator.fit(A) is estimator
    assert estimator.n_features_in_ == 60
    np.testing.assert_array_equal(estimator.labels_, clone(estimator).fit_predict(A.toarray()))
    assert estimator.__sklearn_tags__().input_tags.pairwise


def test_by_size():
    groups = by_size(np.array([4, 4, 0, 2, 2, 0, 7, 2]))
    assert groups.tolist() == [1, 1, 2, 0, 0, 2, 3, 0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_clusters": 31}, "n_clusters must be at most the 30 connected labels, got 31"),
        ({"n_clusters": 0}, "n_clusters must be at least 1 or None, got 0"),
        ({"min_clusters": 9, "max_clusters": 8}, "min_clusters must be from 1 to max_clusters 8"),
        ({"eigen_solver": "amg"}, "eigen_solver must be 'lanczos' or 'lobpcg', got 'amg'"),
        ({"regularization": -0.1}, "regularization must be at least 0, got -0.1"),
    ],
)
def test_rejects(parameters, message):
    A, _ = planted(30, 2, 10, 0.8)
    with pytest.raises(ValueError, match=message):
        ConfusionClustering(**parameters).fit(A)
