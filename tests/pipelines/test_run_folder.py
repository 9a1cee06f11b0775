"""What every run folder holds: settings, JSON in UTF-8, and the digest of the data."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fastheads.data import Data, ImageDataset, StreamData
from fastheads.labels import LabelSpace
from fastheads.pipelines import run_folder
from fastheads.pipelines.run_folder import data_digest, open_stages, write_json
from fastheads.targets import SparseTargets


def data(names="ab", labels=((0,), (1,), (0, 1)), rows=(0, 1, 2), grey=0):
    images = np.arange(3 * 4, dtype=np.uint8).reshape(3, 1, 2, 2)
    images[1, 0, 1, 1] = grey
    space = LabelSpace(tuple(names))
    part = ImageDataset(images, np.array(rows), SparseTargets.from_lists(labels), space)
    return Data(space, part, part.subset(np.array([0])), part.subset(np.array([2])))


OTHERS = [
    {"names": "ac"},
    {"labels": ((0,), (1,), (1,))},
    {"labels": ((0,), (0, 1), (1,))},
    {"rows": (1, 0, 2)},
    {"grey": 7},
]


@pytest.mark.parametrize("other", OTHERS)
def test_refuses_other_data(tmp_path, other):
    open_stages(tmp_path, {"lr": 0.1}, data()).run("a", lambda: 1)
    assert open_stages(tmp_path, {"lr": 0.1}, data()).run("a", lambda: 2) == 1
    with pytest.raises(ValueError, match=f"folder {tmp_path} holds the work of other data"):
        open_stages(tmp_path, {"lr": 0.1}, data(**other))


def test_digest_of_a_stream():
    base, part, kinds = data(), data().train, np.array([0, 0, 1])
    stream = StreamData(base, part, part, part, kinds, kinds, ("a+b", "b"))
    others = [
        base,
        replace(stream, base=data(grey=7)),
        replace(stream, holdout=data(grey=7).train),
        replace(stream, kinds=("a+b", "c")),
        replace(stream, kind_of_test=np.array([0, 1, 1])),
    ]
    assert len({data_digest(each) for each in [stream, *others]}) == 1 + len(others)


def test_digest_reads_some_of_many_pictures(monkeypatch):
    monkeypatch.setattr(run_folder, "PICTURES", 2)
    assert data_digest(data()) == data_digest(data(grey=7))  # pictures 0 and 2 are read
    assert data_digest(data()) != data_digest(data(names="ac"))


def test_json_is_utf8_in_any_locale(tmp_path, monkeypatch):
    """Also bytes of file names that the locale could not decode."""
    monkeypatch.setattr("io.text_encoding", lambda encoding, *_: encoding or "ascii")
    name = "é".encode().decode("ascii", "surrogateescape")
    write_json(tmp_path / "a.json", {"label": "é", "file": name})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"label": "é", "file": "é"}
