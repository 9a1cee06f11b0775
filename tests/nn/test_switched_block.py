"""Blocks with switches: what is computed, which way the gradient goes, what is left behind."""

import copy
import itertools
import pickle

import pytest
import torch
from residual_networks import SHORT, identity, images, lively, short, small
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from fastheads.losses import softmax_cross_entropy
from fastheads.models import resnet, vgg15
from fastheads.nn import (
    StochasticDepth,
    plain_layers,
    require_residual_blocks,
    residual_blocks,
    scale_branches,
    switched,
)
from fastheads.targets import SparseTargets
from fastheads.training import TrainConfig, fit


@pytest.mark.parametrize("name", SHORT)
def test_open_is_the_network_itself(name):
    model, x = short(name).eval(), images(32, 2)
    with torch.inference_mode():
        expected = model(x)
        with switched(model) as blocks:
            assert len(blocks) == len(residual_blocks(short(name))[0])
            assert torch.equal(model(x), expected)
            blocks[-1].open = False
            assert not torch.equal(model(x), expected)


def test_closed_open_and_scaled_by_hand():
    """Section 4.3.1: y' is the shortcut; act(y + s f(y)) with y = -1 and 1, f(y) = 2 y."""
    model = nn.Sequential(nn.Identity(), small().stages[0][0])
    block = model[1]
    block.branch = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(block.branch.weight, 2)
    x = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)

    def results(relu):
        block.relu = relu
        with switched(model) as (switch,):
            yield model(x).flatten().tolist()
            switch.scale = 0.5
            yield model(x).flatten().tolist()
            switch.open = False
            yield model(x).flatten().tolist()

    assert list(results(relu=False)) == [[-3, 3], [-2, 2], [-1, 1]]
    assert list(results(relu=True)) == [[0, 3], [0, 2], [0, 1]]


def test_a_closed_branch_does_not_run():
    model = small()
    calls = []
    for block in residual_blocks(model)[0]:
        block.branch[0].register_forward_hook(lambda m, x, y: calls.append(m))
    with switched(model) as blocks:
        blocks[1].open = False
        model(images())
        assert calls == [blocks[0].branch[0], blocks[2].branch[0]]


@pytest.mark.parametrize("preactivation", [False, True])
def test_all_paths_together_carry_the_whole_gradient(preactivation):
    """Equations 4.4 to 4.6: each path is a choice in every block, and there are 2^n of them."""
    model = small(blocks=(2, 2), preactivation=preactivation).double().eval()
    x = images(dtype=torch.float64).requires_grad_()

    def gradient():
        y = model(x)
        return y.detach(), *torch.autograd.grad(y.square().sum(), x)

    output, whole = gradient()
    with switched(model) as blocks:
        total = torch.zeros_like(whole)
        for path in itertools.product(["branch", "shortcut"], repeat=len(blocks)):
            for block, way in zip(blocks, path, strict=True):
                block.gradient = way
            y, along = gradient()
            assert torch.equal(y, output)
            assert float(along.abs().max()) > 0
            total += along
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=1e-12 * float(whole.abs().max()))


def test_one_path_by_hand():
    """Equation 4.6 with f_i(y) = w_i y: the path through blocks 1 and 3 has gradient w_1 w_3."""
    weights = [2.0, 3.0, 5.0]
    blocks = []
    for weight in weights:
        block = small(preactivation=True).stages[0][0]
        block.branch = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(block.branch.weight, weight)
        blocks.append(block)
    model = nn.Sequential(*blocks)
    x = torch.ones(1, 1, 1, 1, requires_grad=True)
    with switched(model) as switches:
        for switch, way in zip(switches, ["branch", "shortcut", "branch"], strict=True):
            switch.gradient = way
        y = model(x)
    assert y.item() == 3 * 4 * 6
    assert torch.autograd.grad(y, x)[0].item() == 2 * 5


def vgg():
    torch.manual_seed(0)
    return lively(vgg15(3, width=4)).eval()


def test_plain_layers():
    model, x = vgg(), images(16)
    expected = model(x)
    with switched(model, plain_layers(model)) as layers:
        assert torch.equal(model(x), expected)
        layers[2].open = False
        got = model(x)
    without = vgg()
    without.features[4] = nn.Identity()  # behind two layers, a pool and one layer
    assert torch.equal(got, without(x))


def test_plain_layers_of_torchvision():
    torch.manual_seed(0)
    features = lively(make_layers(cfgs["B"][:6], batch_norm=True)).eval()
    model, x = nn.Sequential(features), images(16)
    before, expected = identity(model), model(x)
    with switched(model, plain_layers(model)) as layers:
        assert [layer.block.name for layer in layers] == ["0.3", "0.10"]
        assert torch.equal(model(x), expected)
        layers[1].open = False
        closed = model(x)
    assert torch.equal(closed, features[13](features[:10](x)))
    assert identity(model) == before


@pytest.mark.parametrize("name", ["timm seresnet50", "torchvision resnet18", "resnet"])
def test_restored_exactly(name):
    model = short(name)
    hooks = [m.register_forward_hook(lambda m, x, y: None) for m in model.modules()]
    before = identity(model)
    with switched(model) as blocks:
        assert [id(p) for p in model.parameters()] == [i for _, i in before[1]]
        blocks[0].open = False
    assert identity(model) == before
    with pytest.raises(KeyError), switched(model):
        raise KeyError
    assert identity(model) == before
    assert len(hooks) == len(before[0])


def test_the_mode_goes_in_and_out():
    model = small().train()
    first, second, _ = require_residual_blocks(model)
    first.branch[1].eval()
    first.module.training = False
    with switched(model) as blocks:
        assert [b.training for b in blocks] == [False, True, True]
        assert [m.training for m in first.branch] == [True, False, True, True, True]
        model.eval()
    assert not any(m.training for m in model.modules())
    assert not second.module.training


def test_blocks_of_another_network():
    model, other = small(), small()
    before = identity(model)
    for blocks in (residual_blocks(other)[0], residual_blocks(short("torchvision resnet18"))[0]):
        with (
            pytest.raises(ValueError, match="those of the model now, got"),
            switched(model, blocks),
        ):
            pass
    assert identity(model) == before


def test_stochastic_depth_trains_on_the_open_blocks():
    """Huang et al., equation 2: relu(b f(y) + y), one b for the batch."""
    network = small(blocks=(3, 3))
    model = StochasticDepth(network).train()
    torch.manual_seed(3)
    seen = set()
    for _ in range(8):
        state = torch.get_rng_state()
        model.zero_grad()
        model(images()).sum().backward()
        torch.set_rng_state(state)
        expected = (torch.rand(6) < torch.tensor(model.survival)).tolist()
        switches = model.switches()
        assert [s.open for s in switches] == expected and {s.scale for s in switches} == {1.0}
        trained = [s.branch[0].weight.grad is not None for s in switches]
        assert trained == expected
        seen.add(tuple(expected))
    assert len(seen) > 2


def test_survival_falls_linearly():
    """Huang et al., equation 4: p_l = 1 - l / L (1 - p_L), with p_L = 0.5."""
    model = StochasticDepth(small(blocks=(2, 3)))
    assert model.survival == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])


def test_stochastic_depth_scales_in_evaluation():
    """Huang et al., equation 5: the branch times its survival probability."""
    network, x = small().eval(), images()
    survival = [1.0, 0.5, 0.25]
    with switched(network) as blocks:
        for block, p in zip(blocks, survival, strict=True):
            block.scale = p
        expected = network(x)
    model = StochasticDepth(network, survival)
    assert not model.training
    assert torch.equal(model(x), expected)


def test_exactly_so_many_blocks():
    """Section 4.4.3: 23 of 54 modules in each batch, here 2 of 5, and nothing is scaled."""
    network, x = small(blocks=(2, 3)), images()
    expected = copy.deepcopy(network).eval()(x)
    model = StochasticDepth(network, exactly=2)
    state = copy.deepcopy(network.state_dict())
    torch.manual_seed(0)
    times = torch.zeros(5)
    for _ in range(60):
        model(x)
        chosen = torch.tensor([s.open for s in model.switches()])
        assert int(chosen.sum()) == 2
        times += chosen
    assert times.min() > 10
    network.load_state_dict(state)
    assert torch.equal(model.eval()(x), expected)
    assert all(s.open and s.scale == 1 for s in model.switches())


def test_released():
    network = small()
    before = identity(network)
    model = StochasticDepth(network)
    model(images())
    assert model.release() is network
    (modules, *rest), (modules_before, *rest_before) = identity(network), before
    assert rest == rest_before and [m[:3] for m in modules] == [m[:3] for m in modules_before]
    assert model.switches() == [] and torch.equal(model.eval()(images()), network(images()))
    assert model.release() is network


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(again):
    model = StochasticDepth(small().eval())
    other = again(model)
    assert torch.equal(model(images()), other(images()))
    own = {id(p) for p in other.parameters()}
    assert own.isdisjoint(id(p) for p in model.parameters())
    released = other.release()
    assert {id(p) for p in released.parameters()} == own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"survival": [0.5, 0.5]}, "3 probabilities, got 2"),
        ({"survival": [0.5, 0.0, 1.0]}, r"in \(0, 1\], got \[0.5, 0.0, 1.0\]"),
        ({"survival": [0.5, 1.5, 1.0]}, r"in \(0, 1\]"),
        ({"exactly": 0}, "between 1 and 3, got 0"),
        ({"exactly": 4}, "between 1 and 3, got 4"),
        ({"exactly": 1, "survival": [1.0] * 3}, "got both"),
    ],
)
def test_stochastic_depth_rejects(options, message):
    network = small()
    before = identity(network)
    with pytest.raises(ValueError, match=message):
        StochasticDepth(network, **options)
    assert identity(network) == before


class Pictures:
    def __len__(self):
        return 24

    def __getitems__(self, rows):
        return images(count=24)[rows], SparseTargets.from_lists([[row % 3] for row in rows])


def test_killed_and_continued(tmp_path):
    """The choices come from a generator that training restores."""

    class Killed(Exception):
        pass

    def run(folder, dies_at=None):
        model = StochasticDepth(small(blocks=(3, 2)), exactly=3)
        steps = []

        def die(module, inputs):
            steps.append([s.open for s in model.switches()])
            if len(steps) == dies_at:
                raise Killed

        model.network.register_forward_pre_hook(die)
        config = TrainConfig(
            epochs=3, batch_size=8, lr=0.01, accelerator="cpu", checkpoint_seconds=0, log_every=2,
            threads=1,
        )  # fmt: skip
        fit(model, Pictures(), softmax_cross_entropy, config, folder=folder, quiet=True)
        return steps, model.release().state_dict()

    steps, expected = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", dies_at=6)
    rest, state = run(tmp_path / "killed")
    assert 0 < len(rest) < len(steps) and rest == steps[-len(rest) :]
    assert len({tuple(choice) for choice in steps}) > 2
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("preactivation", [False, True])
def test_scale_branches(preactivation):
    """The same as blocks that are switched to these scales, also where a norm ends the branch."""
    model = resnet((1, 2), (4, 8), num_labels=3, preactivation=preactivation).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias)
    x, factors = torch.randn(2, 3, 8, 8), [0.9, 0.5, 0.25]
    with torch.no_grad(), switched(model) as switches:
        for switch, factor in zip(switches, factors, strict=True):
            switch.scale = factor
        expected = model(x)
    scale_branches(model, factors)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)


def test_scale_branches_rejects():
    model = resnet((1,), (4,), num_labels=3)
    model.stages[0][0].branch.append(nn.Sigmoid())
    with pytest.raises(ValueError, match=r"stages\.0\.0 must end in a convolution or .*Sigmoid"):
        scale_branches(model, [0.5])
