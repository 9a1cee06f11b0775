"""`fastheads bench senet`: contestants of one function, and what they take above the plain one."""

import pytest
import timm.layers
import torch
import torchvision.ops
from fastheads_bench import __main__ as command
from fastheads_bench import bench_senet as bench
from fastheads_bench.harness import read

from fastheads.models import SEResidual
from fastheads.nn import SqueezeExcite

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
KINDS = (SqueezeExcite, timm.layers.SEModule, torchvision.ops.SqueezeExcitation)


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return bench.networks(18, 16, IMAGES, compiled=False)


def test_each_has_its_own_modules(networks):
    counts = [
        [sum(isinstance(m, kind) for m in network.modules()) for kind in KINDS]
        for network in networks.values()
    ]
    assert list(networks) == ["plain", "fastheads", "timm", "torchvision"]
    assert counts == [[0, 0, 0], [8, 0, 0], [0, 8, 0], [0, 0, 8]]
    assert not any(isinstance(m, SEResidual) for m in networks["timm"].modules())


@pytest.mark.parametrize("training", [False, True])
def test_they_compute_the_same(networks, training):
    with torch.no_grad():
        plain, ours, *others = (n.train(training)(IMAGES) for n in networks.values())
    for other in others:
        torch.testing.assert_close(other, ours)
    assert not torch.allclose(plain, ours)
    weights = [n.stages[1][0].branch for n in networks.values()]
    assert torch.equal(weights[0][0].weight, weights[1][0].weight)


@pytest.mark.parametrize("pass_", bench.PASSES)
def test_a_wrong_result_is_seen(pass_):
    case = bench.case(18, 16, IMAGES, pass_, compiled=False)
    for name, call in case.providers.items():
        result = call()
        assert case.error(name, result) <= case.tolerance < case.error(name, result.flip(0))


def test_overheads():
    case = {"op": "senet18", "pass": "forward", "shape": "[1]", "dtype": "float32"}
    times = {"plain": 2000, "fastheads": 2100, "timm": 2500, "torchvision": 1900}
    rows = [{**case, "provider": name, "median_us": us} for name, us in times.items()]
    assert list(bench.overheads(rows)) == [
        "senet18 [1] forward: 2.0 ms plain; fastheads +5.0%, timm +25.0%, torchvision -5.0%"
    ]


def test_rows(tmp_path, capsys):
    out = tmp_path / "out.csv"
    options = ["--side", "32", "--batches", "2", "--width", "8", "--quick", "--threads", "1"]
    assert command.main(["senet", *options, "--budget", "0", "--out", str(out)]) == 0
    rows = read(out)
    assert [row["pass"] for row in rows] == ["forward"] * 4
    assert "senet18 width 8 [2, 3, 32, 32] forward: " in capsys.readouterr().out
