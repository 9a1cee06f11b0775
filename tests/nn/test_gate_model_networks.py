"""Networks of torchvision and timm with all gates open, ungated again, and patched besides."""

import copy

import pytest
import torch
from residual_networks import SHORT, identity, images, short

from fastheads.nn import (
    force_gates,
    gate_model,
    gated_blocks,
    patch,
    residual_blocks,
    ungate,
    unpatch,
)


def results(model, x, wanted=()):
    """Output and gradients; the same random numbers each time."""
    torch.manual_seed(1)
    y = model(x)
    return [y, *torch.autograd.grad(y.square().sum(), wanted)] if wanted else [y]


@pytest.mark.parametrize("name", SHORT)
def test_all_gates_open_is_the_network_itself(name):
    model, x = short(name), images(32, 3)
    plain = copy.deepcopy(model)
    wanted, expected = list(model.parameters()), list(plain.parameters())
    report = gate_model(model)
    assert len(report.gated) == len(gated_blocks(model)) == len(residual_blocks(plain)[0])
    model.eval()
    plain.eval()
    with torch.no_grad(), force_gates(model, 1.0):
        assert torch.equal(model(x), plain(x))
    with force_gates(model, 1.0):
        for pair in zip(results(model, x, wanted), results(plain, x, expected), strict=True):
            torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-5)
        # In training too: the statistics of a batch, drop path.
        for pair in zip(results(model.train(), x), results(plain.train(), x), strict=True):
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)
    ungate(model)
    got, expected = model.state_dict(), plain.state_dict()
    assert list(got) == list(expected)
    for key in expected:
        torch.testing.assert_close(got[key], expected[key])


@pytest.mark.parametrize("name", SHORT)
def test_ungated_without_a_trace(name):
    model = short(name).train()
    seen = []
    for block in residual_blocks(model)[0]:
        block.module.register_forward_hook(lambda m, x, y: seen.append("block"))
        list(block.branch.children())[-1].register_forward_hook(
            lambda m, x, y: seen.append("layer")
        )
    before = identity(model)
    gate_model(model)
    assert {id(p) for p in model.parameters()} > {i for _, i in before[1]}
    model(images(32, 2))
    count = len(gated_blocks(model))
    assert seen == ["layer"] * count  # those of the blocks rest
    ungate(model)
    assert identity(model) == before
    model(images(32, 2))
    assert seen.count("block") == count
    ungate(model)
    assert identity(model) == before


@pytest.mark.parametrize("first", ["patch", "gate"])
@pytest.mark.parametrize("last", ["unpatch", "ungate"])
def test_with_patched_squeeze_excitation(first, last):
    """The operator computes SE in gated branches too; the sum is that of the gated block."""
    model, x = short("timm seresnet50").eval(), images(32, 2)
    before = identity(model)
    with torch.no_grad():
        expected = model(x)
        if first == "patch":
            assert len(patch(model).tails) == 5
            kinds = [entry.kind for entry in gate_model(model).gated]
            assert kinds == ["Bottleneck"] * 5
        else:
            gate_model(model)
            report = patch(model)
            assert (len(report.replaced), report.tails, report.skipped) == (5, [], [])
            assert report.replaced[0].name == "layer1.0.branch.se"
        with force_gates(model, 1.0):
            torch.testing.assert_close(model(x), expected)
        for undo in (unpatch, ungate) if last == "ungate" else (ungate, unpatch):
            undo(model)
            if undo is unpatch and last == "ungate":
                with force_gates(model, 1.0):
                    assert torch.equal(model(x), expected)
        assert identity(model) == before
        assert torch.equal(model(x), expected)
