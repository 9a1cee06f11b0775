"""Whole networks: which one, what is compared, what is timed."""

import copy
import sys

import pytest
import torch
from fastheads_bench import bench_model
from fastheads_bench.harness import measure, read
from torch import nn

from fastheads.metrics import count_bytes, count_macs

TINY = ["--batch", "2", "--size", "64", "--no_compile", "--quick", "--threads", "1"]

OWN = """
import torch
from torch import nn

class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x.mean((2, 3))) + torch.rand(4)

class Several(nn.Conv2d):
    def forward(self, x):
        y = super().forward(x)
        return {"names": ["one"], "logits": y.mean((2, 3)), "map": y}

def noisy(): return Noisy(3, 4)
def several(): return Several(3, 4, 3)
def dropping(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.Flatten())
def number(): return 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's in the current folder."""
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield "own_networks"
    sys.modules.pop("own_networks", None)


def test_rows_of_torchvision_network(tmp_path, capsys):
    out = tmp_path / "out.csv"
    bench_model.main(
        ["--model", "torchvision:mobilenet_v3_small", *TINY, "--train", "--out", str(out)]
    )
    rows = read(out)
    assert [(row["pass"], row["provider"]) for row in rows] == [
        ("forward", "fastheads"), ("forward", "eager"),
        ("training step", "fastheads"), ("training step", "eager"),
    ]  # fmt: skip
    network, x = bench_model.load("torchvision:mobilenet_v3_small"), torch.zeros(2, 3, 64, 64)
    for row in rows:
        factor = 3 if row["pass"] == "training step" else 1
        assert row["op"] == "torchvision:mobilenet_v3_small" and row["shape"] == "[2, 3, 64, 64]"
        assert int(row["macs"]) == factor * count_macs(network, x)
        assert int(row["bytes"]) == factor * count_bytes(network, x)
        assert 0 < float(row["max_error"]) < (1e-4 if row["pass"] == "forward" else 1e-2)
    printed = capsys.readouterr().out
    assert "torchvision:mobilenet_v3_small: 2.54 M parameters" in printed
    assert "9 replaced" in printed


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtype_and_memory_format(dtype, tmp_path):
    out = tmp_path / "out.csv"
    spec = ["--model", "torchvision:mobilenet_v3_small", "--dtype", dtype, "--channels_last"]
    bench_model.main([*spec, *TINY, "--out", str(out)])
    assert {row["dtype"] for row in read(out)} == {dtype}
    assert all((float(row["max_error"]) < 1e-8) == (dtype == "float64") for row in read(out))


def test_timm_network_with_zero_initialised_branches():
    """Fresh residual branches give zero; what is compared must have a say in the output."""
    pytest.importorskip("timm")
    network, x = bench_model.load("timm:seresnet18"), torch.randn(2, 3, 32, 32)
    assert not network.layer1[0].bn2.weight.any()
    bench_model.enliven(network, x)
    with torch.no_grad():
        wanted = network.eval()(x)
        network.layer1[0].se.fc2.bias += 1
        assert (network(x) - wanted).abs().max() > 1e-3
    assert network.bn1.momentum == nn.BatchNorm2d(1).momentum


def test_own_network(own, tmp_path, capsys):
    out = tmp_path / "out.csv"
    bench_model.main(["--model", f"{own}:several", *TINY, "--out", str(out)])
    assert [row["provider"] for row in read(out)] == ["fastheads", "eager"]
    assert [int(row["macs"]) for row in read(out)] == [2 * 4 * 27 * 62 * 62] * 2
    assert "no squeeze-excitation found" in capsys.readouterr().out


def test_dropout_is_off(own, tmp_path):
    """Both contestants compute the same in training."""
    out = tmp_path / "out.csv"
    bench_model.main(["--model", f"{own}:dropping", *TINY, "--train", "--out", str(out)])
    assert max(float(row["max_error"]) for row in read(out)) < 1e-5


def test_random_outputs_are_refused(own):
    with pytest.raises(ValueError, match="own_networks:noisy must compute the same every time"):
        bench_model.main(["--model", f"{own}:noisy", *TINY])


def test_a_wrong_network_is_not_timed():
    """Contestants that differ by more than rounding."""
    networks = {"fastheads": nn.Linear(3, 4).eval(), "eager": nn.Linear(3, 4).eval()}
    exact, x = copy.deepcopy(networks["eager"]).double(), torch.randn(5, 3)
    case = bench_model.case(networks, exact, x, "linear", train=False)
    with pytest.raises(RuntimeError, match=r"linear .*: fastheads is off by"):
        measure(case, budget=0.0)


@pytest.mark.slow
def test_compiled(own, tmp_path):
    out = tmp_path / "out.csv"
    compiled = [flag for flag in TINY if flag != "--no_compile"]
    bench_model.main(["--model", f"{own}:dropping", *compiled, "--out", str(out)])
    names = [row["provider"] for row in read(out)]
    assert names == ["fastheads", "eager", "fastheads compiled", "compiled"]


@pytest.mark.parametrize(
    "spec, message",
    [
        ("resnet18", "model must be timm:NAME, torchvision:NAME or package.module:function"),
        ("timm:", "model must be timm:NAME"),
        ("torchvision:resnet81", "one of torchvision's, got 'resnet81'; did you mean 'resnet1.*'?"),
        ("no_such_package:build", "'no_such_package:build' is not to be had: No module named"),
        ("own_networks:biuld", "is not to be had: .* has no attribute 'biuld'"),
        ("own_networks:number", "must return a torch.nn.Module, got .*int"),
    ],
)
def test_bad_specs(own, spec, message):
    with pytest.raises(ValueError, match=message):
        bench_model.load(spec)


@pytest.mark.parametrize("place, extra", [("timm", "bench"), ("torchvision", "pipelines")])
def test_missing_packages(place, extra, monkeypatch):
    for name in (place, f"{place}.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"needs the package {place}: .*fastheads\[{extra}\]"):
        bench_model.load(f"{place}:resnet18")
