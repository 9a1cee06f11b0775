"""What the benchmarks run on a GPU with --quick, as far as that can be said without one."""

import pytest
import torch
from fastheads_bench import bench_sc_linear, sc_layers
from fastheads_bench.harness import OURS

CPU = torch.device("cpu")


def test_sc_linear_runs_what_its_targets_are_stated_for():
    """Listing the cases makes none: no GPU is touched."""
    planned = [*bench_sc_linear.planned(cuda=True, quick=True, everything=False)]
    layers = [each for each in planned if each.func is bench_sc_linear.case]
    for name in ("uniform 20x5000", "zipf 20, 200-30000"):
        of_name = [each for each in layers if each.args[0] == name]
        for train in (False, True):
            batches = {
                each.args[1]
                for each in of_name
                if each.args[2] == torch.bfloat16 and each.keywords["train"] == train
            }
            assert batches >= {64, 256, 1024, 4096} | (set() if train else {1})
    assert not any(each.keywords["compiled"] for each in layers)  # takes minutes
    others = {each.func for each in planned}
    assert {bench_sc_linear.in_place_case, bench_sc_linear.conditional_case} < others
    assert len(planned) <= 30


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("written", [[5, 24, 9], [8, 16, 24]])
def test_sc_linear_against_grouped_mm(train, written, monkeypatch):
    """Whose groups of labels are rounded up to whole vectors."""
    monkeypatch.setitem(sc_layers.LAYERS, "tiny", ([16] * 3, written))
    case = bench_sc_linear.case("tiny", 4, torch.bfloat16, CPU, train, compiled=False)
    assert "F.grouped_mm" in case.providers or not hasattr(torch.nn.functional, "grouped_mm")
    for name, call in case.providers.items():
        assert case.error(name, call()) <= case.tolerance, name


def test_kernels_of_sc_linear_that_are_not_built_are_left_out(monkeypatch, capsys):
    def launched(self, kernel, train):
        if kernel == 2:
            raise RuntimeError("sc_linear: no grouped kernel for these sizes, dtype and device")

    monkeypatch.setattr(sc_layers.Layer, "launched", launched)
    for batch, train, names in (
        (64, False, ["products", "streamed"]),
        (65, False, ["products"]),
        (1, True, ["products"]),
    ):
        layer = sc_layers.Layer("SC-SC 20x512", batch, torch.float32, CPU, train)
        found = sc_layers.forced(layer, train)
        assert list(found) == [f"{OURS} {name}" for name in names]
        assert (
            "left out: fastheads grouped (sc_linear: no grouped kernel" in capsys.readouterr().out
        )
    monkeypatch.undo()
    with pytest.raises(RuntimeError):  # nothing else is passed over
        sc_layers.forced(layer, False)
