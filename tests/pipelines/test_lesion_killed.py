"""A lesion study that is killed again and again ends in the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from fastheads.data import DataConfig
from fastheads.pipelines.lesion import LesionConfig
from fastheads.pipelines.lesion_networks import NetworksConfig
from fastheads.pipelines.lesion_task import LesionsConfig
from fastheads.pipelines.run_folder import write_config


def start(folder):
    command = [sys.executable, "-m", "fastheads.cli", "lesion"]
    command += ["--config", str(folder.parent / "config.yaml"), "--output_dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def progress(folder):
    """Checkpoints and finished parts so far."""
    return sum(1 for _ in folder.glob("*/**/*.pt"))


def outcome(folder):
    """All that was measured; durations differ from run to run."""
    analysis = json.loads((folder / "analysis.json").read_text())
    varies = ("durations", "command", "settings")
    measured = {name: value for name, value in analysis.items() if name not in varies}
    for curve in measured["curves"]:
        del curve["seconds"]
    return measured


@pytest.mark.slow
def test_killed_run_ends_the_same(tmp_path, cache_dir):
    """Also where it trains and studies in processes of its own."""
    config = LesionConfig(
        output_dir=Path("unused"),
        data=DataConfig(limit_labels=30, cache_dir=cache_dir),
        networks=NetworksConfig(
            rows=("resnet", "effective_paths"),
            blocks=(3, 2, 2),
            widths=(8, 8, 16),
            training=replace(tiny.STEPS, epochs=2, checkpoint_seconds=0, log_every=3),
            processes=2,
        ),
        lesions=LesionsConfig(
            pictures=30, deleted=(1, 2), deletions=2, swaps=(1, 2), reorderings=2, paths=2,
            path_pictures=4,
        ),
    )  # fmt: skip
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
    assert (killed / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    assert outcome(killed) == outcome(whole)
    assert (killed / "report.html").exists()
    assert not list(killed.rglob("*.tmp"))
