"""Files that are whole or absent, and folders that belong to one configuration."""

import pytest
import torch
from runs import start

from fastheads.training.checkpoint import check_same, claim, load, read_json, save, write_whole

STATE = {"weights": torch.arange(5000)}


def save_often(path):
    for _ in range(60):
        save(STATE, path)


def test_two_processes_save_to_one_path(tmp_path):
    processes = [start(save_often, path=tmp_path / "checkpoint.pt") for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert torch.equal(load(tmp_path / "checkpoint.pt")["weights"], STATE["weights"])
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("left", [0, 1, 0.5, 0.99])
def test_damaged_checkpoint_is_named(tmp_path, left, mmap):
    path = tmp_path / "checkpoint.pt"
    save(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[: left if left == 1 else int(left * len(content))])
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged \(.*\): delete it") as error:
        load(path, mmap=mmap)
    assert "\n" not in str(error.value)


def test_missing_checkpoint_is_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("content", [b"", b'{"lr": 0', b"[]", b"\xff"])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.json is damaged \(.*\): delete it"):
        read_json(tmp_path / "a.json")


def test_full_disk(tmp_path):
    """As PyTorch says it and as the system does."""
    path = tmp_path / "checkpoint.pt"
    save(STATE, path)
    for failure in (RuntimeError("enforce fail\nat inline_container"), OSError("no space left")):

        def write(partial, failure=failure):
            partial.write_bytes(b"some")
            raise failure

        with pytest.raises(OSError, match=r"checkpoint.pt cannot be written \((enf|no sp)[^\n]*$"):
            write_whole(path, write)
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert torch.equal(load(path)["weights"], STATE["weights"])


def test_the_setting_that_differs_is_named(tmp_path):
    stored = {"trunk": {"lr": 0.1, "momentum": 2.0}, "seeds": [0]}
    check_same(tmp_path, stored, {"trunk": {"lr": 0.1, "momentum": 2.0}, "seeds": [0]})
    with pytest.raises(ValueError, match=r"\(trunk.momentum was 2.0 and is 0.9\)"):
        check_same(tmp_path, stored, {"trunk": {"lr": 0.1, "momentum": 0.9}, "seeds": [0]})
    with pytest.raises(ValueError, match=r"\(seeds was \[0\] and is None\)"):
        check_same(tmp_path, stored, {"trunk": {"lr": 0.1, "momentum": 2.0}})


def test_a_folder_without_results_is_free(tmp_path):
    claim(tmp_path, "settings.json", {"momentum": 2})
    claim(tmp_path, "settings.json", {"momentum": 0.9})
    save(STATE, tmp_path / "training" / "checkpoint.pt")
    claim(tmp_path, "settings.json", {"momentum": 0.9})
    with pytest.raises(ValueError, match=r"momentum was 0\.9 and is 0\.8"):
        claim(tmp_path, "settings.json", {"momentum": 0.8})
