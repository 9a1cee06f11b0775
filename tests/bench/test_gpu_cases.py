"""What the benchmarks run on a GPU with --quick, as far as that can be said without one."""

from collections.abc import Iterator

import pytest
import torch
from fastheads_bench import (
    bench_gated_block,
    bench_sc_linear,
    bench_sc_sigmoid_loss,
    bench_squeeze_excite,
    bench_topk_confusion,
    sc_layers,
)
from fastheads_bench.harness import OURS

from fastheads.ops import squeeze_excite_reference

CPU = torch.device("cpu")


@pytest.fixture
def launches_on_the_cpu() -> Iterator[None]:
    """The operators that CUDA alone has, which launch one kernel, stand for the whole there."""
    ops = torch.ops.fastheads
    whole = {
        "_sc_linear_launched": ops.sc_linear,
        "_sc_linear_backward_launched": ops.sc_linear_backward,
        "_squeeze_excite_launched": ops.squeeze_excite,
        "_squeeze_excite_backward_launched": backward_of_squeeze_excite,
    }
    if not hasattr(ops, next(iter(whole))):
        pytest.skip("built without CUDA")
    with torch.library._scoped_library("fastheads", "IMPL") as library:
        for name, op in whole.items():
            library.impl(name, lambda *given, op=op: op(*given[:-1]), "CPU")
        yield


def backward_of_squeeze_excite(*given):
    *before, weight2, scale, shift, has_residual, inner, gate = given
    rest = weight2, None, scale, shift, has_residual, inner, gate
    return torch.ops.fastheads.squeeze_excite_backward(*before, *rest)[:5]


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
    monkeypatch.setitem(sc_layers.LAYERS, "tiny", sc_layers.Form([16] * 3, written))
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
    with pytest.raises(RuntimeError, match="other"):  # nothing else is passed over
        sc_layers.runs("ours", raises_other, "no grouped kernel")


def raises_other():
    raise RuntimeError("other")


@pytest.mark.parametrize("train", [False, True])
def test_kernels_of_sc_linear_by_themselves(train, launches_on_the_cpu):
    layer = sc_layers.Layer("SC-SC 20x512", 3, torch.float32, CPU, train)
    wanted = layer.loop()
    if train:
        (wanted,) = torch.autograd.grad(wanted, layer.x, layer.grad)
    for call in sc_layers.forced(layer, train).values():
        torch.testing.assert_close(call(), wanted, rtol=1e-4, atol=1e-4)


def test_squeeze_excite_runs_what_its_targets_are_stated_for():
    planned = [*bench_squeeze_excite.planned(cuda=True, quick=True)]
    cases = {
        (each.args[0], each.args[1][0], each.keywords["backward"])
        for each in planned
        if each.args[2:] == (torch.bfloat16, torch.channels_last)
    }
    sizes = [256, 512, 1024, 2048]
    assert cases == {(n, c, b) for n in (64, 256) for c in sizes for b in (False, True)}
    assert len({(*each.args, each.keywords["backward"]) for each in planned}) == len(planned) <= 30
    assert sum(each.keywords.get("compiled", True) for each in planned) == 2  # it takes seconds


@pytest.mark.parametrize("inner, gate", [("relu", "sigmoid"), ("silu", "hard_sigmoid")])
@pytest.mark.parametrize("backward", [False, True])
def test_launches_of_squeeze_excite_by_themselves(backward, inner, gate, launches_on_the_cpu):
    x, residual, grad = torch.randn(3, 2, 8, 5, 5)
    weights = [torch.randn(size) for size in ((4, 8), (4,), (8, 4), (8,))]
    bench = bench_squeeze_excite
    codes = list(bench.INNER).index(inner), list(bench.GATE).index(gate)
    given = x, residual, grad if backward else None, weights
    y = bench.launched(*given, codes, ticketed=True)
    wanted = squeeze_excite_reference(x, *weights, residual, inner=inner, gate=gate, relu=True)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)


def test_gated_block_runs_what_its_targets_are_stated_for():
    def listed(*argv):
        given = bench_gated_block.arguments([*argv])
        return {each.args for each in bench_gated_block.planned(given)}

    half, sides = torch.bfloat16, (56, 28, 14, 7)
    large = {(side, 256, 2 / 3, half) for side in sides}
    single = {(side, 1, rate, half) for side in sides for rate in (0.0, 1.0)}
    assert listed("--quick", "--device", "cuda") == large | single
    asked = listed("--quick", "--device", "cuda", "--batch", "8", "--side", "7")
    assert asked == {(7, 8, 2 / 3, half)}
    assert len(listed("--quick")) == len(listed()) == 2 * 4 * (4 + 2)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_co_detections_lie_on_both_sides_of_their_threshold(where, monkeypatch):
    """Which `topk_confusion_counts.cu` names `product_pays`: rows and labels of each case."""
    asked = []
    for name in ("topk_case", "confusion_case", "sparse_case"):
        monkeypatch.setattr(bench_topk_confusion, name, lambda *_, **__: None)
    record = lambda rows, labels, *_, **__: asked.append((rows, labels))  # noqa: E731
    monkeypatch.setattr(bench_topk_confusion, "co_detection_case", record)
    list(bench_topk_confusion.cases(torch.device(where), quick=True))
    if where == "cuda":
        pays = [labels**2 * (2 + 0.002 * rows) < rows * 100 * 101 * 100 for rows, labels in asked]
        assert sorted(pays) == [False, True, True, True]
    else:
        assert asked == [(1024, 1000), (1024, 20_000), (4096, 20_000)]


def test_sc_sigmoid_loss_runs_what_its_targets_are_stated_for(monkeypatch):
    asked = []
    record = lambda *arguments, **_: asked.append(arguments[:3])  # noqa: E731
    monkeypatch.setattr(bench_sc_sigmoid_loss, "case", record)
    list(bench_sc_sigmoid_loss.cases(torch.device("cuda"), quick=True))
    batches = (64, 256, 1024, 4096)
    assert sorted(asked) == [(rows, 100_000, torch.bfloat16) for rows in batches]
