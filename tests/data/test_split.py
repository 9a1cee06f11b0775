from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastheads.data.split import MINIMUM, assign_splits
from fastheads.targets import SparseTargets


def counts(rows, split, num_labels):
    found = np.zeros((num_labels, 3), dtype=int)
    for row, part in zip(rows, split, strict=True):
        found[sorted(set(row)), part] += 1
    return found


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.sets(st.integers(0, n - 1), max_size=3), max_size=60)
        )
    ),
    st.integers(0, 3),
    st.sampled_from([(0.0, 0.0), (0.2, 0.2), (0.5, 0.5)]),
)
@settings(deadline=None)
def test_every_kept_label_is_met(drawn, seed, parts):
    num_labels, rows = drawn
    targets = SparseTargets.from_lists(rows)
    split, kept = assign_splits(targets, num_labels, seed, parts)
    found = counts(rows, split, num_labels)
    assert (found[kept] >= MINIMUM).all()
    total = found.sum(1)
    assert not kept[total < sum(MINIMUM)].any()
    # Four drawings that a label shares with nobody always suffice.
    alone = counts([row if len(row) == 1 else () for row in rows], split, num_labels).sum(1)
    shared = total - alone
    assert kept[(alone >= sum(MINIMUM)) & (shared == 0)].all()
    again = assign_splits(targets, num_labels, seed, parts)
    assert np.array_equal(split, again[0]) and np.array_equal(kept, again[1])


@given(st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=4, max_size=7))
@settings(deadline=None, max_examples=60)
def test_gives_up_no_label_that_can_be_met(rows):
    """Against trying every assignment."""
    can_all = any(
        (counts(rows, split, 3) >= MINIMUM).all() for split in product(range(3), repeat=len(rows))
    )
    _, kept = assign_splits(SparseTargets.from_lists(rows), 3, seed=0)
    assert kept.all() == can_all


def test_rest_goes_to_train_or_to_the_parts():
    targets = SparseTargets.from_lists([[i % 10] for i in range(2000)])
    split, _ = assign_splits(targets, 10, seed=0)
    assert np.bincount(split).tolist() == [1980, 10, 10]
    split, _ = assign_splits(targets, 10, seed=0, parts=(0.15, 0.25))
    assert np.bincount(split) / 2000 == pytest.approx([0.6, 0.15, 0.25], abs=0.03)
