"""Streamed pictures: dealt by kind, read from tables and folders, loaded by a configuration."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import auto_cli
from PIL import Image

from fastheads.data import StreamDataConfig, load_folder, load_mixed, load_stream
from fastheads.data.images import Data, ImageDataset
from fastheads.data.streamed import stream_data
from fastheads.labels import LabelSpace
from fastheads.targets import SparseTargets


def base_of(names):
    empty = ImageDataset(
        np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0), SparseTargets.from_lists([]), names
    )
    return Data(names, empty, empty, empty)


BASE = base_of(LabelSpace(tuple("abcd")))


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(lambda c: max(c) > 2),
    st.integers(0, 2),
    st.one_of(st.none(), st.integers(1, 9)),
)
def test_kinds_are_divided(counts, seed, limit):
    """Each kind of three pictures or more is in every part, about one of five to test."""
    kind = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.zeros((len(kind), 1, 2, 2), np.uint8)
    labels = {f"k{k}": [k % 4, (k + 1) % 4] for k in range(len(counts))}
    data = stream_data(BASE, images, np.arange(len(kind)), kind, labels, seed, limit)
    assert data.dropped == {f"k{k}": count for k, count in enumerate(counts) if count < 3}
    able = [k for k, count in enumerate(counts) if count > 2]
    assert len(data.kinds) == min(len(able), limit or len(able))
    assert set(data.kinds) <= {f"k{k}" for k in able}
    rows = [*data.train.rows, *data.holdout.rows, *data.test.rows]
    assert len(set(rows)) == len(rows) == sum(counts[int(name[1:])] for name in data.kinds)
    for part, kinds in ((data.train, data.kind_of_train), (data.test, data.kind_of_test)):
        assert [data.kinds[n] for n in kinds] == [f"k{kind[row]}" for row in part.rows]
        assert part.targets.tolist() == [sorted(labels[data.kinds[n]]) for n in kinds]
    for number, name in enumerate(data.kinds):
        count = counts[int(name[1:])]
        for_test = (data.kind_of_test == number).sum()
        assert for_test == max(1, round(0.2 * count))
        held = sum(kind[row] == int(name[1:]) for row in data.holdout.rows)
        assert held == max(1, round(0.1 * count))
        assert (data.kind_of_train == number).sum() == count - for_test - held >= 1


@pytest.fixture(scope="module")
def seven():
    """Seven kinds of five pictures."""
    kind = np.repeat(np.arange(7), 5)
    images = np.arange(35, dtype=np.uint8).reshape(35, 1, 1, 1)
    labels = {f"k{k}": [k % 4, (k + 1) % 4] for k in range(7)}
    return stream_data(BASE, images, np.arange(35), kind, labels, seed=0)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_arrivals_deal_every_kind_once(count, seven):
    arrivals = seven.arrivals(count)
    trained = [{int(row) // 5 for row in train.rows} for train, _ in arrivals]
    tested = [{int(row) // 5 for row in test.rows} for _, test in arrivals]
    assert trained == tested and {len(kinds) for kinds in trained} <= {7 // count, -(-7 // count)}
    assert sorted(kind for kinds in trained for kind in kinds) == list(range(7))
    for train, test in arrivals:
        assert len(train) == 3 * len(test)  # one of five is held out
        images, targets = train.__getitems__(list(range(len(train))))
        assert images.flatten().tolist() == train.rows.tolist()
        for row, labels in zip(train.rows // 5, targets.tolist(), strict=True):
            assert labels == sorted([row % 4, (row + 1) % 4])


def test_arrivals_follow_the_seed(seven):
    rows = [seven.arrivals(3, seed)[0][0].rows.tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
    for count in (0, 8):
        with pytest.raises(ValueError, match=f"count must lie in 1 to 7 kinds, got {count}"):
            seven.arrivals(count)


def test_stream_data_rejects():
    images, one = np.zeros((1, 1, 2, 2), np.uint8), np.zeros(1, dtype=np.int64)
    with pytest.raises(ValueError, match="at least 3 usable pictures, got none that does"):
        stream_data(BASE, images, one, one, {"k": [0, 1]}, 0)
    with pytest.raises(ValueError, match="limit_kinds must be at least 1, got 0"):
        stream_data(BASE, images, one, one, {"k": [0, 1]}, 0, limit_kinds=0)


@pytest.fixture
def options(cache_dir):
    return {"cache_dir": cache_dir, "progress": False}


@pytest.fixture
def base(digits, options):
    return load_folder(digits, size=16, channels=1, **options)


@pytest.fixture
def pairs(digits, tmp_path):
    """Ten pictures each of 3 beside 7, and of 1 beside 2, in folders called by their labels."""
    for left, right in ("37", "21"):
        folder = tmp_path / "pairs" / f"{left}+{right}"
        folder.mkdir(parents=True)
        digit = [sorted((digits / side).iterdir()) for side in (left, right)]
        for i, halves in enumerate(zip(*(files[:10] for files in digit), strict=True)):
            both = Image.new("L", (16, 16))
            for half, file in enumerate(halves):
                both.paste(Image.open(file), (8 * half, 4))
            both.save(folder / f"{i}.png")
    return tmp_path / "pairs"


def write(root, suffix, change=None):
    """The rows of the folders as a table beside them, with names of the kinds."""
    rows = [
        {"path": str(f.relative_to(root)), "labels": f.parent.name, "kind": "pair " + f.parent.name}
        for f in sorted(root.glob("*/*.png"))
    ]
    for row, values in (change or {}).items():
        rows[row].update(values)
    path = root / f"mixed{suffix}"
    if suffix == ".csv":
        lines = [",".join(row.values()) for row in rows]
        path.write_text("\n".join(["path,labels,kind", *lines, ""]))
    else:
        texts = [json.dumps(row | {"labels": row["labels"].split("+")}) for row in rows]
        path.write_text("\n".join(texts))
    return path


def contents(data):
    names = data.base.label_space.names
    return {
        (data.kinds[k], *(names[label] for label in row), picture.tobytes())
        for part, kinds in ((data.train, data.kind_of_train), (data.test, data.kind_of_test))
        for k, row, picture in zip(
            kinds, part.targets.tolist(), part.images[part.rows], strict=True
        )
    }


def test_folder_and_tables_agree(base, pairs, options):
    folder = load_mixed(base, pairs, least=16, **options)
    assert folder.kinds == ("1+2", "3+7") and folder.base is base
    assert folder.train.label_space is base.label_space
    assert [len(folder.train), len(folder.holdout), len(folder.test)] == [
        14,
        2,
        4,
    ] and not folder.skipped
    text = load_mixed(base, write(pairs, ".csv"), least=16, **options)
    assert contents(text) == contents(folder)
    named = load_mixed(base, write(pairs, ".jsonl"), kind_column="kind", least=16, **options)
    assert named.kinds == ("pair 2+1", "pair 3+7")
    assert {row[1:] for row in contents(named)} == {row[1:] for row in contents(folder)}


def test_unusable_pictures_are_named_and_a_kind_without_enough_dropped(base, pairs, options):
    for file in sorted((pairs / "3+7").iterdir())[1:]:
        file.write_bytes(b"damaged")
    Image.new("L", (40, 15)).save(pairs / "2+1" / "low.png")
    (pairs / "2+1" / "0.png").write_bytes(b"")
    data = load_mixed(base, pairs, least=16, **options)
    assert data.kinds == ("1+2",) and data.dropped == {"3+7": 1}
    assert len(data.train) + len(data.holdout) + len(data.test) == 9 and len(data.skipped) == 11
    reason = data.skipped[str(pairs / "2+1" / "low.png")]
    assert reason == "ValueError: image must be at least 16 pixels wide and high, got 40 x 15"
    assert "11 streamed files skipped" in data.summary() and "3+7 (1)" in data.summary()


def test_mixed_rejects(base, pairs, options):
    def rejects(message, path, **more):
        with pytest.raises(ValueError, match=message):
            load_mixed(base, path, **{"least": 16} | options | more)

    change = {2: {"labels": "1+cat"}}
    rejects(
        "row 3 of mixed.csv: label 'cat' is not among the 10 known", write(pairs, ".csv", change)
    )
    change = {2: {"labels": ""}}
    rejects("row 3 of mixed.csv must have a label, got ''", write(pairs, ".csv", change))
    change = {2: {"labels": "1+3"}}
    message = "row 3 of mixed.csv must have the labels of the rows before of kind 'pair 2[+]1'"
    rejects(message, write(pairs, ".csv", change), kind_column="kind")
    rejects("column 'breed' must be in mixed.csv", pairs / "mixed.csv", kind_column="breed")
    rejects("path must be a table of images, got no file", pairs / "gone.csv")
    rejects(r"none that is among 20 files \(ValueError: image must", write(pairs, ".csv"), least=17)
    (pairs / "mixed.csv").unlink()
    (pairs / "3+7").rename(pairs / "3+x")
    rejects("folder '3[+]x': label 'x' is not among the 10 known labels", pairs)
    (pairs / "3+x").rename(pairs / "+")
    rejects("folder '[+]' must be called by its labels, got none", pairs)
    rejects("path must hold one folder a kind, got none", pairs / "2+1")


def command(data: StreamDataConfig) -> StreamDataConfig:
    return data


def test_flags_become_a_config(capsys):
    assert auto_cli(command, args=["--data.kind=composed_glyphs"]) == StreamDataConfig()
    flags = ["--data.kind=stanford_dogs", "--data.path=/x", "--data.table=/y", "--data.size=64"]
    expected = StreamDataConfig("stanford_dogs", Path("/x"), Path("/y"), size=64)
    assert auto_cli(command, args=flags) == expected
    with pytest.raises(SystemExit):
        auto_cli(command, args=["--help"])
    assert "such as pug+beagle" in " ".join(capsys.readouterr().out.split())


def test_config_rejects():
    with pytest.raises(ValueError, match="path must be given for kind 'stanford_dogs'"):
        StreamDataConfig("stanford_dogs")
    with pytest.raises(ValueError, match="table must be given for kind 'folder_and_table'"):
        StreamDataConfig("folder_and_table", Path("/x"))
    with pytest.raises(ValueError, match="table must be absent for kind 'composed_glyphs', got"):
        StreamDataConfig(table=Path("/x"))
    with pytest.raises(ValueError, match=r"seed must be at least 0 .*, got -1"):
        StreamDataConfig(seed=-1)
    with pytest.raises(ValueError, match="limit_kinds must be absent for kind 'stanford_dogs', go"):
        StreamDataConfig("stanford_dogs", Path("/x"), Path("/y"), limit_kinds=3)


def test_loads_each_kind(digits, pairs, tmp_path, cache_dir):
    config = StreamDataConfig(scripts=("Cyrillic",), limit_labels=60, cache_dir=cache_dir)
    glyphs = load_stream(config, progress=False)
    assert "Й" in glyphs.kinds and glyphs.base.image_shape == (1, 32, 32)
    config = StreamDataConfig(
        "folder_and_table", digits, pairs, size=16, channels=1, cache_dir=cache_dir
    )
    folder = load_stream(config, progress=False)
    assert folder.kinds == ("1+2", "3+7") and folder.base.image_shape == (1, 16, 16)
    with pytest.raises(ValueError, match="at least 20 pixels wide and high"):  # 5/6 of 24
        load_stream(dataclasses.replace(config, size=24), progress=False)
    images = tmp_path / "dogs" / "Images"
    images.mkdir(parents=True)
    for name in "1237":
        (images / f"n0000000{name}-{name}").symlink_to(digits / name)
    dogs = dataclasses.replace(config, kind="stanford_dogs", path=images.parent)
    data = load_stream(dogs, progress=False)
    assert data.base.label_space.names == tuple("1237") and data.kinds == folder.kinds
