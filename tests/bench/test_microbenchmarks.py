"""The standalone programs in bench/gpu: they compile, explain themselves, and print tables."""

import csv
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

SOURCES = sorted((Path(__file__).parents[2] / "bench" / "gpu").glob("*.cu"))
# Small problems, so that a run takes a second.
ARGUMENTS = {
    "atomic_add_rate": ["--max-gb", "0.1", "--repeats", "2"],
    "conditional_node_latency": ["--nodes", "3", "--repeats", "2"],
    "l2_reread": ["--gb", "0.2", "--repeats", "2"],
}


@pytest.fixture(scope="module", params=SOURCES, ids=lambda path: path.stem)
def program(request, tmp_path_factory):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    architecture = "native" if torch.cuda.is_available() else "sm_90a"
    path = tmp_path_factory.mktemp("programs") / request.param.stem
    command = [nvcc, "-O3", "-std=c++17", f"-arch={architecture}", "-o", path, request.param]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    return path


def run(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True)


def test_explains_itself(program):
    done = run(program, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {program.name} [--")
    for name in ARGUMENTS[program.name][::2]:
        assert name in done.stdout
    wrong = run(program, "10")
    assert wrong.returncode == 2 and wrong.stdout == done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fails_without_a_gpu(program):
    done = run(program)
    assert done.returncode == 1 and ".cu:" in done.stderr


@pytest.mark.cuda
def test_prints_a_table(program):
    done = run(program, *ARGUMENTS[program.name])
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert len(rows) >= 5
    assert all(float(row["median_us"]) > 0 for row in rows)
