import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from fastheads.data import load_table
from fastheads.labels import LabelSpace


@pytest.fixture
def options(cache_dir):
    return {"cache_dir": cache_dir, "progress": False, "channels": 1, "size": 8}


@pytest.fixture(scope="module")
def rows(digits):
    """Digits as paths from the folder of the digits, each with its label and its parity."""
    files = sorted(digits.glob("*/*.png"))
    parity = ["odd" if int(f.parent.name) % 2 else "even" for f in files]
    splits = ["test" if i % 5 == 0 else "val" if i % 5 == 1 else "train" for i in range(len(files))]
    return [
        {"file": str(f.relative_to(digits)), "tags": ["00" + f.parent.name, p], "part": s}
        for f, p, s in zip(files, parity, splits, strict=True)
    ]


COLUMNS = {"path_column": "file", "label_column": "tags", "split_column": "part"}


def write(root, rows, suffix):
    path = root / f"table{suffix}"
    if suffix == ".csv":
        lines = [f"{r['file']},{'|'.join(r['tags'])},{r['part']}" for r in rows]
        path.write_text("\n".join(["file,tags,part", *lines, ""]))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_formats_agree(suffix, rows, digits, options):
    path = write(digits, rows, suffix)
    data = load_table(path, separator="|", **COLUMNS, **options)
    names = data.label_space.names
    assert names == (*(f"00{i}" for i in range(10)), "even", "odd")  # 007 stays text
    assert [len(data.train), len(data.holdout), len(data.test)] == [240, 80, 80]
    labels = [{names[label] for label in row} for row in data.test.targets.tolist()]
    assert labels == [set(row["tags"]) for row in rows if row["part"] == "test"]
    images, targets = data.test.__getitems__([3, 1])
    assert images.shape == (2, 1, 8, 8) and targets.counts.tolist() == [2, 2]


def test_one_label_a_row_and_split_by_seed(rows, digits, options):
    path = write(digits, [row | {"tags": row["tags"][:1]} for row in rows], ".csv")
    data = load_table(path, path_column="file", label_column="tags", **options)
    assert len(data.label_space) == 10
    assert len(data.train) + len(data.holdout) + len(data.test) == 400
    assert 30 < len(data.test) < 100


def test_integer_labels_become_text(rows, digits, options):
    numbers = [{"path": r["file"], "labels": int(r["tags"][0])} for r in rows]
    path = digits / "numbers.parquet"
    parquet.write_table(pa.Table.from_pylist(numbers), path)
    assert load_table(path, **options).label_space.names == tuple("0123456789")


def test_missing_images_are_skipped_and_named(rows, digits, options):
    path = write(digits, [*rows, rows[0] | {"file": "gone.png"}], ".jsonl")
    data = load_table(path, **COLUMNS, **options)
    assert [p.rsplit("/", 1)[1] for p in data.skipped] == ["gone.png"]
    assert len(data.train) + len(data.holdout) + len(data.test) == 400


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_missing_column_is_named_beside_those_there(suffix, rows, digits, options):
    path = write(digits, rows, suffix)
    with pytest.raises(ValueError, match=r"column 'labels' must be in table.*file, tags, part"):
        load_table(path, path_column="file", **options)
    with pytest.raises(ValueError, match="column 'fold' must be in"):
        load_table(path, **COLUMNS | {"split_column": "fold"}, **options)


def test_rejects(rows, digits, tmp_path, options):
    def rejects(message, path, **more):
        with pytest.raises(ValueError, match=message):
            load_table(path, **COLUMNS | more, **options)

    rejects("path must be a table of images, got no file", tmp_path / "gone.csv")
    (tmp_path / "table.xls").touch()
    rejects("path must end in .csv, .jsonl or .parquet, got 'table.xls'", tmp_path / "table.xls")
    for name in ("noise.parquet", "noise.jsonl", "empty.csv"):
        (tmp_path / name).write_bytes(b"" if name == "empty.csv" else b"{noise")
        rejects(f"path must be a readable table, got {name}", tmp_path / name)
    (tmp_path / "head.csv").write_text("file,tags,part\n")
    rejects("must be a table with rows, got an empty head.csv", tmp_path / "head.csv")
    without = [rows[0], rows[1] | {"tags": []}]
    rejects("row 2 of table.jsonl must have a label, got", write(tmp_path, without, ".jsonl"))
    nameless = [rows[0] | {"file": None}]
    rejects("row 1 of table.jsonl must name an image", write(tmp_path, nameless, ".jsonl"))
    for labels in ({"a": 1}, [["a"]]):
        named = write(tmp_path, [rows[0] | {"tags": labels}], ".jsonl")
        rejects("row 1 of table.jsonl must have a label, got", named)
    (tmp_path / "twice.csv").write_text("file,file,tags,part\n1.png,2.png,a,train\n")
    rejects("column 'file' must be in twice.csv once, which has", tmp_path / "twice.csv")
    odd = [*rows, rows[0] | {"part": "dev"}]
    rejects("split must be one of .*, got 'dev'", write(digits, odd, ".jsonl"))
    unseen = [*rows, rows[0] | {"tags": ["new"], "part": "test"}]
    rejects("a readable training image, which these lack: new", write(digits, unseen, ".jsonl"))
    lacking = [row for row in rows if row["part"] != "val"]
    path = write(digits, lacking, ".jsonl")
    rejects("split 'holdout' must have readable images, got none", path)
    known = LabelSpace(("even", "odd"))
    path = write(digits, rows, ".jsonl")
    rejects("label '000' is not among the 2 known labels", path, label_space=known)
