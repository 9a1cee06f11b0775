import numpy as np
import pytest
import torch

from fastheads.training import Stages


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
    Stages(tmp_path, {"lr": 0.1, "groups": 6})
    Stages(tmp_path, {"lr": 0.1, "groups": 6})
    with pytest.raises(ValueError, match=r"\(groups was 6 and is 7\)"):
        Stages(tmp_path, {"lr": 0.1, "groups": 7})
