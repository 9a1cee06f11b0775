"""Open Images: rows as in the official files, and pictures made for them."""

import json

import numpy as np
import pytest
from PIL import Image

from fastheads.data import DataConfig, load_data, load_open_images
from fastheads.hierarchy import with_ancestors
from fastheads.labels import LabelSpace

# class-descriptions-boxable.csv of version 4: no header
CLASSES = """/m/011k07,Tortoise
/m/0jbk,Animal
/m/09dzg,Turtle
/m/02wbm,Food
/m/014j1m,Apple
/m/0c06p,"Candle, lit"
/m/01xyz,Jaguar
/m/02xyz,Jaguar
/m/07yv9,Vehicle
/m/0k4j,Car
/m/01prls,Land vehicle
/m/01g317,Person
/m/0dzct,Human face
/m/05r655,Girl
/m/01226z,Football
"""
# bbox_labels_600_hierarchy.json: kinds and parts below a root that is no label
HIERARCHY = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {"LabelName": "/m/0c06p"},
        {
            "LabelName": "/m/0jbk",
            "Subcategory": [
                {"LabelName": "/m/09dzg", "Subcategory": [{"LabelName": "/m/011k07"}]},
                {"LabelName": "/m/01xyz"},
            ],
        },
        {"LabelName": "/m/02wbm", "Subcategory": [{"LabelName": "/m/014j1m"}]},
        {
            "LabelName": "/m/07yv9",
            "Subcategory": [
                {"LabelName": "/m/01prls", "Subcategory": [{"LabelName": "/m/0k4j"}]},
                {"LabelName": "/m/02xyz"},
            ],
        },
        {
            "LabelName": "/m/01g317",
            "Subcategory": [{"LabelName": "/m/05r655"}],
            "Part": [{"LabelName": "/m/0dzct"}],
        },
    ],
}
HEADER = "ImageID,Source,LabelName,Confidence\n"
TRAIN = """000002b66c9c498e,verification,/m/014j1m,0
000002b66c9c498e,verification,/m/011k07,1
000002b66c9c498e,crowdsource-verification,/m/0jbk,1
000002b66c9c498e,verification,/m/0jbk,1
000002b97e5471a0,verification,/m/09dzg,1
000002c707c9895e,verification,/m/014j1m,1
000002c707c9895e,verification,/m/0c06p,1
0000048549557964,verification,/m/01xyz,1
0000048549557964,verification,/m/02xyz,0
000004f4400f6ec5,verification,/m/02xyz,1
000004f4400f6ec5,verification,/m/0k4j,1
0000071d71a0a6f6,verification,/m/0dzct,1
0000071d71a0a6f6,verification,/m/05r655,1
000013ba71c12506,verification,/m/01g317,1
000013ba71c12506,verification,/m/01226z,1
000018acd19b4ad3,verification,/m/07yv9,1
00001bc2c4027449,verification,/m/0k4j,0
"""
VALIDATION = """0001eeaf4aed83f9,verification,/m/011k07,1
0001eeaf4aed83f9,verification,/m/02wbm,1
0004886b7d043cfd,verification,/m/02wbm,1
"""
TEST = "000026e7ee790996,verification,/m/0k4j,1\n"
ABSENT = "000018acd19b4ad3"  # annotated, and no picture of it


def write(root, validation=VALIDATION, hierarchy=HIERARCHY, test=TEST):
    """The files of version 5; pictures are gray, the brighter the later their row."""
    root.mkdir(exist_ok=True)
    (root / "class-descriptions-boxable.csv").write_text(CLASSES)
    if hierarchy:
        (root / "bbox_labels_600_hierarchy.json").write_text(json.dumps(hierarchy))
    for split, rows in (("train", TRAIN), ("validation", validation), ("test", test)):
        if not rows:
            continue
        (root / f"{split}-annotations-human-imagelabels-boxable.csv").write_text(HEADER + rows)
        (root / split).mkdir(exist_ok=True)
        names = dict.fromkeys(row.split(",")[0] for row in rows.split())
        for i, name in enumerate(names):
            if name != ABSENT:
                gray = np.full((40, 60, 3), 20 * i + 10, np.uint8)
                Image.fromarray(gray).save(root / split / f"{name}.jpg")
    return root


@pytest.fixture
def options(cache_dir):
    return {"cache_dir": cache_dir, "progress": False, "channels": 3, "size": 16}


def names_of(dataset):
    return [[dataset.label_space.names[i] for i in row] for row in dataset.targets.tolist()]


def test_official_files(tmp_path, options):
    """Positive labels of the pictures that are there; one only to validate is dropped."""
    data = load_open_images(write(tmp_path / "oi"), **options)
    assert data.label_space.names == (
        "Animal", "Apple", "Candle, lit", "Car", "Football", "Girl", "Human face",
        "Jaguar (/m/01xyz)", "Jaguar (/m/02xyz)", "Person", "Tortoise", "Turtle",
    )  # fmt: skip
    assert names_of(data.train) == [
        ["Animal", "Tortoise"], ["Turtle"], ["Apple", "Candle, lit"], ["Jaguar (/m/01xyz)"],
        ["Car", "Jaguar (/m/02xyz)"], ["Girl", "Human face"], ["Football", "Person"],
    ]  # fmt: skip
    assert names_of(data.holdout) == [["Tortoise"]] and names_of(data.test) == [["Car"]]
    assert data.dropped == {"Food": 2} and not data.skipped
    assert "1 labels dropped for want of pictures: Food (2)" in data.summary()
    images, _ = data.train.__getitems__([0, 6])
    assert images.shape == (2, 3, 16, 16)
    assert images[:, :, 8, 8].tolist() == [[10] * 3, [130] * 3]


def test_hierarchy_and_verticals(tmp_path, options):
    """Nodes without annotations are passed by; a part is in its whole's vertical, but no kind."""
    space = load_open_images(write(tmp_path / "oi"), **options).label_space
    assert space.parents == {
        "Tortoise": ("Turtle",), "Turtle": ("Animal",), "Jaguar (/m/01xyz)": ("Animal",),
        "Girl": ("Person",),
    }  # fmt: skip
    verticals = dict(zip(space.names, space.levels["vertical"], strict=True))
    organisms = [
        "Animal",
        "Girl",
        "Human face",
        "Jaguar (/m/01xyz)",
        "Person",
        "Tortoise",
        "Turtle",
    ]
    assert [name for name in space.names if verticals[name] == "organism"] == organisms
    assert verticals["Apple"] == "food" and verticals["Candle, lit"] == "man made objects"
    assert verticals["Car"] == verticals["Jaguar (/m/02xyz)"] == "mode of transport"
    assert verticals["Football"] == "others"
    same, _, hierarchy = with_ancestors(space, space.grouping("vertical"))
    above = hierarchy.ancestors.tolist()[space.index("Tortoise")]
    assert same is space and [space.names[i] for i in above] == ["Animal", "Turtle"]


def test_a_node_in_several_places(tmp_path, options):
    """It has all its parents; a vertical of its own goes before the rest of the hierarchy."""
    tree = {"LabelName": "/m/0c06p", "Subcategory": [{"LabelName": "/m/011k07"}]}
    hierarchy = HIERARCHY | {"Subcategory": [tree, *HIERARCHY["Subcategory"]]}
    space = load_open_images(write(tmp_path / "oi", hierarchy=hierarchy), **options).label_space
    assert space.parents["Tortoise"] == ("Candle, lit", "Turtle")
    assert space.levels["vertical"][space.index("Tortoise")] == "organism"


def test_files_of_version_7(tmp_path, options):
    """A header of the descriptions, other names, folders for annotations and pictures."""
    old = load_open_images(write(tmp_path / "oi"), **options)
    root = tmp_path / "v7"
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    for split, short in (("train", "train"), ("validation", "val"), ("test", "test")):
        name = f"{split}-annotations-human-imagelabels-boxable.csv"
        new = f"oidv7-{short}-annotations-human-imagelabels.csv"
        (tmp_path / "oi" / name).rename(root / "annotations" / new)
        (tmp_path / "oi" / split).rename(root / "images" / split)
    classes = "LabelName,DisplayName\n" + CLASSES
    (root / "annotations" / "oidv7-class-descriptions.csv").write_text(classes)
    data = load_open_images(root, **options)
    assert data.label_space == LabelSpace(old.label_space.names)  # no hierarchy, no level
    for part in ("train", "holdout", "test"):
        assert names_of(getattr(data, part)) == names_of(getattr(old, part))


def test_training_pictures_are_held_out_without_validation(tmp_path, options):
    """15 percent by the seed, and of no label the last picture."""
    root = write(tmp_path / "oi", validation="")
    (root / "train-annotations-human-imagelabels-boxable.csv").write_text(
        HEADER
        + "".join(f"{i:016x},verification,/m/0{'jbk' if i % 2 else 'k4j'},1\n" for i in range(40))
        + f"{40:016x},verification,/m/014j1m,1\n"
    )
    for i in range(41):
        Image.new("L", (20, 20), 3 * i).save(root / "train" / f"{i:016x}.jpg")
    data = load_open_images(root, **options)
    assert [len(data.train), len(data.holdout), len(data.test)] == [35, 6, 1]
    assert ["Apple"] in names_of(data.train)
    again, other = (load_open_images(root, seed=seed, **options) for seed in (0, 1))
    assert np.array_equal(again.holdout.rows, data.holdout.rows)
    assert not np.array_equal(other.holdout.rows, data.holdout.rows)


def test_as_a_kind_of_data(tmp_path, cache_dir):
    root = write(tmp_path / "oi")
    config = DataConfig(kind="open_images", path=root, size=16, cache_dir=cache_dir)
    data = load_data(config, progress=False)
    assert data.train.images.shape[1:] == (1, 16, 16) and data.num_labels == 12
    known = LabelSpace((*data.label_space.names, "Unicorn"))
    assert load_data(config, label_space=known, progress=False).label_space is known


def test_rejects(tmp_path, options):
    def rejects(message, root):
        with pytest.raises(ValueError, match=message):
            load_open_images(root, **options)

    rejects("path must be the folder of Open Images, got '.*gone'", tmp_path / "gone")
    rejects(r"must hold the class descriptions, \*class-descriptions\*.csv, got none", tmp_path)
    root = write(tmp_path / "a")
    labels = root / "train-annotations-human-imagelabels-boxable.csv"
    labels.write_text("ImageID,LabelName\n1,2\n")
    rejects("human-imagelabels-boxable.csv must have the columns ImageID, LabelName, Conf", root)
    labels.write_text(HEADER + TRAIN.replace("/m/0k4j", "/m/0999"))
    rejects("class descriptions must name every label, not /m/0999", root)
    labels.write_text(HEADER + TRAIN.replace(",1\n", ",0\n"))
    rejects("path must hold annotated pictures to train, got none", root)
    labels.unlink()
    rejects("must hold the labels of train, .*train-annotations-human", root)
    for broken in ("[1", '{"LabelName": "/m/0bl9f", "Subcategory": [{"Name": "x"}]}', "[]"):
        root = write(tmp_path / "b")
        (root / "bbox_labels_600_hierarchy.json").write_text(broken)
        rejects("hierarchy.json must be a tree of LabelName, Subcategory and Part", root)
    rejects("split 'test' must have readable images, got none", write(tmp_path / "c", test=""))
