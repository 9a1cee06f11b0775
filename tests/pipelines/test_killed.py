"""A run that is killed again and again ends in the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import tiny

from fastheads.pipelines.run_folder import write_config


def start(folder):
    command = [sys.executable, "-m", "fastheads.cli", "augment"]
    command += ["--config", str(folder.parent / "config.yaml"), "--output_dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def progress(folder):
    """Checkpoints and finished stages so far."""
    return sum(1 for _ in folder.glob("*/**/*.pt"))


@pytest.mark.slow
def test_killed_run_ends_the_same(tmp_path, cache_dir):
    steps = {"checkpoint_seconds": 0, "log_every": 5}  # a checkpoint every fifth step
    config = tiny.config(tmp_path / "unused", cache_dir)
    training = {
        name: tiny.replace(getattr(config, name), **steps)
        for name in ("trunk", "top", "heads_training", "fine_tune")
    }
    config = tiny.replace(config, **training, fine_tune_epochs=1, second_round=True)
    write_config(tmp_path, config)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = start(whole)

    draw = random.Random(0)
    finish(reference)
    total = progress(whole)
    for part in sorted(draw.sample(range(total - 1), 3)):
        process = start(killed)
        while progress(killed) <= part:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))  # anywhere in what follows
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (killed / "metrics.json").exists()
    finish(start(killed))
    assert progress(killed) == total
    for name in ("metrics.json", "model.safetensors", "network.json", "labels.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert (killed / "report.html").exists()
    assert not list(killed.rglob("*.tmp"))
