"""The similarity of labels as an operator: v -> D^-1/2 (A^T (A v) - diag v) D^-1/2.

A row of A is a detected label and a column an annotated one, so B = A^T A compares columns: labels
are similar when the network detects the same labels in their place (paper 000, section 4). B is
nearly dense even when A is sparse, and is never formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from ..ops import csr_matmul

# Up to here float64 costs nothing that a user would notice. Beyond it float32 halves the memory and
# takes 0.75 of the time; its rounding moves eigenvalues by 1e-6.
_MAX_NONZEROS_FLOAT64 = 4_000_000


def as_counts(A: object) -> sparse.csr_array:
    """Checks a confusion matrix and returns it in canonical CSR form, not copied if it has it.

    Args:
        A: ``[labels, labels]``, sparse or dense, integer or floating, finite, at least 0.

    Returns:
        ``[labels, labels]``, without repeated entries and without stored zeros.

    Raises:
        ValueError: if A is not square, empty, or holds anything but finite values of at least 0.
    """
    matrix: Any = A if sparse.issparse(A) else np.asarray(A)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"A must be [labels, labels], at least 1 label, got {list(matrix.shape)}")
    if matrix.dtype.kind not in "buif":
        raise ValueError(f"A must hold integers or floating numbers, got {matrix.dtype}")
    counts = sparse.csr_array(matrix)
    if not np.isfinite(counts.data).all() or counts.data.min(initial=0) < 0:
        raise ValueError("A must be finite and at least 0, got a negative number, NaN or infinity")
    if not counts.has_canonical_format or np.count_nonzero(counts.data) < counts.nnz:
        counts = counts.copy()
        counts.sum_duplicates()
        counts.eliminate_zeros()
    return counts


def row_blocks(A: sparse.csr_array, rows: int = 512) -> Iterator[sparse.csr_array]:
    """The rows of A in consecutive blocks, float64, so that temporaries stay small."""
    for begin in range(0, A.shape[0], rows):
        indptr = A.indptr[begin : begin + rows + 1]
        entries = slice(indptr[0], indptr[-1])
        data = A.data[entries].astype(np.float64)
        shape = (indptr.size - 1, A.shape[1])
        yield sparse.csr_array((data, A.indices[entries], indptr - indptr[0]), shape=shape)


def similarity_degrees(A: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Row sums of B = A^T A without its diagonal, and the diagonal.

    The degree of label j is the sum over i of ``a_ij (r_i - a_ij)``, where r_i is the sum of row i:
    no cancellation, so it is exactly 0 for an isolated label.

    Args:
        A: ``[labels, labels]``, canonical, from `as_counts`.

    Returns:
        Degrees and diagonal, each ``[labels]``, float64.
    """
    degrees, diagonal = np.zeros(A.shape[1]), np.zeros(A.shape[1])
    for block in row_blocks(A):
        row_sums = block.sum(axis=1).repeat(np.diff(block.indptr))
        pattern = block.indices, block.indptr
        others = sparse.csr_array((block.data * (row_sums - block.data), *pattern), block.shape)
        degrees += others.sum(axis=0)
        diagonal += block.power(2).sum(axis=0)
    return degrees, diagonal


def as_tensors(matrix: sparse.csr_array) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of `csr_matmul`, sharing memory with the matrix unless that is read-only."""
    crow, col, values = (
        torch.from_numpy(np.require(part, requirements="W"))
        for part in (matrix.indptr, matrix.indices, matrix.data)
    )
    return crow, col, values


class SimilarityOperator(LinearOperator):
    """D^-1/2 B D^-1/2 of the labels that are similar to any other, as a linear operator.

    Its eigenvalues lie in [-1, 1]. One application reads the nonzeros of A and of A^T, which
    are both kept.

    Args:
        A: ``[labels, labels]``, see `as_counts`.
        drop_diagonal: a label is not compared with itself, as Ng, Jordan and Weiss (2002, step 1)
            define the affinity.
        regularization: every pair of labels is made similar by this fraction of the mean degree,
            spread over all labels (Amini, Chen, Bickel, Levina, 2013, "Pseudo-likelihood methods
            for community detection"). Above 0 it joins disconnected components.

    Attributes:
        degrees: ``[labels]``, float64, the row sums D of B as it is defined by the options; 0 for
            an isolated label.
        connected: ``[n]``, the labels that are not isolated, ascending; the operator is ``[n, n]``.
    """

    def __init__(self, A: object, drop_diagonal: bool = True, regularization: float = 0.0) -> None:
        if not 0 <= regularization < np.inf:
            raise ValueError(f"regularization must be at least 0, got {regularization}")
        counts = as_counts(A)
        degrees, diagonal = similarity_degrees(counts)
        self.degrees = degrees if drop_diagonal else degrees + diagonal
        self.connected = np.flatnonzero(self.degrees)
        n = self.connected.size
        if n == 0:
            raise ValueError(
                f"A must make at least two labels similar, got {counts.shape[0]} isolated labels"
            )
        dtype = np.float64 if counts.nnz <= _MAX_NONZEROS_FLOAT64 else np.float32
        super().__init__(dtype, (n, n))
        index = sparse.get_index_dtype(maxval=max(counts.nnz, *counts.shape))  # int32 if it fits
        pattern = (part.astype(index, copy=False) for part in (counts.indices, counts.indptr))
        self._matrix = sparse.csr_array((counts.data.astype(dtype), *pattern), counts.shape)
        self._rows, self._columns = as_tensors(self._matrix), as_tensors(self._matrix.T.tocsr())
        self._joining = regularization * self.degrees[self.connected].mean() / n
        self.degrees[self.connected] += self._joining * n
        self._scale = (self.degrees[self.connected] ** -0.5).astype(dtype)[:, None]
        dropped = diagonal if drop_diagonal else np.zeros_like(diagonal)
        self._dropped = dropped[self.connected].astype(dtype)[:, None]

    def _matmat(self, vectors: np.ndarray) -> np.ndarray:
        scaled = self._scale * vectors.astype(self.dtype, copy=False)
        spread = np.zeros((self._matrix.shape[1], vectors.shape[1]), self.dtype)
        spread[self.connected] = scaled
        detected = csr_matmul(*self._rows, torch.from_numpy(spread))
        product = csr_matmul(*self._columns, detected).numpy()[self.connected]
        product -= self._dropped * scaled
        if self._joining:
            product += self.dtype.type(self._joining) * scaled.sum(axis=0)
        return self._scale * product

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._matmat(vector.reshape(-1, 1))

    def _adjoint(self) -> SimilarityOperator:
        return self

    def components(self) -> np.ndarray:
        """``[n]``: the connected component of each connected label, numbered from 0."""
        if self._joining:
            return np.zeros(self.connected.size, np.int64)
        # Each row of A joins all its labels to its first. Block by block: as a graph, A would be
        # copied several times, and a few blocks mostly suffice.
        component = np.arange(self._matrix.shape[1])
        for block in row_blocks(self._matrix):
            filled = np.diff(block.indptr)
            first = block.indices[block.indptr[:-1][filled > 0]].repeat(filled[filled > 0])
            edges = component[first], component[block.indices]
            graph = sparse.coo_array((block.data, edges), shape=(component.size,) * 2)
            component = connected_components(graph, directed=False)[1][component]
            if np.ptp(component[self.connected]) == 0:
                break
        return np.unique(component[self.connected], return_inverse=True)[1]

    def component_vectors(self, component: np.ndarray) -> np.ndarray:
        """``[n, components]``: D^1/2 1 on each component, the eigenvectors of eigenvalue 1."""
        vectors = np.zeros((component.size, component.max() + 1), self.dtype)
        vectors[np.arange(component.size), component] = self.degrees[self.connected] ** 0.5
        return vectors / np.linalg.norm(vectors, axis=0)
