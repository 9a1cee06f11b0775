"""Tables of open gates by hand, for any labels, and at 100,000 labels."""

import tracemalloc

import numpy as np
import pytest
import skipping
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastheads.labels import Grouping, LabelSpace
from fastheads.pipelines.gate_tables import (
    execution_by_label,
    extreme_images,
    group_rows,
    label_order,
    layer_histogram,
)
from fastheads.pipelines.open_gates import Decisions
from fastheads.targets import SparseTargets

SCRIPTS = skipping.LABELS.grouping("script")  # Greek, Latin, marks
# A; alpha and a; b; b and B; alpha. Nothing has the dot.
TARGETS = SparseTargets.from_lists([[0], [2, 4], [1], [1, 3], [2]])
OPEN = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 0]], bool)
DECISIONS = Decisions(("first", "second", "third"), OPEN)


def test_decisions():
    assert DECISIONS.layers.tolist() == [3, 1, 2, 1, 2]
    assert DECISIONS.rates.tolist() == [0.8, 0.6, 0.4]


def test_execution_by_label_by_hand():
    """Figure 5.4: a picture counts for each of its labels, a label without pictures has no row."""
    content, rates = execution_by_label(DECISIONS, TARGETS, skipping.LABELS, SCRIPTS)
    assert content == {
        # Greek; then Latin: first the small letters, category by category.
        "labels": ["alpha", "b", "a", "A", "B"],
        "groups": [
            {"name": "Greek", "first": 0, "last": 0},
            {"name": "Latin", "first": 1, "last": 4},
        ],
        "gates": ["first", "second", "third"],
    }
    assert rates.dtype == np.float32
    assert rates.tolist() == [[1, 0.5, 0], [0.5, 0.5, 0.5], [1, 0, 0], [1, 1, 1], [0, 0, 1]]


def test_labels_in_no_group_come_last():
    grouping = Grouping(np.array([1, -1, 0, 1, 0, -1]), ("zero", "one"))
    content, _ = execution_by_label(DECISIONS, TARGETS, skipping.LABELS, grouping)
    assert content["labels"] == ["alpha", "a", "A", "B", "b"]
    assert [(g["name"], g["first"], g["last"]) for g in content["groups"]] == [
        ("zero", 0, 1),
        ("one", 2, 3),
    ]
    assert label_order(skipping.LABELS, grouping).tolist() == [2, 4, 0, 3, 1, 5]


def test_group_rows_by_hand():
    assert [rows.tolist() for rows in group_rows(TARGETS, SCRIPTS)] == [[1, 4], [0, 1, 2, 3], []]
    assert group_rows(TARGETS, Grouping(np.full(6, -1))) == []


def test_layer_histogram_by_hand():
    """Figure 5.6."""
    members = group_rows(TARGETS, SCRIPTS)
    found = layer_histogram(DECISIONS, SCRIPTS.names, members)
    assert found["all"] == {"mean": 1.8, "std": pytest.approx(0.56**0.5), "counts": [0, 2, 2, 1]}
    assert found["groups"] == [
        {"name": "Greek", "mean": 1.5, "std": 0.5, "counts": [0, 1, 1, 0], "images": 2},
        {
            "name": "Latin",
            "mean": 1.75,
            "std": pytest.approx((11 / 16) ** 0.5),
            "counts": [0, 2, 1, 1],
            "images": 4,
        },
    ]


def test_extreme_images_by_hand():
    """Figure 5.7: of the five Latin pictures the two with fewest and with most layers."""
    test = skipping.dataset([[0], [2, 4], [1], [1, 3], [2], [3]])
    layers = np.array([3, 0, 2, 1, 5, 4])
    members = group_rows(test.targets, SCRIPTS)
    found, arrays = extreme_images(layers, test, SCRIPTS, members, shown=2, examples=2)
    assert found == [
        {
            "group": "Latin",
            "fewest": {"pictures": "fewest_0", "labels": ["a", "b"], "layers": [0, 1]},
            "most": {"pictures": "most_0", "labels": ["B", "A"], "layers": [4, 3]},
        },
        {
            "group": "Greek",
            "fewest": {"pictures": "fewest_1", "labels": ["alpha"], "layers": [0]},
            "most": {"pictures": "most_1", "labels": ["alpha"], "layers": [5]},
        },
    ]
    shown = {"fewest_0": [1, 3], "most_0": [5, 0], "fewest_1": [1], "most_1": [4]}
    assert set(arrays) == set(shown)
    for name, rows in shown.items():
        assert arrays[name].dtype == np.uint8
        assert np.array_equal(arrays[name], test.images[rows, 0])


def test_pictures_in_colour():
    test = skipping.dataset([[0], [0]], skipping.pictures(2, channels=3))
    members = group_rows(test.targets, SCRIPTS)
    _, arrays = extreme_images(np.array([1, 0]), test, SCRIPTS, members, 3, 5)
    assert set(arrays) == {"fewest_0", "most_0"}  # one picture for each end
    assert np.array_equal(arrays["fewest_0"][0], test.images[1].transpose(1, 2, 0))


def test_other_is_shown_last_and_ties_are_not_broken_by_order():
    space = LabelSpace(("a", "b"), {"kind": ("other", "small")})
    test = skipping.dataset([[0]] * 30 + [[1]] * 20, space=space)
    grouping = space.grouping("kind")
    members = group_rows(test.targets, grouping)
    layers = np.zeros(50, np.int64)
    found, arrays = extreme_images(layers, test, grouping, members, 2, 4)
    assert [each["group"] for each in found] == ["small", "other"]
    assert not np.array_equal(arrays["fewest_0"], test.images[30:34, 0])
    again = extreme_images(layers, test, grouping, members, 2, 4)[1]
    assert all(np.array_equal(again[name], pictures) for name, pictures in arrays.items())


LABELS_OF = st.lists(st.sets(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=20)


@given(LABELS_OF, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_tables_are_those_of_loops(labels, gates, seed):
    rng = np.random.default_rng(seed)
    decisions = Decisions(("g",) * gates, rng.random((len(labels), gates)) < 0.5)
    targets = SparseTargets.from_lists(labels)
    grouping = Grouping(rng.integers(-1, 3, 6), ("x", "y", "z"))
    content, rates = execution_by_label(decisions, targets, skipping.LABELS, grouping)
    assert set(content["labels"]) == {skipping.LABELS.names[i] for row in labels for i in row}
    for name, row in zip(content["labels"], rates, strict=True):
        label = skipping.LABELS.index(name)
        own = [decisions.open[i] for i, row in enumerate(labels) if label in row]
        np.testing.assert_allclose(row, np.mean(own, 0), rtol=1e-6)
    members = group_rows(targets, grouping)
    groups = {
        name: [i for i, row in enumerate(labels) if any(grouping.group_of[j] == g for j in row)]
        for g, name in enumerate(grouping.names)
    }
    assert [rows.tolist() for rows in members] == list(groups.values())
    for entry in content["groups"]:
        own = content["labels"][entry["first"] : entry["last"] + 1]
        indices = [skipping.LABELS.index(name) for name in own]
        assert {grouping.names[grouping.group_of[i]] for i in indices} == {entry["name"]}
    found = layer_histogram(decisions, grouping.names, members)
    assert sum(found["all"]["counts"]) == len(labels)
    assert {each["name"]: each["images"] for each in found["groups"]} == {
        name: len(rows) for name, rows in groups.items() if rows
    }


def test_a_hundred_thousand_labels():
    """Nothing that is large but the table of labels by gates and what each picture decided."""
    labels, pictures, gates = 100_000, 150_000, 33
    rng = np.random.default_rng(0)
    space = LabelSpace(
        tuple(map(str, range(labels))), {"kind": tuple(str(i % 700) for i in range(labels))}
    )
    offsets = torch.arange(0, 2 * pictures + 1, 2)
    indices = torch.from_numpy(rng.integers(0, labels // 2, 2 * pictures))
    indices[1::2] += labels // 2  # two labels each, ascending
    targets = SparseTargets(indices, offsets)
    decisions = Decisions(("g",) * gates, rng.random((pictures, gates)) < 0.7)
    grouping = space.grouping("kind")
    tracemalloc.start()
    try:
        members = group_rows(targets, grouping)
        content, rates = execution_by_label(decisions, targets, space, grouping)
        histogram = layer_histogram(decisions, grouping.names, members)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Eight bytes for each of them would be 80 GB for [labels, labels], 560 MB for [groups, labels].
    assert peak < 100e6
    assert rates.shape == (len(content["labels"]), gates) and len(rates) > 0.9 * labels
    assert len(content["groups"]) == len(histogram["groups"]) == 700
    place = content["labels"].index("4321")
    rows = targets.row_indices()[targets.indices == 4321].numpy()
    np.testing.assert_allclose(rates[place], decisions.open[rows].mean(0), rtol=1e-6)
