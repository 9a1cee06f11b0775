import gc

import numpy as np
import pytest
import torch
from runs import start

from fastheads.training import Stages
from fastheads.training.checkpoint import DATA


def test_runs_each_stage_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"counts": torch.arange(3), "group_of": np.array([1, -1]), "names": ("a", None, 2.5)}

    for _ in range(2):  # the second time as another process would
        stages = Stages(tmp_path, {"seed": 0})
        result = stages.run("clustering, seed 0", compute)
        assert torch.equal(result["counts"], torch.arange(3))
        assert result["group_of"].tolist() == [1, -1] and result["group_of"].dtype == np.int64
        assert result["names"] == ("a", None, 2.5)
        assert [row["stage"] for row in stages.durations] == ["clustering, seed 0"]
    assert calls == [1]


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    stages = Stages(tmp_path, {})
    with pytest.raises(ZeroDivisionError):
        stages.run("a", lambda: 1 / 0)
    assert not stages.path("a").exists() and stages.durations == []
    assert stages.run("a", lambda: 2) == 2


def test_refuses_code(tmp_path):
    """Nothing but data is read back, so nothing else may be kept."""
    stages = Stages(tmp_path, {})
    stages.run("model", lambda: torch.nn.Linear(1, 1))
    with pytest.raises(Exception, match="Weights only"):
        Stages(tmp_path, {}).run("model", lambda: None)


def test_distinct_names_distinct_files(tmp_path):
    stages = Stages(tmp_path, {})
    assert stages.run("a b", lambda: 1) == 1
    with pytest.raises(ValueError, match="name must be distinct"):
        stages.run("a/b", lambda: 2)


def test_refuses_another_fingerprint(tmp_path):
    Stages(tmp_path, {"lr": 0.1, "groups": 5})
    Stages(tmp_path, {"lr": 0.1, "groups": 6}).run("a", lambda: 1)  # nothing was computed by 5
    Stages(tmp_path, {"lr": 0.1, "groups": 6})
    with pytest.raises(ValueError, match=r"\(groups was 6 and is 7\)"):
        Stages(tmp_path, {"lr": 0.1, "groups": 7})


def test_refuses_other_data(tmp_path):
    Stages(tmp_path, {"lr": 0.1}).run("a", lambda: 1)  # as an earlier version wrote it
    Stages(tmp_path, {"lr": 0.1, DATA: "abc"})
    with pytest.raises(ValueError, match=r"holds the work of other data: choose another folder"):
        Stages(tmp_path, {"lr": 0.1, DATA: "def"})


def test_damaged_stage_is_named(tmp_path):
    stages = Stages(tmp_path, {})
    stages.run("a", lambda: 1)
    stages.path("a").write_bytes(b"")
    with pytest.raises(ValueError, match=r"stages/a.pt is damaged \(.*\): delete it"):
        stages.run("a", lambda: 1)


def open_stages(folder, said):
    try:
        Stages(folder, {})
    except BlockingIOError as error:
        said.write_text(str(error))


def test_one_process_at_a_time(tmp_path):
    def opened():
        process = start(open_stages, folder=tmp_path, said=tmp_path / "said")
        process.join()
        return process.exitcode

    stages = [Stages(tmp_path, {}), Stages(tmp_path, {})]  # a process may open it once more
    del stages[0]
    gc.collect()
    assert opened() == 0
    message = f"output_dir must be free, got {tmp_path}, which another run is writing"
    assert message in (tmp_path / "said").read_text()
    (tmp_path / "said").unlink()
    stages.clear()
    gc.collect()
    assert opened() == 0
    assert not (tmp_path / "said").exists()
