"""Killed at any point and started again, a run ends in the same bits."""

import csv
import random
import signal
from dataclasses import replace

import pytest
import torch
from runs import CONFIG, in_process, train

from fastheads.training.checkpoint import load

STEPS = 4 * (100 // 16)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    assert in_process(folder=folder) == 0
    return folder


def assert_same_end(folder, reference):
    assert (folder / "model.safetensors").read_bytes() == (
        reference / "model.safetensors"
    ).read_bytes()
    ours, theirs = (load(f / "checkpoint.pt")["run"] for f in (folder, reference))
    for key in ("step", "epoch", "curve", "history", "stopped_early"):
        assert ours[key] == theirs[key]
    rows, expected = (
        sorted(map(str, csv.DictReader((f / "log" / "metrics.csv").open())))
        for f in (folder, reference)
    )
    assert rows == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_steps(tmp_path, reference, seed):
    kills = 0
    draw = random.Random(seed)
    # At least log_every steps a life, or no checkpoint is reached.
    while code := in_process(folder=tmp_path, die_at_step=draw.randint(1, 12)):
        assert code == -signal.SIGKILL
        assert not (tmp_path / "model.safetensors").exists()
        kills += 1
    assert kills >= 2
    assert_same_end(tmp_path, reference)


def test_killed_while_saving(tmp_path, reference):
    for save in (1, 2, 3, 4):
        assert in_process(folder=tmp_path, die_at_save=save) == -signal.SIGKILL
        assert len(list(tmp_path.glob("checkpoint.pt.*.tmp"))) == 1
    assert in_process(folder=tmp_path) == 0
    assert_same_end(tmp_path, reference)
    assert not list(tmp_path.glob("*.tmp"))


def test_killed_with_workers(tmp_path):
    config = replace(CONFIG, workers=2, epochs=2)
    assert in_process(folder=tmp_path / "a", config=config) == 0
    code = in_process(folder=tmp_path / "b", config=config, die_at_step=5)
    assert code == -signal.SIGKILL
    assert 0 < load(tmp_path / "b" / "checkpoint.pt")["run"]["step"] < 100 // 16
    # Continued without workers: the order of the data does not depend on who loads it.
    assert in_process(folder=tmp_path / "b", config=config) == 0
    assert_same_end(tmp_path / "b", tmp_path / "a")


def test_finished_run_returns_at_once(reference):
    result = train(reference, die_at_step=1)  # a step would kill this process
    assert result.steps == STEPS
    stored = load(reference / "checkpoint.pt")
    assert "optimizer" not in stored
    assert result.metrics["top1"] == max(row["top1"] for row in result.history)


@pytest.mark.parametrize("change", [{"lr": 0.02}, {"epochs": 5}, {"seed": 1}])
def test_refuses_another_configuration(reference, change):
    (key,) = change
    with pytest.raises(ValueError, match=f"another configuration \\({key} was"):
        train(reference, replace(CONFIG, **change), die_at_step=1)


def test_checkpoint_is_safe_to_load(reference):
    torch.load(reference / "checkpoint.pt", weights_only=True)
