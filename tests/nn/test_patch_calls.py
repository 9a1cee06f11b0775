"""What a patched model runs when it is called: one operator, and when it falls back to parts."""

import copy
import io
import warnings

import pytest
import timm
import torch
from patched import (
    Calls,
    assert_same,
    called,
    count,
    images,
    lively,
    patched_copy,
    results,
    seresnet,
)
from timm.layers.squeeze_excite import SEModule
from torch import nn

from fastheads.nn import patch, unpatch


def test_hooks_that_come_later_run():
    model = seresnet().eval()
    patch(model)
    seen = []
    blocks = [stage[0] for stage in (model.layer1, model.layer2, model.layer3)]
    for module in (blocks[0].se, blocks[1].se.fc2, blocks[2].act2):
        module.register_forward_hook(lambda module, *_: seen.append(module))
    assert count(model, images())["squeeze_excite"] == 2
    assert seen == [blocks[0].se, blocks[1].se.fc2, blocks[2].act2]


def test_hooks_on_all_modules_run():
    model = seresnet().eval()
    other, _ = patched_copy(model)
    modules = called(model, images())
    assert called(other, images()) == modules and "layer1.0.se.fc1" in modules
    assert count(other, images())["squeeze_excite"] == 4


def test_layers_that_are_exchanged_later_count():
    model = seresnet().eval()
    patch(model)
    model.layer1[0].se = nn.Identity()
    model.layer2[0].se.act = nn.GELU()
    model.layer3[0].act2 = nn.SiLU()
    plain = copy.deepcopy(model)
    unpatch(plain)
    assert_same(plain, model, images())
    assert count(model, images())["squeeze_excite"] == 2


def norms_run(model, x):
    return sum(n for name, n in count(model, x).items() if "batch_norm" in name)


def test_norms_are_folded_in_inference_only():
    model = seresnet().eval()
    x, norms = images(), norms_run(model, images())
    patch(model)
    assert norms_run(model, x) == norms - 4
    assert norms_run(model.train(), x) == norms
    model.eval().layer1[0].bn2.register_forward_hook(lambda *_: None)
    assert norms_run(model, x) == norms - 3
    with Calls() as calls:
        model(x)  # its weights need gradients
    assert sum(n for name, n in calls.counts.items() if "batch_norm" in name) == norms
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with Calls() as calls:
        model(x)
    assert sum(n for name, n in calls.counts.items() if "batch_norm" in name) == norms - 3


def test_written_over_only_where_nobody_looks():
    """In inference the operator writes over the output of the last convolution, if unseen."""
    model, x, kept = seresnet().eval(), images(), []
    patch(model)
    convolution = model.layer1[0].conv2
    assert count(model, x)["squeeze_excite_"] == 4
    hook = convolution.register_forward_hook(lambda _, args, y: kept.extend([*args, y]))
    assert count(model, x)["squeeze_excite_"] == 3
    hook.remove()
    assert torch.equal(convolution(kept[0]), kept[1])
    model.layer2[0].conv2 = nn.Sequential(model.layer2[0].conv2)
    assert count(model, x)["squeeze_excite_"] == 3
    assert count(model.requires_grad_(False), x)["squeeze_excite"] == 4


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.BatchNorm2d(64, affine=False),
        lambda: nn.BatchNorm2d(64, track_running_stats=False),
        lambda: nn.GroupNorm(4, 64),
        lambda: nn.Identity(),
    ],
    ids=["no weights", "no statistics", "group norm", "none"],
)
def test_other_norms(norm):
    model = seresnet()
    model.layer1[0].bn2 = norm().double()
    other, report = patched_copy(model)
    assert len(report.tails) == 4
    assert_same(model.eval(), other.eval(), images())
    assert_same(model, other, images(), backward=True)


def test_stochastic_depth():
    """At work in training only: then SE alone is one operator, and the same paths are dropped."""
    model = seresnet(drop_path_rate=0.5)
    other, report = patched_copy(model)
    assert len(report.tails) == 4
    assert_same(model.train(), other.train(), images(), backward=True)
    relus = count(model, images())["relu_"]
    assert count(other, images())["relu_"] == relus - 5  # in SE; the first block drops nothing
    assert count(other.eval(), images())["relu_"] == relus - 8
    assert_same(model.eval(), other, images())


def test_copies_and_pickles():
    model = seresnet().eval()
    expected, keys = model(images()), list(model.state_dict())
    patch(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert count(other, images())["squeeze_excite"] == 4
        torch.testing.assert_close(other(images()), expected)
        assert list(other.state_dict()) == keys
        assert not {id(p) for p in other.parameters()} & {id(p) for p in model.parameters()}
        unpatch(other)
        assert count(other, images())["squeeze_excite"] == 0
        torch.testing.assert_close(other(images()), expected, rtol=0, atol=0)


def test_replicas():
    """As data parallelism makes them: other weights in a shallow copy."""
    module = SEModule(8).double()
    patch(module)
    replica = module._replicate_for_data_parallel()
    replica.fc1 = nn.Conv2d(8, 8, 1).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    expected = copy.deepcopy(replica)
    unpatch(expected)
    torch.testing.assert_close(replica(x), expected(x))
    assert not torch.allclose(replica(x), module(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["seresnet", "test_efficientnet"])
def test_lower_precision_and_channels_last(name, dtype):
    """No further from float64 than twice the library; patched before or after the change."""
    model = seresnet() if name == "seresnet" else lively(timm.create_model(name))
    exact = results(model.eval(), images())["output"]
    x = images(dtype).to(memory_format=torch.channels_last)
    early, _ = patched_copy(model)
    late = copy.deepcopy(model)
    for m in (early, late):
        m.to(dtype).to(memory_format=torch.channels_last)
    plain = results(late, x)["output"]
    patch(late)
    for other in (early, late):
        y = results(other, x)["output"]
        assert y.dtype == dtype
        bound = 2 * (plain - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()
        assert (y - exact).abs().max() <= bound


def test_layout_is_kept():
    block = timm.create_model("seresnet18").layer1[0].eval()
    patch(block)
    x = torch.randn(2, 64, 5, 7).to(memory_format=torch.channels_last)
    for module in (block, block.se):
        assert module(x).is_contiguous(memory_format=torch.channels_last)


def test_autocast():
    model = seresnet().float()
    other, _ = patched_copy(model)
    x = images(torch.float32)
    exact = results(model.double().eval(), images())["output"]
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        plain, y = (results(m.eval(), x)["output"] for m in (model, other))
    assert y.dtype == plain.dtype == torch.bfloat16
    assert (y - exact).abs().max() <= 2 * (plain - exact).abs().max()


@pytest.mark.parametrize("train", [False, True])
def test_compile(train):
    """In one graph, with a batch norm folded in inference, and without a warning."""
    model = seresnet().train(train)
    other, _ = patched_copy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
        got = results(compiled, images(), backward=train)
    expected = results(model, images(), backward=train)
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, expected[name.removeprefix("_orig_mod.")])


def test_export():
    model = seresnet().eval()
    patch(model)
    program = torch.export.export(model, (images(),))
    called = [str(node.target) for node in program.graph.nodes]
    assert sum("fastheads.squeeze_excite" in name for name in called) == 4
    torch.testing.assert_close(program.module()(images()), model(images()))
