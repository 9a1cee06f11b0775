"""`fastheads bench`: what a user sees and gets."""

import argparse
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fastheads_bench import __main__ as command
from fastheads_bench import bench_model
from fastheads_bench.harness import COLUMNS, read
from PIL import Image

import fastheads
from fastheads.metrics import count_macs

FOLDER = Path(command.__file__).parent
FILES = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
CPU_ONLY = {"clustering"}
SHORT = ["--quick", "--budget", "0", "--threads", "1"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """An operator and a network in one call: what was printed, the rows, the figure's path."""
    folder = tmp_path_factory.mktemp("bench")
    out, figure = folder / "results.csv", folder / "figure.png"
    network = ["--model", "torchvision:mobilenet_v3_small", "--batch", "1", "--size", "32"]
    network.append("--no_compile")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        files = ["--out", str(out), "--figure", str(figure)]
        assert command.main(["topk_confusion", *network, *SHORT, *files]) == 0
    return printed.getvalue(), read(out), figure


def test_rows_of_all_names(measured):
    _, rows, _ = measured
    assert list(rows[0]) == COLUMNS
    ops = ["copy", "matmul", "topk_indices", "torchvision:mobilenet_v3_small"]
    assert list(dict.fromkeys(row["op"] for row in rows)) == ops
    for row in rows:
        assert row["device"].startswith("cpu: ") and row["threads"] == "1"
        assert row["version"] == fastheads.__version__ and row["torch"] == torch.__version__
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"])
        assert 0 < float(row["q25_us"]) <= float(row["median_us"]) <= float(row["q75_us"])
    topk = [row for row in rows if row["op"] == "topk_indices"]
    assert [row["provider"] for row in topk] == ["fastheads", "torch.topk", "np.argpartition"]
    assert {row["bytes"] for row in topk} == {str(32 * (100_000 * 4 + 100 * 8))}
    assert {row["max_error"] for row in topk} == {"0.0"}
    network = bench_model.load("torchvision:mobilenet_v3_small")
    assert int(rows[-1]["macs"]) == count_macs(network, torch.zeros(1, 3, 32, 32))


def test_table(measured):
    printed, rows, _ = measured
    table = printed[printed.index("\noperation ") :].strip().splitlines()
    assert (
        table[0].split()
        == "operation shape dtype ours time best peer time ratio GB/s GMAC/s".split()
    )
    ours = [row for row in rows if row["provider"] == "fastheads"]
    assert len(ours) == 2 and table[3] == ""
    for line, row in zip(table[1:], ours, strict=False):
        assert line.startswith(row["op"]) and row["shape"] in line
        ratio = float(re.search(r"(?:µs|ms| s) +(\d+\.\d\d)(?: |$)", line)[1])
        assert ratio == pytest.approx(float(row["ratio_to_best_peer"]), abs=0.011)
    assert f"{len(rows)} rows in " in printed


def test_figure(measured):
    printed, _, figure = measured
    assert f"figure: {figure}" in printed
    with Image.open(figure) as image:
        assert min(image.size) > 500
        assert len(image.convert("L").getcolors()) > 50


def test_table_on_a_terminal(measured, monkeypatch, capsys):
    """In colour by rich where there is a terminal, in plain columns where rich is missing."""
    pytest.importorskip("rich")
    _, rows, _ = measured
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    command.print_table(rows)
    assert "───" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich.console", None)
    command.print_table(rows)
    plain = capsys.readouterr().out
    assert "───" not in plain and "topk_indices" in plain


def test_all_are_all_but_networks():
    names = command._names(argparse.Namespace(names=["augment", "all"], model=None))
    assert sorted(names) == [name for name in FILES if name != "model"]
    names = command._names(argparse.Namespace(names=["augment"], model="timm:resnet18"))
    assert names == ["augment", "model"]


def test_list(capsys):
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == FILES
    for line in lines:
        name, devices, *summary = line.split()
        assert devices == ("cpu" if name in CPU_ONLY else "cpu/cuda")
        assert len(summary) > 3


def test_gpu_check_knows_every_benchmark():
    script = FOLDER / "gpu_check.sh"
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(script), "--list"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [name for name in FILES if name not in CPU_ONLY]
    assert subprocess.run(["bash", str(script), "--nothing"], capture_output=True).returncode == 2


def test_help_has_examples(capsys):
    assert command.main(["--help"]) == 0 and command.main([]) == 0
    first, second = capsys.readouterr().out.split("usage: fastheads bench NAME... [options]\n")[1:]
    assert first == second
    for text in ("--model timm:seresnet50 --batch 8", "--figure PNG", ", ".join(FILES)):
        assert text in first


def test_help_of_one_name(capsys):
    with pytest.raises(SystemExit):
        command.main(["clustering", "--help"])
    assert "--repeats" in capsys.readouterr().out


def test_options_of_one_name(tmp_path):
    out = tmp_path / "out.csv"
    command.main(["clustering", "--quick", "--repeats", "1", "--threads", "1", "--out", str(out)])
    assert [row["op"] for row in read(out)] == ["clustering"] * 3


def test_option_that_networks_have_too(tmp_path):
    out = tmp_path / "out.csv"
    shared = ["--quick", "--budget", "1", "--threads", "1", "--dtype", "float32", "--out", str(out)]
    command.main(["gated_block", *shared, "--side", "7", "--batch", "2"])
    assert {row["shape"].partition("]")[0] for row in read(out)} == {"[2, 2048, 7, 7"}
    with pytest.raises(argparse.ArgumentError, match="beside several names: --batch 2"):
        command.main(["gated_block", "ceilings", *shared, "--batch", "2"])


def test_stopped(tmp_path):
    """Ctrl-C: whole rows, what was measured is shown, the status of an interrupted program."""
    out = tmp_path / "out.csv"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = ["bench", "topk_confusion", "--threads", "1", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastheads.cli", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background jobs ignore the signal, and their children with them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    until = time.monotonic() + 120
    while not out.exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors == "fastheads: stopped; what is above was measured\n"
    rows = read(out)
    assert rows and all(row["date"] for row in rows)
    assert f"{len(rows)} rows in {out}" in printed and "operation " in printed


@pytest.mark.parametrize(
    "args, message",
    [
        (["topk_confusoin"], "bench must be one of .*, got 'topk_confusoin'; did you mean 'topk_confusion'\\?"),  # noqa: E501
        (["topk_confusion", "nothing"], "bench must be one of .*, got 'nothing'$"),
        (["--model", "torchvision:resnet"], "one of torchvision's, got 'resnet'; did you mean 'resnet"),  # noqa: E501
        (["--model", "torchvision:resnet18", "--dtype", "int32"], "network must be floating, got int32"),  # noqa: E501
        (["ceilings", "--threads", "0"], "threads must be at least 1, got 0"),
        (["ceilings", "--quick", "--dtype", "int32"], "dtype must be one that ceilings measures, got int32"),  # noqa: E501
    ],
)  # fmt: skip
def test_bad_values(args, message):
    with pytest.raises(ValueError, match=message):
        command.main(args)


@pytest.mark.parametrize(
    "args, message",
    [
        (["--quick"], "must be given a NAME or a --model"),
        (["model"], "bench model must be given a --model"),
        (["topk_confusion", "augment", "--repeats", "3"], "unrecognized .* several names: --repeats 3"),  # noqa: E501
        (["topk_confusion", "--device", "tpu"], "--device: invalid choice: 'tpu'"),
        (["topk_confusion", "--budget", "long"], "--budget: invalid float value: 'long'"),
    ],
)  # fmt: skip
def test_bad_arguments(args, message):
    with pytest.raises(argparse.ArgumentError, match=message):
        command.main(args)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu():
    with pytest.raises(ValueError, match="device must be cpu where PyTorch finds no CUDA GPU"):
        command.main(["topk_confusion", "--device", "cuda"])


def test_no_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"figure needs the package matplotlib: .*\[bench\]"):
        command.main(["ceilings", "--figure", str(tmp_path / "figure.png")])


def test_memory_is_kept_only_where_it_can_be(monkeypatch):
    monkeypatch.setattr(command, "keep_freed_memory", lambda: False)
    with pytest.raises(ValueError, match="keep_memory needs glibc"):
        command.main(["topk_confusion", "--quick", "--keep_memory"])
