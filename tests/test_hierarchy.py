"""Label smearing and the nodes above labels, against walks over the parents."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastheads.hierarchy import Hierarchy, with_ancestors
from fastheads.labels import Grouping, LabelSpace
from fastheads.targets import SparseTargets

# golden retriever, black-bird, dog, bird, mammal, animal (paper 002, section 3.1)
ANIMALS = [[2], [3], [4], [5], [5], []]


def walk(parents, label):
    """All labels above ``label``."""
    return set(parents[label]).union(*(walk(parents, above) for above in parents[label]))


def test_smearing_of_section_3_1():
    """A golden retriever is also a dog, a mammal and an animal."""
    animals = Hierarchy.from_parents(ANIMALS)
    assert animals.ancestors.tolist() == [[2, 4, 5], [3, 5], [4, 5], [5], [5], []]
    smeared = animals.smear(SparseTargets.from_lists([[0], [], [1, 4], [5]]))
    assert smeared.tolist() == [[0, 2, 4, 5], [], [1, 3, 4, 5], [5]]
    assert smeared.values is None and smeared.indices.dtype == smeared.offsets.dtype == torch.int64


@st.composite
def directed(draw):
    """Parents in a random order of labels, and rows of labels."""
    count = draw(st.integers(1, 12))
    order = draw(st.permutations(range(count)))
    parents = [[] for _ in range(count)]
    for place, label in enumerate(order):
        parents[label] = draw(st.lists(st.sampled_from(order[:place]), max_size=3)) if place else []
    return parents, draw(st.lists(st.lists(st.integers(0, count - 1), max_size=4), max_size=6))


@given(directed())
def test_smearing_of_any_hierarchy(case):
    parents, rows = case
    hierarchy = Hierarchy.from_parents(parents)
    assert hierarchy.num_labels == len(parents)
    expected = [sorted(set(row).union(*(walk(parents, label) for label in row))) for row in rows]
    smeared = hierarchy.smear(SparseTargets.from_lists(rows))
    assert smeared.tolist() == expected
    assert hierarchy.smear(smeared).tolist() == expected  # ancestors of ancestors are in already


def test_no_labels_and_no_rows():
    nothing = SparseTargets.from_lists([])
    assert Hierarchy.from_parents([]).smear(nothing).tolist() == []
    assert Hierarchy.from_parents([]).smear(SparseTargets.from_lists([[], []])).tolist() == [[], []]
    assert Hierarchy.from_parents(ANIMALS).smear(nothing).tolist() == []


def test_hierarchy_rejects():
    with pytest.raises(ValueError, match=r"no circle, got label 'dog' above itself"):
        Hierarchy.from_parents([[1], [1], []], ("golden retriever", "dog", "cat"))
    with pytest.raises(ValueError, match=r"no circle, got label [123] above itself"):
        Hierarchy.from_parents([[1], [2], [3], [1]])
    with pytest.raises(ValueError, match="parents of label 1 must be labels from 0 to 1, got 2"):
        Hierarchy.from_parents([[], [2]])
    animals = Hierarchy.from_parents(ANIMALS)
    with pytest.raises(ValueError, match="labels from 0 to 5, got labels from 1 to 6"):
        animals.smear(SparseTargets.from_lists([[1], [6]]))
    soft = SparseTargets.from_lists([[1]])._replace(values=torch.tensor([0.5]))
    with pytest.raises(ValueError, match="no values to be smeared, got soft targets"):
        animals.smear(soft)


LETTERS = LabelSpace(
    ("A", "B", "a", "α", "β", "Ω", "1", "2"),
    {
        "category": ("Latin Lu", "Latin Lu", "Latin Ll", "Greek Ll", "Greek Ll", "Greek Lu", *"dd"),
        "script": ("Latin", "Latin", "Latin", "Greek", "Greek", "Greek", "Digit", "Digit"),
    },
)
BY_SCRIPT = LETTERS.grouping("script")  # Digit, Greek, Latin


def called(space, hierarchy):
    return {
        space.names[label]: {space.names[a] for a in above}
        for label, above in enumerate(hierarchy.ancestors.tolist())
    }


def test_levels_become_nodes():
    """Of two names for the same labels the coarser stays; a name for one label alone does not."""
    space, grouping, hierarchy = with_ancestors(LETTERS, BY_SCRIPT)
    nodes = ("Greek Ll", "Latin Lu", "Digit", "Greek", "Latin")
    assert space.names == (*LETTERS.names, *nodes)
    assert [grouping.names[g] for g in grouping.group_of[8:]] == [
        "Greek", "Latin", "Digit", "Greek", "Latin",
    ]  # fmt: skip
    assert np.array_equal(grouping.group_of[:8], BY_SCRIPT.group_of)
    latin, greek, digit = {"Latin"}, {"Greek"}, {"Digit"}
    assert called(space, hierarchy) == {
        "A": {"Latin Lu", "Latin"}, "B": {"Latin Lu", "Latin"}, "a": latin,
        "α": {"Greek Ll", "Greek"}, "β": {"Greek Ll", "Greek"}, "Ω": greek, "1": digit, "2": digit,
        "Greek Ll": greek, "Latin Lu": latin, "Greek": set(), "Latin": set(), "Digit": set(),
    }  # fmt: skip
    assert space.levels["script"][8:] == ("Greek", "Latin", "Digit", "Greek", "Latin")
    assert space.levels["category"][8:] == ("Greek Ll", "Latin Lu", "d", "Greek", "Latin")


def test_nodes_are_made_once(tmp_path):
    """The parents are kept with the labels, so that what was extended is not extended again."""
    space, grouping, hierarchy = with_ancestors(LETTERS, BY_SCRIPT)
    space.save(tmp_path / "labels.json")
    again, same, above = with_ancestors(LabelSpace.load(tmp_path / "labels.json"), grouping)
    assert again == space and same is grouping
    assert above.ancestors.tolist() == hierarchy.ancestors.tolist()


def test_nodes_stay_within_a_group():
    """Latin capitals in two groups make no node, nor does Latin; labels in no group have none."""
    grouping = Grouping(np.array([0, 1, 0, 1, 1, 1, -1, -1]))
    space, grouping, hierarchy = with_ancestors(LETTERS, grouping)
    assert space.names[8:] == ("Greek Ll", "Greek") and grouping.group_of[8:].tolist() == [1, 1]
    assert hierarchy.ancestors.counts.tolist() == [0, 0, 0, 2, 2, 1, 0, 0, 1, 0]


def test_levels_that_cross():
    """Levels need not be nested; empty names are none; a taken name is told by its level."""
    space = LabelSpace(
        ("red", "rose", "tulip", "fire"),
        {"kind": ("", "flower", "flower", ""), "colour": ("red", "red", "blue", "red")},
    )
    space, _, hierarchy = with_ancestors(space, Grouping(np.zeros(4)))
    assert space.names[4:] == ("flower", "red (colour)")
    assert called(space, hierarchy) == {
        "red": {"red (colour)"}, "rose": {"flower", "red (colour)"}, "tulip": {"flower"},
        "fire": {"red (colour)"}, "flower": set(), "red (colour)": set(),
    }  # fmt: skip


def test_labels_with_parents_are_kept_as_they_are():
    """The hierarchy among the labels is used, and does not leave a group."""
    space = LabelSpace(
        ("apple", "fruit", "food", "tree"),
        {"vertical": ("food", "food", "food", "plant")},
        {"apple": ("fruit", "tree"), "fruit": ("food",)},
    )
    same, grouping, hierarchy = with_ancestors(space, space.grouping("vertical"))
    assert same is space and grouping.num_labels == 4
    assert called(space, hierarchy) == {
        "apple": {"fruit", "food"}, "fruit": {"food"}, "food": set(), "tree": set(),
    }  # fmt: skip


def test_no_levels():
    space, grouping, hierarchy = with_ancestors(LabelSpace(("a", "b")), Grouping(np.zeros(2)))
    assert space.names == ("a", "b") and grouping.num_labels == 2
    assert hierarchy.ancestors.tolist() == [[], []]


def test_with_ancestors_rejects():
    with pytest.raises(ValueError, match="grouping must be of the 8 labels, got 3"):
        with_ancestors(LETTERS, Grouping(np.zeros(3)))
    round_ = LabelSpace(("hen", "egg"), parents={"hen": ("egg",), "egg": ("hen",)})
    with pytest.raises(ValueError, match=r"no circle, got label .(hen|egg). above itself"):
        with_ancestors(round_, Grouping(np.zeros(2)))


def test_glyphs_of_many_scripts():
    """Every node's labels are those whose name at its level it has."""
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 40, 500)
    space = LabelSpace(
        tuple(f"label {i}" for i in range(500)),
        {
            "fine": tuple(f"fine {i}" for i in fine),
            "coarse": tuple(f"coarse {i % 6}" for i in fine),
        },
    )
    extended, grouping, hierarchy = with_ancestors(space, space.grouping("coarse"))
    assert len(extended) == 546
    above = [{extended.names[a] for a in row} for row in hierarchy.ancestors.tolist()]
    assert above[:500] == [{f"fine {i}", f"coarse {i % 6}"} for i in fine]
    assert all(grouping.names[grouping.group_of[i]] in names for i, names in enumerate(above[:540]))
