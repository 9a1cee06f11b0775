"""SE-ResNets in inference: the operator computes the last norm of each branch."""

import copy
import warnings

import pytest
import torch
from patched import Calls, called, count, lively
from torch import nn

from fastheads.models import SEResidual, senet

NORMS = 1 + 2 * 3 + 2  # the stem's, each block's, and of two projections


def network(**options):
    """Three blocks, the first with the identity as its shortcut, in float64."""
    torch.manual_seed(0)
    options = {"blocks": (1, 1, 1), "width": 8, "reduction": 2, "small": True, **options}
    return lively(senet(18, 3, 2, **options)).eval()


def images(batch=3, dtype=torch.float64):
    return torch.randn(batch, 2, 13, 12, generator=torch.Generator().manual_seed(1), dtype=dtype)


def folded(model, x):
    with torch.no_grad():
        return model(x)


def unfolded(model, x):
    """Nothing is folded where weights need gradients."""
    return model(x).detach()


def norms_run(counts):
    return sum(n for name, n in counts.items() if "batch_norm" in name)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("options", [{}, {"expansion": 2}, {"reduction": "log"}], ids=str)
def test_the_same_function(options, batch):
    model, x = network(**options), images(batch)
    torch.testing.assert_close(folded(model, x), unfolded(model, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_accurate_as_two_layers(dtype):
    model, x = network().to(dtype), images(16, dtype)
    exact = unfolded(copy.deepcopy(model).double(), x.double())
    errors = [(f(model, x) - exact).abs().max().item() for f in (folded, unfolded)]
    assert errors[0] <= 2 * errors[1] + torch.finfo(dtype).eps * exact.abs().max().item()


def test_in_inference_only():
    model, x = network(), images()
    counts = count(model, x)  # without gradients
    assert norms_run(counts) == NORMS - 3 and counts["squeeze_excite_"] == 3
    with Calls() as calls:
        model(x)
    assert norms_run(calls.counts) == NORMS and calls.counts["squeeze_excite_"] == 0
    counts = count(model.train(), x)
    assert norms_run(counts) == NORMS and counts["squeeze_excite_"] == 0


def retrained(model):
    with torch.no_grad():
        model.train()(images(4) + 1)
    model.eval()


def loaded(model):
    state = {name: t + 0.1 * (t.dim() > 0) for name, t in model.state_dict().items()}
    model.load_state_dict(state)


def scaled(model):
    model.stages[1][0].branch[4].weight.data.mul_(2)


def looser(model):
    model.stages[0][0].branch[4].eps = 0.5


def without_norm(model):
    model.stages[2][0].branch[4] = nn.Identity()


@pytest.mark.parametrize("change", [retrained, loaded, scaled, looser, without_norm])
def test_what_changes_between_calls_is_seen(change):
    model, x = network(), images()
    before = folded(model, x)
    change(model)
    after = folded(model, x)
    assert not torch.allclose(after, before, rtol=1e-3)
    torch.testing.assert_close(after, unfolded(model, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("place", ["branch", "branch.3", "branch.4", "se", "shortcut"])
def test_hooks_see_what_they_would(place):
    """Also what they keep of it is not overwritten."""
    model, x, seen = network(), images(), []
    module = model.stages[1][0].get_submodule(place)
    handle = module.register_forward_hook(lambda m, *call: seen.append(call), with_kwargs=True)
    expected, result = unfolded(model, x), folded(model, x)
    handle.remove()
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    (wanted_args, wanted_options, wanted), (args, options, y) = seen
    assert options == wanted_options
    for got, other in zip((*args, y), (*wanted_args, wanted), strict=True):
        torch.testing.assert_close(got, other.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(folded(lambda x: module(x, *args[1:], **options), args[0]), y)


def test_hooks_on_all_modules_see_the_norms():
    modules = called(network(), images())
    assert [f"stages.{i}.0.branch.4" in modules for i in range(3)] == [True] * 3


def test_the_input_of_a_block_stays():
    for block in (m for m in network().modules() if isinstance(m, SEResidual)):
        x = torch.randn(2, block.branch[0].in_channels, 5, 5, dtype=torch.float64)
        x = x.to(memory_format=torch.channels_last)
        kept = x.clone()
        folded(block, x)
        assert torch.equal(x, kept)


@pytest.mark.parametrize("branch", [nn.Sequential(nn.BatchNorm2d(4)), nn.BatchNorm2d(4)])
def test_other_branches(branch):
    """Without a convolution before the norm there is nothing to write over."""
    block = lively(SEResidual(branch, network().stages[0][0].se)).eval()
    block.se = type(block.se)(4, 2).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(folded(block, x), unfolded(block, x), rtol=1e-12, atol=1e-12)


def test_compiles_and_exports():
    model, x = network(), images()
    expected = unfolded(model, x)
    with torch.no_grad():
        compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-10, atol=1e-10)
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), expected, rtol=1e-10, atol=1e-10)


def test_under_vmap():
    """Which takes no operator that writes over its input."""
    block = network().stages[0][0]
    x = torch.randn(2, 3, 8, 5, 5, dtype=torch.float64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is slow
        found = torch.func.vmap(block)(x)
    expected = torch.stack([unfolded(block, part) for part in x])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_inference_mode():
    model, x = network(), images()
    with torch.inference_mode():
        result = model(x)
    torch.testing.assert_close(result.clone(), unfolded(model, x), rtol=1e-12, atol=1e-12)
