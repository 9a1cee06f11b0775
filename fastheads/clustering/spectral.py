"""Groups of labels that a network confuses: spectral clustering of B = A^T A, never formed.

Warde-Farley, Rabinovich, Anguelov, "Self-informed neural network structure learning", 2015,
section 4; Ng, Jordan, Weiss, "On spectral clustering: analysis and an algorithm", 2002.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh, lobpcg
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from threadpoolctl import threadpool_limits

from fastheads.clustering.similarity import SimilarityOperator
from fastheads.labels import Grouping

Solver = Literal["lanczos", "lobpcg"]


class ConfusionClustering(ClusterMixin, BaseEstimator):
    """Spectral clustering of labels by the columns of their confusion matrix.

    The similarity is B = A^T A with its diagonal taken out, normalised to L = D^-1/2 B D^-1/2; the
    rows of its ``n_clusters`` leading eigenvectors are scaled to unit length and clustered by
    k-means (Ng, Jordan, Weiss 2002). Only products of A and A^T with vectors are taken: 100,000
    labels with 27 million confusions need a gigabyte.

    Args:
        n_clusters: groups to find; ``None`` takes the number in
            ``[min_clusters, max_clusters]`` after which the eigenvalues drop most.
        min_clusters: smallest number that the eigengap may choose.
        max_clusters: largest number that the eigengap may choose; also how much of the spectrum is
            computed when ``n_clusters`` is smaller.
        drop_diagonal: no label is compared with itself; the diagonal says nothing about groups.
        regularization: above 0 joins disconnected components, see `SimilarityOperator`.
        eigen_solver: ``"lanczos"`` (ARPACK), or ``"lobpcg"``, which applies A to blocks of vectors.
        eigen_tol: residual at which an eigenvector counts as found, relative to its eigenvalue.
        n_init: how often k-means starts; the best is kept.
        random_state: seed of the solver's start and of k-means, as in scikit-learn.

    Attributes:
        labels_: ``[labels]``, int64, groups by descending size; -1 for an isolated label, which is
            similar to no other.
        n_clusters_: the number of clusters that was given or chosen.
        suggested_n_clusters_: the number that the eigengap chooses.
        eigenvalues_: ``[max(n_clusters, max_clusters) + 1]`` at most, float64, descending.
        eigengaps_: one less; ``eigengaps_[k - 1]`` is the drop after the k-th eigenvalue.
        n_components_: connected components of the similarity; so many eigenvalues are 1.
        embedding_: ``[labels, n_clusters_]``, rows of unit length; zero for an isolated label.
        degrees_: ``[labels]``, float64, row sums of B.
        n_features_in_: labels.

    Example:
        >>> import numpy as np
        >>> A = np.kron(np.eye(2, dtype=int), np.full((3, 3), 5)) + 1
        >>> ConfusionClustering(n_clusters=2, random_state=0).fit_predict(A)
        array([0, 0, 0, 1, 1, 1])
    """

    def __init__(
        self,
        n_clusters: int | None = None,
        *,
        min_clusters: int = 2,
        max_clusters: int = 20,
        drop_diagonal: bool = True,
        regularization: float = 0.0,
        eigen_solver: Solver = "lanczos",
        eigen_tol: float = 1e-3,
        n_init: int = 10,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.min_clusters = min_clusters
        self.max_clusters = max_clusters
        self.drop_diagonal = drop_diagonal
        self.regularization = regularization
        self.eigen_solver = eigen_solver
        self.eigen_tol = eigen_tol
        self.n_init = n_init
        self.random_state = random_state

    def fit(self, A: object, y: None = None) -> ConfusionClustering:
        """Finds the groups.

        Args:
            A: ``[labels, labels]``, sparse or dense, integer or floating, at least 0; row i is the
                detected label, column j the annotated one. Not modified.
            y: ignored.

        Raises:
            ValueError: if A is not square, empty, not finite, negative or without a pair of similar
                labels, or if it has fewer labels or more components than clusters are asked for.
        """
        self._check_parameters()
        rng = check_random_state(self.random_state)
        operator = SimilarityOperator(A, self.drop_diagonal, self.regularization)
        n, wanted = operator.shape[0], self.n_clusters or 1
        if wanted > n:
            raise ValueError(f"n_clusters must be at most the {n} connected labels, got {wanted}")
        component = operator.components()
        self.n_components_ = int(component.max()) + 1
        limit = self.n_clusters or self.max_clusters
        if self.n_components_ > limit:
            name = "n_clusters" if self.n_clusters else "max_clusters"
            raise ValueError(
                f"{name} must be at least the {self.n_components_} disconnected components of A, "
                f"got {limit}; regularization above 0 joins them"
            )
        count = min(max(wanted, self.max_clusters) + 1, n)
        known = operator.component_vectors(component)
        values, vectors = leading_eigenvectors(
            operator, count, known, self.eigen_solver, self.eigen_tol, rng
        )

        self.n_features_in_ = operator.degrees.size
        self.degrees_ = operator.degrees
        self.eigenvalues_ = values
        self.eigengaps_ = -np.diff(values)
        self.suggested_n_clusters_ = self._largest_gap(n)
        k = self.n_clusters_ = self.n_clusters or self.suggested_n_clusters_

        rows = vectors[:, :k] / np.linalg.norm(vectors[:, :k], axis=1, keepdims=True)
        found = KMeans(k, n_init=self.n_init, random_state=rng).fit_predict(rows)
        self.labels_ = np.full(operator.degrees.size, -1, np.int64)
        self.labels_[operator.connected] = by_size(found)
        self.embedding_ = np.zeros((operator.degrees.size, k), rows.dtype)
        self.embedding_[operator.connected] = rows
        return self

    def grouping(self, names: Sequence[str] = ()) -> Grouping:
        """The groups that were found, with one name each; numbered if not given."""
        return Grouping(self.labels_, tuple(names))

    def _largest_gap(self, connected: int) -> int:
        low = min(max(self.min_clusters, self.n_components_), connected)
        gaps = self.eigengaps_[low - 1 : self.max_clusters]
        return low + int(np.argmax(gaps)) if gaps.size else low

    def _check_parameters(self) -> None:
        if self.n_clusters is not None and self.n_clusters < 1:
            raise ValueError(f"n_clusters must be at least 1 or None, got {self.n_clusters}")
        if not 1 <= self.min_clusters <= self.max_clusters:
            raise ValueError(
                f"min_clusters must be from 1 to max_clusters {self.max_clusters}, "
                f"got {self.min_clusters}"
            )
        if self.eigen_solver not in ("lanczos", "lobpcg"):
            raise ValueError(
                f"eigen_solver must be 'lanczos' or 'lobpcg', got {self.eigen_solver!r}"
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = True
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        return tags


def leading_eigenvectors(
    operator: SimilarityOperator,
    count: int,
    known: np.ndarray,
    solver: Solver,
    tol: float,
    rng: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of the normalised similarity and their eigenvectors.

    Args:
        operator: ``[n, n]``, symmetric, eigenvalues in [-1, 1].
        count: eigenvectors wanted, at most n.
        known: ``[n, components]``, orthonormal eigenvectors of eigenvalue 1, at most ``count``.
        solver: ``"lanczos"`` or ``"lobpcg"``.
        tol: residual relative to the eigenvalue (Lanczos) or absolute (LOBPCG).
        rng: where the solver's start comes from.

    Returns:
        Eigenvalues ``[count]``, float64, descending, and eigenvectors ``[n, count]``, each with its
        largest entry positive.
    """
    n, more = operator.shape[0], count - known.shape[1]
    if n <= max(2 * count + 1, 20):  # a Krylov basis would be as large as the matrix
        values, vectors = np.linalg.eigh(operator @ np.eye(n, dtype=operator.dtype))
    elif more == 0:
        values, vectors = np.ones(count), known
    else:
        # Lanczos cannot tell copies of an eigenvalue apart, so the known ones are moved from 1 to
        # -2, below all others.
        rest = LinearOperator(
            operator.shape,
            dtype=operator.dtype,
            matvec=lambda v: operator.matvec(v) - 3 * (known @ (known.T @ v)),
            matmat=lambda v: operator.matmat(v) - 3 * (known @ (known.T @ v)),
        )
        # One BLAS thread: idle ones spin, and took half of the operator's time on two cores.
        with threadpool_limits(1, user_api="blas"):
            if solver == "lanczos":
                start = rng.standard_normal(n).astype(operator.dtype)
                values, vectors = eigsh(rest, more, which="LA", v0=start, tol=tol)
            else:
                values, vectors = _lobpcg(rest, more, tol, rng)
        values = np.concatenate([values, np.ones(known.shape[1])])
        vectors = np.concatenate([vectors, known], axis=1)
    order = np.argsort(-values, kind="stable")[:count]
    values, vectors = values[order].astype(np.float64), vectors[:, order]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(count)]
    return values, vectors * np.where(largest < 0, -1, 1).astype(vectors.dtype)


def _lobpcg(
    operator: LinearOperator, count: int, tol: float, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` largest; the block is wider, because its last vectors converge slowest."""
    start = rng.standard_normal((operator.shape[0], count + 8)).astype(operator.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # judges the spare vectors too
        values, vectors = lobpcg(operator, start, largest=True, tol=tol, maxiter=200)
    values, vectors = values[:count], vectors[:, :count]
    residual = np.linalg.norm(operator.matmat(vectors) - vectors * values, axis=0).max()
    if residual > 2 * tol + np.finfo(operator.dtype).eps * 100:
        warnings.warn(
            f"LOBPCG stopped at residual {residual:.1e}, above eigen_tol {tol:.1e}",
            ConvergenceWarning,
            stacklevel=2,
        )
    return values, vectors


def by_size(groups: np.ndarray) -> np.ndarray:
    """Numbers groups from 0 by descending size, ties by their first label."""
    _, first, groups, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty_like(first)
    rank[np.lexsort((first, -sizes))] = np.arange(first.size)
    return rank[groups]
