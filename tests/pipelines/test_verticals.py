"""Verticals that are given, found and compared; every way in which they can be wrong."""

import json

import numpy as np
import pytest
import tiny

from fastheads.hierarchy import with_ancestors
from fastheads.labels import Grouping, LabelSpace
from fastheads.pipelines.heads import HeadsConfig, count_confusions
from fastheads.pipelines.verticals import (
    VerticalsConfig,
    check_verticals,
    compare_verticals,
    found_verticals,
    given_levels,
    given_verticals,
)
from fastheads.targets import SparseTargets

SPACE = LabelSpace(
    ("robin", "wren", "jeep", "van", "kiwi"),
    {"kind": ("bird", "bird", "car", "car", "bird")},
)
CSV = """label,vertical,family,order
jeep,car,off-road,land
robin,bird,Turdidae,songbird
wren,bird,Troglodytidae,songbird
van,car,,land
kiwi,bird,Apterygidae,
moa,bird,Dinornithidae,
"""


def file_config(folder, text, name="verticals.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return VerticalsConfig("file", path=folder / name)


def test_verticals_of_a_level():
    grouping = given_verticals(SPACE, VerticalsConfig(level="kind", min_size=3))
    assert grouping.names == ("bird", "other") and grouping.group_of.tolist() == [0, 0, 1, 1, 0]
    with pytest.raises(ValueError, match=r"level must be one of \['kind'\], got 'script'"):
        given_verticals(SPACE, VerticalsConfig())


@pytest.mark.parametrize("form", ["csv", "json"])
def test_verticals_of_a_file(tmp_path, form):
    """In the file's order; what it names beyond the labels is left out."""
    if form == "csv":
        config = file_config(tmp_path, "\ufeff" + CSV + '"a,b",letters,,\n')
    else:
        stored = {"fish": ["cod"], "car": ["van", "jeep"], "bird": ["robin", "wren", "kiwi", "moa"]}
        config = file_config(tmp_path, json.dumps(stored), "verticals.json")
    grouping = given_verticals(SPACE, config)
    assert grouping.names == ("car", "bird") and grouping.group_of.tolist() == [1, 1, 0, 0, 1]


def test_levels_of_a_file(tmp_path):
    """Further columns are the ancestors; an empty cell is none."""
    config = file_config(tmp_path, CSV)
    space = given_levels(SPACE, config)
    assert space.names == SPACE.names and list(space.levels) == ["family", "order"]
    assert space.levels["family"] == ("Turdidae", "Troglodytidae", "off-road", "", "Apterygidae")
    extended, _, hierarchy = with_ancestors(space, given_verticals(space, config))
    assert extended.names[5:] == ("land", "songbird")
    assert hierarchy.ancestors.tolist() == [[6], [6], [5], [5], [], [], []]


def test_files_without_levels_leave_the_labels(tmp_path):
    for config in (VerticalsConfig(), file_config(tmp_path, '{"a": []}', "verticals.json")):
        assert given_levels(SPACE, config) is SPACE


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (CSV.replace("kiwi", "emu"), "v.csv", "every label, but v.csv does not name kiwi"),
        (CSV + "wren,car,,\n", "v.csv", "once, got 'wren' in 'bird' and 'car' of v.csv"),
        (
            CSV + "emu,bird\n",
            "v.csv",
            "row 8 of v.csv must have .* 4 columns in all, got 'emu,bird'",
        ),
        (CSV + "emu,,a,b\n", "v.csv", "row 8 of v.csv must have a label, a vertical"),
        (
            "name,group\n",
            "v.csv",
            "v.csv must begin with the columns label and vertical, got 'name",
        ),
        ("", "v.csv", "v.csv must begin with the columns label and vertical, got ''"),
        ('{"bird": ["robin"]}', "v.json", "v.json does not name wren, jeep, van, kiwi"),
        ('{"bird": "robin"}', "v.json", r"v.json must hold an object {vertical: \[labels\]}"),
        ("{bird", "v.json", "path must be a readable file, got v.json"),
        (CSV, "v.txt", "path must end in .csv or .json, got 'v.txt'"),
    ],
)
def test_files_that_are_refused(tmp_path, text, name, message):
    with pytest.raises(ValueError, match=message):
        given_verticals(SPACE, file_config(tmp_path, text, name))


def test_levels_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"every label, but verticals.csv does not name kiwi"):
        given_levels(SPACE, file_config(tmp_path, CSV.replace("kiwi", "emu")))
    with pytest.raises(ValueError, match=r"must be a file of verticals, got no file .*gone.csv"):
        given_verticals(SPACE, VerticalsConfig("file", path=tmp_path / "gone.csv"))


def test_settings_that_are_refused(tmp_path):
    for settings, message in (
        ({"source": "file"}, "path must be given for verticals of source 'file'"),
        ({"path": tmp_path}, "path must be absent for verticals of source 'level'"),
        ({"min_size": 0}, "min_size must be at least 1, got 0"),
        ({"num_groups": 1}, "num_groups must be at least 2, got 1"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"regularization": -1.0}, "regularization must be at least 0, got -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            VerticalsConfig(**settings)
    with pytest.raises(ValueError, match="source must be 'level' or 'file', got 'found'"):
        given_verticals(SPACE, VerticalsConfig("found"))


def blocks(*sizes):
    """Labels that are confused within blocks of these sizes, and once with all others."""
    block_of = np.repeat(np.arange(len(sizes)), sizes)
    return 9 * (block_of[:, None] == block_of).astype(np.int64) + 1


def test_found_verticals_are_the_blocks():
    order = np.random.default_rng(0).permutation(12)
    matrix = blocks(5, 4, 3)[np.ix_(order, order)]
    for num_groups in (3, None):
        grouping = found_verticals(matrix, num_groups, seed=0)
        assert grouping.names == ("group 0", "group 1", "group 2")
        assert grouping.group_of.tolist() == np.repeat([0, 1, 2], [5, 4, 3])[order].tolist()
    again = found_verticals(matrix, 3, seed=0)
    assert np.array_equal(grouping.group_of, again.group_of)


@pytest.mark.parametrize("loose", [1, 3])
def test_labels_without_confusion(loose):
    """Several make the vertical ``other``; a single one joins the smallest."""
    matrix = np.zeros((9 + loose, 9 + loose), np.int64)
    matrix[:9, :9] = blocks(5, 4)
    matrix[-1, -1] = 7  # rightly detected, and nothing else
    grouping = found_verticals(matrix, 2, seed=0)
    last = 1 if loose == 1 else 2
    assert grouping.group_of.tolist() == [0] * 5 + [1] * 4 + [last] * loose
    assert grouping.names == ("group 0", "group 1", "other")[: last + 1]


def test_groups_of_one_label_are_no_verticals():
    matrix = blocks(5, 4, 1, 1)
    grouping = found_verticals(matrix, 4, seed=0)
    assert grouping.group_of.tolist() == [0] * 5 + [1] * 4 + [2] * 2
    assert grouping.names == ("group 0", "group 1", "other")


def test_confusions_that_make_no_verticals():
    with pytest.raises(ValueError, match="groups of 2 labels, got 3 of 1"):
        found_verticals(blocks(1, 1, 1), 3, seed=0)
    separate = np.kron(np.eye(3, dtype=np.int64), np.ones((3, 3), np.int64))
    with pytest.raises(ValueError, match=r"at least the 3 disconnected components.*got 2"):
        found_verticals(separate, 2, seed=0)
    assert found_verticals(separate, 2, seed=0, regularization=0.1).num_groups == 2


def test_verticals_of_a_network():
    """From the scores of a network to verticals that every label is in."""
    frozen = tiny.frozen(rows=200)
    matrix = count_confusions(tiny.classifier(), frozen, HeadsConfig(top_k=3), "confusion")
    grouping = found_verticals(matrix, 3, seed=0)
    check_verticals(grouping, frozen.targets, frozen.targets)


EVERY = SparseTargets.from_lists([[0, 2], [1], [3], [4]])


def test_checked():
    grouping = given_verticals(SPACE, VerticalsConfig(level="kind", min_size=1))
    check_verticals(grouping, EVERY, EVERY, SPACE.names)
    check_verticals(grouping, SparseTargets.from_lists([[0, 2]]), EVERY)


@pytest.mark.parametrize(
    ("group_of", "names", "train", "test", "message"),
    [
        ([0, 0, 1, 1, -1], ("a", "b"), [[0, 2]], [[0, 2]], "these are in none: kiwi"),
        ([0, 0, 1, 0, 0], ("a", "b"), [[0, 2]], [[0, 2]], "'b' must have at least 2 labels, got 1"),
        ([0] * 5, ("a", "b"), [[0, 2]], [[0, 2]], "'b' must have at least 2 labels, got 0"),
        (
            [0, 0, 1, 1, 1],
            ("a", "b"),
            [[0], [1]],
            [[0, 2]],
            "'b' must have .* training images, got 0",
        ),
        (
            [0, 0, 1, 1, 1],
            ("a", "b"),
            [[0, 4]],
            [[3]],
            "'a' must have at least 1 test images, got 0",
        ),
    ],
)
def test_verticals_that_are_refused(group_of, names, train, test, message):
    train, test = SparseTargets.from_lists(train), SparseTargets.from_lists(test)
    with pytest.raises(ValueError, match=message):
        check_verticals(Grouping(np.array(group_of), names), train, test, SPACE.names)


def test_labels_without_names_are_refused_by_number():
    with pytest.raises(ValueError, match="these are in none: 1, 2"):
        check_verticals(Grouping(np.array([0, -1, -1])), EVERY, EVERY)


def test_comparison_by_hand():
    """The adjusted Rand index of Hubert and Arabie: (index - expected) / (largest - expected)."""
    given = Grouping(np.array([0, 0, 1, 1, 0]), ("bird", "car"))
    found = Grouping(np.array([0, 0, 1, 1, 1]))
    compared = compare_verticals(given, found, SPACE.names)
    # 2 of 10 pairs (robin-wren, jeep-van) are together in both, 4 in each: 4 x 4 / 10 expected
    assert compared.pop("ari") == pytest.approx((2 - 1.6) / (4 - 1.6))
    assert compared == {
        "num_groups": 2,
        "purity": 4 / 5,
        "groups": [
            {
                "name": "group 0", "size": 2,
                "verticals": [["bird", 2]], "labels": ["robin", "wren"],
            },
            {
                "name": "group 1", "size": 3,
                "verticals": [["car", 2], ["bird", 1]], "labels": ["jeep", "van", "kiwi"],
            },
        ],
    }  # fmt: skip
    assert json.loads(json.dumps(compared)) == compared


def test_comparison_of_the_same():
    grouping = Grouping(np.repeat([0, 1, 2], [50, 30, 20]))
    names = [f"label {i}" for i in range(100)]
    compared = compare_verticals(grouping, grouping, names)
    assert compared["ari"] == compared["purity"] == 1.0
    first = compared["groups"][0]["labels"]
    assert len(first) == 12 and first[0] == "label 0" and first[-1] == "label 49"
    mixed = compare_verticals(grouping, grouping.randomized(0))
    assert abs(mixed["ari"]) < 0.1 and mixed["groups"][0]["labels"] == []
    with pytest.raises(ValueError, match="found must be of the 100 labels of given, got 2"):
        compare_verticals(grouping, Grouping(np.zeros(2)))
