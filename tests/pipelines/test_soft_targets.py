"""Soft targets in files: what is read is what was written, and only of the same teachers."""

import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch

from fastheads.pipelines.soft_targets import INDEX, open_soft_targets, write_soft_targets
from fastheads.targets import SparseTargets

ROWS, BATCH, LABELS = 53, 6, 40
IDENTITY = {"teachers": "abc", "seed": 3, "passes": (1, 2)}


def batch(start, rows=ROWS):
    """Of rows from ``start`` on: the same whenever it is drawn; some rows are empty."""
    rng = np.random.default_rng(start)
    lists = [
        rng.choice(LABELS, rng.integers(0, 8), replace=False).tolist()
        for _ in range(min(BATCH, rows - start))
    ]
    targets = SparseTargets.from_lists(lists)
    values = torch.from_numpy(rng.random(targets.indices.numel(), np.float32))
    return targets._replace(values=values)


def batches(start):
    return (batch(row) for row in range(start, ROWS, BATCH))


def write(folder, batches=batches, identity=IDENTITY, rows=ROWS):
    return write_soft_targets(folder, batches, identity, rows, file_rows=10, quiet=True)


def dense(targets):
    out = torch.zeros(targets.num_rows, LABELS)
    out[targets.row_indices(), targets.indices] = targets.values
    return out


@pytest.fixture
def written(tmp_path):
    write(tmp_path / "soft")
    return tmp_path / "soft"


def test_select(written):
    soft = open_soft_targets(written, IDENTITY)
    whole = torch.cat([dense(each) for each in batches(0)]).half().float()
    assert (soft.num_rows, soft.entries) == (ROWS, int((whole > 0).sum()))
    assert soft.top_k == int((whole > 0).sum(1).max())
    rows = torch.tensor([52, 0, 17, 17, 11, 12, 30])
    got = soft.select(rows)
    assert got.values.dtype == torch.float32
    assert got.indices.dtype == got.offsets.dtype == torch.int64
    torch.testing.assert_close(dense(got), whole[rows], rtol=0, atol=0)
    assert all(row == sorted(row) for row in got.tolist())
    torch.testing.assert_close(dense(soft.select(torch.arange(ROWS))), whole, rtol=0, atol=0)
    assert soft.select(torch.empty(0, dtype=torch.int64)).tolist() == []


def test_storage(written):
    """8 bytes a row, 6 an entry, and the header of each file."""
    soft = open_soft_targets(written, IDENTITY)
    files = list(written.glob("*.safetensors"))
    assert len(files) == 5  # two batches of 6 reach 10 rows
    assert soft.nbytes == sum(path.stat().st_size for path in files)
    payload = 8 * (ROWS + len(files)) + 6 * soft.entries
    assert payload < soft.nbytes < payload + 400 * len(files)
    assert soft.bytes_per_row == soft.nbytes / ROWS
    assert soft.dense_nbytes(LABELS) == ROWS * LABELS * 4
    assert soft.summary(LABELS).startswith("53 rows of up to 7 labels in 5 files: 0.0 MB")
    assert soft.summary(LABELS).endswith("bytes a row against 160 of dense float32")


def test_rows_are_mapped_not_read(written):
    soft = open_soft_targets(written, IDENTITY)
    with open("/proc/self/maps") as maps:
        mapped = maps.read()
    assert all(str(path) in mapped for path in written.glob("*.safetensors"))
    del soft


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 8])
def test_killed_and_continued(tmp_path, written, stop):
    """Wherever it is stopped, the files are those of a run that was not."""
    folder, asked = tmp_path / "stopped", []

    def stopping(start):
        for number, each in enumerate(batches(start)):
            if number == stop:
                raise KeyboardInterrupt
            yield each

    with pytest.raises(KeyboardInterrupt):
        write(folder, stopping)
    assert not list(folder.glob("*.tmp"))

    def continued(start):
        asked.append(start)
        return batches(start)

    write(folder, continued)
    assert asked == [12 * (stop // 2)]
    names = sorted(path.name for path in written.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        assert (folder / name).read_bytes() == (written / name).read_bytes(), name


def test_finished_files_are_not_written_again(written):
    before = {path: path.stat().st_mtime_ns for path in written.iterdir()}

    def none_wanted(start):
        raise AssertionError(start)

    assert write(written, none_wanted).num_rows == ROWS
    assert {path: path.stat().st_mtime_ns for path in written.iterdir()} == before


def refused(folder, message, identity=IDENTITY):
    """Both by reading and by going on, and nothing is lost."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for use in (open_soft_targets, lambda folder, identity: write(folder, identity=identity)):
        with pytest.raises(ValueError, match=message) as error:
            use(folder, identity)
        assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_refuses_other_teachers(written):
    message = r"another configuration \(teachers was 'abc' and is 'def'\): choose another folder"
    refused(written, message, IDENTITY | {"teachers": "def"})


def test_refuses_truncated_files(written):
    path = sorted(written.glob("*.safetensors"))[2]
    os.truncate(path, path.stat().st_size - 1)
    size = path.stat().st_size
    refused(written, rf"00002.safetensors has {size} bytes in place of {size + 1}: delete")


def test_refuses_missing_files(written):
    sorted(written.glob("*.safetensors"))[1].unlink()
    refused(written, r"00001.safetensors has 0 bytes in place of \d+: delete")


def test_refuses_changed_files(written):
    path = sorted(written.glob("*.safetensors"))[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(written, "00000.safetensors does not have the checksum of its index: delete")


def test_refuses_a_damaged_index(written):
    text = (written / INDEX).read_text()
    (written / INDEX).write_text(text[:-5])
    refused(written, f"{re.escape(INDEX)} is damaged: delete")


def test_refuses_what_is_not_finished(tmp_path, written):
    index = json.loads((written / INDEX).read_text())
    del index["files"][-1]
    (written / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="must be finished, got 48 of 53 rows"):
        open_soft_targets(written, IDENTITY)
    shutil.rmtree(written)
    with pytest.raises(ValueError, match=r"must lie in a folder with index.json, got .*soft"):
        open_soft_targets(written, IDENTITY)


@pytest.mark.parametrize(
    ("rows", "message"), [(52, "must hold 52 rows, got more"), (54, "must hold 54 rows, got 53")]
)
def test_refuses_other_rows_than_expected(tmp_path, rows, message):
    def given(start):
        return (batch(row) for row in range(start, ROWS, BATCH))

    if rows > ROWS:
        with pytest.raises(ValueError, match=message):
            write_soft_targets(tmp_path, given, {}, rows, file_rows=ROWS, quiet=True)
    else:
        with pytest.raises(ValueError, match=message):
            write(tmp_path, given, rows=rows)


def test_refuses_hard_targets_and_rows_out_of_range(tmp_path, written):
    with pytest.raises(ValueError, match="batches must have values, the probabilities, got None"):
        write(tmp_path / "hard", lambda start: (b._replace(values=None) for b in batches(start)))
    soft = open_soft_targets(written, IDENTITY)
    with pytest.raises(IndexError, match="rows must be 0 to 52, got 3 to 53"):
        soft.select(torch.tensor([3, 53]))


def test_another_process_maps_the_same_files(tmp_path):
    written = write(tmp_path)
    sent = pickle.dumps(written)
    assert len(sent) < 2000  # names, not rows
    rows = torch.tensor([1, 50, 0, 1])
    for one, other in zip(pickle.loads(sent).select(rows), written.select(rows), strict=True):
        assert torch.equal(one, other)
