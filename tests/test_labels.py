import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastheads.labels import Grouping, LabelSpace, join_names


@given(st.lists(st.integers(-1, 6), max_size=40))
def test_grouping_lays_groups_out_contiguously(group_of):
    grouping = Grouping(np.array(group_of, dtype=np.int64))
    groups = range(max(group_of, default=-1) + 1)
    assert grouping.num_groups == len(groups) and grouping.num_labels == len(group_of)
    for group in groups:
        expected = [label for label, g in enumerate(group_of) if g == group]
        assert grouping.members(group).tolist() == expected
        assert grouping.sizes[group] == len(expected)
    assert sorted(grouping.permutation.tolist()) == list(range(len(group_of)))
    loose = [label for label, g in enumerate(group_of) if g == -1]
    assert grouping.permutation[grouping.offsets[-1] :].tolist() == loose


def test_randomized_keeps_sizes_and_follows_the_seed():
    grouping = Grouping(np.repeat([0, 1, 2, -1], [50, 30, 20, 10]), ("a", "b", "c"))
    first, again, other = grouping.randomized(1), grouping.randomized(1), grouping.randomized(2)
    assert first.sizes.tolist() == [50, 30, 20] and first.names == ("a", "b", "c")
    assert np.array_equal(first.group_of, again.group_of)
    assert not np.array_equal(first.group_of, other.group_of)
    assert not np.array_equal(first.group_of, grouping.group_of)


@pytest.mark.parametrize(
    ("group_of", "names", "message"),
    [
        ([[0]], (), "group_of must be"),
        ([0, -2], (), "group_of must be"),
        ([0, 2], ("a", "b"), "must name all 3 groups, got 2"),
    ],
)
def test_grouping_rejects(group_of, names, message):
    with pytest.raises(ValueError, match=message):
        Grouping(np.array(group_of), names)


SPACE = LabelSpace(("A", "a", "Α", "1"), {"script": ("Latin", "Latin", "Greek", "Digits")})


def test_label_space_finds_names():
    assert len(SPACE) == 4 and [SPACE.index(name) for name in SPACE.names] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="'x' is not among the 4"):
        SPACE.index("x")


def test_grouping_by_level_gathers_small_groups():
    every = SPACE.grouping("script")
    assert every.names == ("Digits", "Greek", "Latin") and every.group_of.tolist() == [2, 2, 1, 0]
    large = SPACE.grouping("script", min_size=2)
    assert large.names == ("Latin", "other") and large.group_of.tolist() == [0, 0, 1, 1]
    assert SPACE.grouping("script", min_size=9).names == ("other",)
    with pytest.raises(ValueError, match=r"level must be one of \['script'\], got 'family'"):
        SPACE.grouping("family")


def test_label_space_survives_a_file(tmp_path):
    SPACE.save(tmp_path / "labels.json")
    assert LabelSpace.load(tmp_path / "labels.json") == SPACE
    assert [p.name for p in tmp_path.iterdir()] == ["labels.json"]
    with_parents = LabelSpace(("Tortoise", "Turtle"), parents={"Tortoise": ["Turtle"]})
    with_parents.save(tmp_path / "labels.json")
    assert LabelSpace.load(tmp_path / "labels.json") == with_parents
    (tmp_path / "labels.json").write_text('{"names": ["a"], "levels": {}}')  # of an earlier version
    assert LabelSpace.load(tmp_path / "labels.json") == LabelSpace(("a",))


def test_label_space_rejects():
    with pytest.raises(ValueError, match="distinct, got 'a' more than once"):
        LabelSpace(("a", "b", "a"))
    with pytest.raises(ValueError, match="'script' must name all 2 labels, got 1"):
        LabelSpace(("a", "b"), {"script": ("Latin",)})
    with pytest.raises(ValueError, match="parents must lead from labels to labels, got 'c'"):
        LabelSpace(("a", "b"), parents={"a": ("b", "c")})


def test_join_names():
    assert join_names(["a", "b"]) == "a, b"
    assert join_names(list("abcdefg")) == "a, b, c, d, e and 2 more"
