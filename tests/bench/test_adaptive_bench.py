"""`fastheads bench adaptive`: contestants of one function, decisions as asked, honest shares."""

import pytest
import torch
from fastheads_bench import __main__ as command
from fastheads_bench import bench_adaptive as bench
from fastheads_bench.bench_gated_block import plain_gate
from fastheads_bench.harness import read

from fastheads.metrics import count_macs
from fastheads.models import resnet
from fastheads.nn import Gate, gated_blocks, residual_blocks

ALWAYS_ON = ["stages.0.0", "stages.1.0"]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return resnet((2, 2), (4, 8), num_labels=3).eval()


def test_decisions():
    z = bench.decisions(32, 11, 5.8)
    assert z.shape == (11, 32) and z.sum() == round(5.8 * 32)
    assert len(set(z.sum(0).tolist())) > 3 and len({tuple(column) for column in z.T.tolist()}) > 20


def test_a_gate_runs_and_decides_as_given():
    gate, z = Gate(4).eval(), torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    x = torch.randn(2, 4, 3, 3)
    for plain in (False, True):
        decided = (bench.PlainDecided if plain else bench.Decided)(gate, z).eval()
        with torch.no_grad():
            found = [decided(x) for _ in range(6)]
            said = plain_gate(gate, x) if plain else gate(x)[1]
        assert torch.cat([decision for decision, _ in found]).tolist() == z.tolist() * 2
        assert all(torch.equal(result, said) for _, result in found)


@pytest.mark.parametrize("batch", [1, 4])
def test_contestants_are_one_network(network, batch):
    """Eq. 5.3, whoever computes it."""
    z, x = bench.decisions(4, 2, 1.0), torch.randn(4, 3, 8, 8)
    forms = [None, bench.Multiplied, *([bench.Skipped, bench.Known] if batch == 1 else [])]
    results = [
        bench.in_turns(bench.gated(network, z, ALWAYS_ON, form), x.clone(), batch)()
        for form in forms
    ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])
    assert not torch.allclose(bench.in_turns(network, x, batch)(), results[0])


def test_calibration_is_shared_among_blocks_of_one_shape(network):
    gated = bench.gated(network, bench.decisions(4, 2, 1.0), ALWAYS_ON)
    deep = bench.gated(resnet((3, 3), (4, 4), num_labels=3), torch.ones(4, 4), ALWAYS_ON)
    for model, kinds in ((gated, 2), (deep, 2)):  # by size of the map
        bench.calibrate(model, torch.randn(4, 3, 8, 8), 4)
        states = [str(block.calibration()) for block in gated_blocks(model).values()]
        assert all(states) and len(set(states)) == kinds


def test_case_counts_what_each_image_executes(network):
    """Of the multiply-adds, not of what batches are padded to; checked against float64."""
    blocks = residual_blocks(network)[0]
    assert [block.downsampling for block in blocks] == [False, False, True, False]
    x = torch.randn(6, 3, 8, 8)
    case = bench.case(network, x, 3, compiled=False, executed=2.5)
    branch = 2 * 8 * 8 * 9 * 4 * 4  # of stage 0; that of stage 1 has a quarter of the pixels
    assert branch == 2 * 4 * 4 * 9 * 8 * 8
    gates = 6 * (4 + 4) * 16 + 6 * 2 * 2 * 16
    open_gates = round(6 * (2.5 - 2))
    least = 6 * count_macs(network, x[:1]) - (12 - open_gates) * branch + gates
    assert case.macs == pytest.approx(least, rel=0.01)
    assert case.shape.startswith("2 x [3, 3, 8, 8] ")
    for name, call in case.providers.items():
        logits = call()
        assert case.error(name, logits) <= case.tolerance, name
        assert case.error(name, logits.flip(0)) > 10 * case.tolerance, name


def test_rows_and_shares(tmp_path, capsys):
    out = tmp_path / "out.csv"
    options = ["--side", "32", "--batches", "2", "--eager", "--quick", "--threads", "1"]
    assert command.main(["adaptive", *options, "--budget", "0", "--out", str(out)]) == 0
    rows = read(out)
    assert [row["provider"] for row in rows] == ["fastheads", "plain", "masked"]
    assert rows[0]["shape"].endswith(" of MACs")
    printed = capsys.readouterr().out
    time = {row["provider"]: float(row["median_us"]) for row in rows}
    gain = 1 - time["fastheads"] / time["plain"]
    assert f"fastheads saves {gain:.1%} of time" in printed
