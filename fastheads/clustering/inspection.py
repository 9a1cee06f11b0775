"""How groups of labels look: the reordered similarity as an image, purity against a hierarchy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from fastheads.clustering.similarity import as_counts, row_blocks, similarity_degrees
from fastheads.labels import Grouping


def similarity_image(
    A: object, grouping: Grouping, bins: int = 512
) -> tuple[np.ndarray, np.ndarray]:
    """The similarity of the labels ordered by group, binned, without forming it.

    With S ``[labels, m]`` saying which labels fall in a bin, (A S)^T (A S) sums B = A^T A over
    pairs of bins; its diagonal is taken out label by label. A value is the sum divided by what the
    degrees alone would give: 1 is chance, above 1 more similar. Show it on a logarithmic scale.

    Args:
        A: ``[labels, labels]``, confusion matrix, sparse or dense, at least 0.
        grouping: of the labels; those in no group are left out.
        bins: largest side of the image.

    Returns:
        ``[m, m]``, float32, symmetric, at least 0, with m the smaller of ``bins`` and the grouped
        labels; and ``[groups + 1]``, float64, where each group begins and ends, in bins.

    Raises:
        ValueError: if A is not a confusion matrix, or the grouping is not of its labels.
    """
    counts = as_counts(A)
    if grouping.num_labels != counts.shape[1]:
        raise ValueError(
            f"grouping must be of the {counts.shape[1]} labels of A, got {grouping.num_labels}"
        )
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    grouped = grouping.permutation[: grouping.offsets[-1]]
    m = min(bins, grouped.size)
    bin_of = np.full(counts.shape[1], m)  # one bin more, dropped, for labels in no group
    bin_of[grouped] = np.arange(grouped.size) * m // max(grouped.size, 1)

    image = np.zeros((m, m))
    for block in row_blocks(counts):
        pattern = bin_of[block.indices], block.indptr
        summed = sparse.csr_array((block.data, *pattern), shape=(block.shape[0], m + 1))
        binned = summed.toarray()[:, :m]
        image += binned.T @ binned
    _, diagonal = similarity_degrees(counts)
    image[np.diag_indices(m)] -= np.bincount(bin_of, diagonal, m + 1)[:m]
    image = np.maximum(image, 0)  # a bin of one label: rounding may leave less than 0
    volume = image.sum(axis=1)
    expected = np.outer(volume, volume) / max(volume.sum(), 1)
    ratio = np.divide(image, expected, out=np.zeros_like(image), where=expected > 0)
    return ratio.astype(np.float32), grouping.offsets * (m / max(grouped.size, 1))


def group_purity(grouping: Grouping, above: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """How far each group stays within one name of a level above the labels, such as a script.

    Args:
        grouping: of the labels.
        above: one name a label, such as ``LabelSpace.levels["script"]``.

    Returns:
        For each group its most frequent name, ties by first label, and ``[groups]``, float64, the
        share of its labels that have it; ``""`` and 0 for an empty group.
    """
    if len(above) != grouping.num_labels:
        raise ValueError(f"above must name all {grouping.num_labels} labels, got {len(above)}")
    names, purity = [], np.zeros(grouping.num_groups)
    for group in range(grouping.num_groups):
        members = grouping.members(group)
        name, count = (
            Counter(above[j] for j in members).most_common(1)[0] if len(members) else ("", 0)
        )
        names.append(name)
        purity[group] = count / max(len(members), 1)
    return names, purity
