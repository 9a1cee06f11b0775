"""Lesions of small networks against what they must be by hand; models are left as they were."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fastheads.losses import softmax_cross_entropy
from fastheads.models.resnet import resnet
from fastheads.models.vgg import vgg15
from fastheads.nn.residual_blocks import require_residual_blocks
from fastheads.pipelines.lesion_studies import (
    deleted,
    draw_orders,
    draw_pictures,
    draw_sets,
    error_rate,
    interchangeable,
    lesionable_blocks,
    order_correlation,
    path_gradient,
    reordered,
)
from fastheads.targets import SparseTargets

IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
TARGETS = SparseTargets.from_lists([[0], [1, 3], [2]])


def network(blocks=(3, 2), widths=(4, 6), preactivation=True, shortcut="pad"):
    """In eval mode, with batch norm statistics that are no identity."""
    torch.manual_seed(0)
    model = resnet(blocks, widths, num_labels=5, in_channels=1,
                   preactivation=preactivation, shortcut=shortcut)  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def zeroed(model, index):
    """A copy whose branch ``index`` puts out nothing: its last layer is 0."""
    other = copy.deepcopy(model)
    last = [*require_residual_blocks(other)[index].branch.children()][-1]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return other


def logits(model):
    with torch.no_grad():
        return model(IMAGES)


@pytest.mark.parametrize("preactivation", [True, False])
@pytest.mark.parametrize("shortcut", ["pad", "projection"])
@pytest.mark.parametrize("index", range(5))
def test_deleting_a_block_leaves_its_shortcut(preactivation, shortcut, index):
    """Section 4.3.1: y = shortcut(x); block 3 downsamples and keeps its projection."""
    model = network(preactivation=preactivation, shortcut=shortcut)
    blocks = require_residual_blocks(model)
    if not preactivation:  # the last layer is a norm, whose statistics give 0 with its weights
        norm = [*blocks[index].branch.children()][-1]
        norm.running_mean.zero_()
    expected = logits(zeroed(model, index))
    whole = logits(model)
    with deleted(model, blocks, [index]):
        assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model), whole) and not torch.equal(whole, expected)


def test_deleting_many_blocks():
    model = network()
    expected = logits(zeroed(zeroed(zeroed(model, 0), 3), 4))
    with deleted(model, require_residual_blocks(model), [0, 3, 4]):
        assert torch.equal(logits(model), expected)


def test_deleting_a_plain_layer():
    """VGG has a single path: the layer's input is its output."""
    torch.manual_seed(0)
    model = vgg15(5, 1, 4).eval()
    images = torch.randn(2, 1, 16, 16)
    layers = lesionable_blocks(model)
    assert len(layers) == 13 and all(layer.plain for layer in layers)
    without = copy.deepcopy(model)
    parent, _, last = layers[4].name.rpartition(".")
    setattr(without.get_submodule(parent), last, nn.Identity())
    with torch.no_grad():
        expected = without(images)
        with deleted(model, layers, [4]):
            assert torch.equal(model(images), expected)


def test_error_rate_by_hand():
    """Best labels 1, 0, 2, 2; a picture without labels does not count."""
    scores = torch.tensor([[0.0, 1, 0], [2, 1, 0], [0, 0, 1], [0, 1, 3]])
    targets = SparseTargets.from_lists([[0, 1], [1], [2], []])
    assert error_rate(nn.Identity().eval(), [(scores, targets)]) == pytest.approx(1 / 3)
    halves = [(scores[:2], targets.select(torch.arange(2))),
              (scores[2:], targets.select(torch.arange(2, 4)))]  # fmt: skip
    assert error_rate(nn.Identity().eval(), halves) == pytest.approx(1 / 3)


@given(st.integers(1, 30), st.data())
def test_drawn_sets(blocks, data):
    size, seed = data.draw(st.integers(0, blocks)), data.draw(st.integers(0, 9))
    sets = draw_sets(blocks, size, 4, seed)
    assert len(sets) == 4 and sets == draw_sets(blocks, size, 4, seed)
    for each in sets:
        assert len(each) == size == len(set(each)) and each == sorted(each)
        assert all(0 <= index < blocks for index in each)


def test_drawn_sets_are_uniform():
    counts = np.bincount(np.ravel(draw_sets(10, 3, 2000, 0)), minlength=10)
    assert abs(counts / 2000 - 0.3).max() < 0.05  # five standard deviations
    assert draw_sets(10, 3, 5, 0) != draw_sets(10, 3, 5, 1)


@given(st.integers(1, 40), st.integers(0, 5))
def test_drawn_orders_exchange_compatible_blocks_alone(swaps, seed):
    groups = [[0, 1, 2], [4, 5]]
    for order in draw_orders(7, groups, swaps, 3, seed):
        assert sorted(order) == list(range(7)) and order[3] == 3 and order[6] == 6
        assert sorted(order[:3]) == [0, 1, 2]
        moved = sum(place != block for place, block in enumerate(order))
        assert moved == 2 if swaps == 1 else moved <= 2 * swaps


def test_kendalls_tau_by_hand():
    """Of three pairs one is exchanged: (2 - 1) / 3."""
    assert order_correlation([1, 0, 2]) == pytest.approx(1 / 3)
    assert order_correlation([0, 1, 2, 3]) == pytest.approx(1)
    assert order_correlation([3, 2, 1, 0]) == pytest.approx(-1)


def test_reordering():
    model = network(preactivation=False)
    other = copy.deepcopy(model)
    stage = other.stages[0]
    stage[0], stage[1], stage[2] = stage[2], stage[0], stage[1]
    expected, whole = logits(other), logits(model)
    with reordered(model, require_residual_blocks(model), [2, 0, 1, 3, 4]):
        assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model), whole) and not torch.equal(whole, expected)


def test_interchangeable_blocks_have_one_shape():
    model = network(blocks=(3, 2, 4), widths=(4, 4, 8))
    blocks = require_residual_blocks(model)
    assert interchangeable(model, blocks, IMAGES) == [[0, 1, 2], [6, 7, 8]]
    assert all(not block.module._forward_pre_hooks for block in blocks)
    resnet50 = torchvision.models.resnet50(num_classes=5).eval()
    groups = interchangeable(resnet50, require_residual_blocks(resnet50), torch.randn(1, 3, 32, 32))
    assert groups == [[1, 2], [4, 5, 6], [8, 9, 10, 11, 12], [14, 15]]


def chain(model):
    """What the backward pass of one path is made of, in float64: inputs, blocks, last gradient."""
    model = copy.deepcopy(model).double()
    x = model.stem(IMAGES.double()).detach()
    inputs, blocks = [], require_residual_blocks(model)
    for block in blocks:
        inputs.append(x)
        x = block.module(x).detach()
    x.requires_grad_()
    out = model.classifier(model.pool(model.norm(x)))
    (gradient,) = torch.autograd.grad(softmax_cross_entropy(out, TARGETS), x)
    return model, inputs, blocks, gradient


def along(inputs, blocks, gradient, path):
    """The product of the Jacobians of the branches in ``path`` and the shortcuts of the others."""
    for index in reversed(range(len(blocks))):
        block, x = blocks[index], inputs[index].clone().requires_grad_()
        shortcut = x if block.shortcut is None else block.shortcut(x)
        branch = block.branch(x)
        if block.relu:
            gradient = gradient * (shortcut + branch > 0)
        y = branch if index in path else shortcut
        (gradient,) = torch.autograd.grad(y, x, gradient)
    return gradient


@pytest.mark.parametrize("preactivation", [True, False])
def test_path_gradient_is_a_product_of_jacobians(preactivation):
    """Section 4.4.2; and all paths together are the gradient of the network (equation 4.6)."""
    model = network(blocks=(2, 1), preactivation=preactivation, shortcut="projection")
    blocks = require_residual_blocks(model)
    twin, inputs, parts, last = chain(model)
    total = torch.zeros_like(inputs[0])
    for code in range(8):
        path = [index for index in range(3) if code >> index & 1]
        expected = along(inputs, parts, last, path)
        total += expected
        found = path_gradient(model, blocks, path, IMAGES, TARGETS)
        assert found == pytest.approx(float(expected.norm()), rel=1e-4) and found > 0
    start = inputs[0].clone().requires_grad_()
    out = twin.classifier(twin.pool(twin.norm(twin.stages(start))))
    (whole,) = torch.autograd.grad(softmax_cross_entropy(out, TARGETS), start)
    torch.testing.assert_close(total, whole)


def test_gradient_along_a_long_path_is_not_lost():
    """Some 1e-51, where float32 ends at 1e-45."""
    model = network(blocks=(24,), widths=(4,))
    blocks = require_residual_blocks(model)
    with torch.no_grad():
        for block in blocks:
            [*block.branch.children()][-1].weight.mul_(0.01)
    found = path_gradient(model, blocks, range(24), IMAGES, TARGETS)
    _, inputs, parts, last = chain(model)
    expected = float(along(inputs, parts, last, range(24)).norm())
    assert expected < 1e-45
    assert found == pytest.approx(expected, rel=1e-3)


def test_pictures_of_paths():
    rows = draw_pictures(20, 6, 3, 0, 4)
    assert rows == draw_pictures(20, 6, 3, 0, 4) != draw_pictures(20, 6, 3, 0, 5)
    assert all(len(set(each)) == 6 and max(each) < 20 for each in rows)
    assert len(draw_pictures(4, 6, 1, 0, 0)[0]) == 4


def state(model):
    """All that a lesion could have changed."""
    modules = {name: (id(m), type(m), m.training) for name, m in model.named_modules()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    tensors = {name: (t.data_ptr(), t._version) for name, t in model.state_dict().items()}
    grads = [(p.requires_grad, p.grad) for p in model.parameters()]
    return modules, hooks, tensors, grads


class Stops(nn.Module):
    """Ends the forward pass in the midst of a network."""

    def __init__(self, inner, error):
        super().__init__()
        self.inner, self.error, self.stop = inner, error, False

    def forward(self, x):
        if self.stop:
            raise self.error
        return self.inner(x)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
@pytest.mark.parametrize("study", ["delete", "reorder", "gradient", "shapes"])
def test_model_is_restored(study, error):
    model = network()
    model.norm = Stops(model.norm, error).eval()
    blocks = require_residual_blocks(model)
    batches = [(IMAGES, TARGETS)]

    def lesion():
        if study == "delete":
            with deleted(model, blocks, [1, 3]):
                error_rate(model, batches)
        elif study == "reorder":
            with reordered(model, blocks, [1, 0, 2, 3, 4]):
                error_rate(model, batches)
        elif study == "gradient":
            path_gradient(model, blocks, [2], IMAGES, TARGETS)
        else:
            interchangeable(model, blocks, IMAGES)

    before, whole = state(model), logits(model)
    lesion()
    assert state(model) == before
    model.norm.stop = True
    with pytest.raises(type(error)):
        lesion()
    model.norm.stop = False
    assert state(model) == before
    assert torch.equal(logits(model), whole)


def test_training_mode_is_refused():
    model = network()
    model.stages[0][1].branch[0].train()
    blocks = require_residual_blocks(model)
    message = r"model must be in evaluation mode .*got batch norm 'stages.0.1.branch.0'"
    with pytest.raises(ValueError, match=message):
        error_rate(model, [(IMAGES, TARGETS)])
    with pytest.raises(ValueError, match=message):
        path_gradient(model, blocks, [0], IMAGES, TARGETS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, b: lesionable_blocks(nn.Sequential(nn.Conv2d(1, 2, 3))),
         "model must have residual blocks that are known, got Sequential"),
        (lambda m, b: reordered(m, b, [0, 0, 1, 2, 3]).__enter__(),
         "order must hold each of the 5 blocks once"),
        (lambda m, b: draw_orders(5, [], 1, 1, 0), "two blocks that can change places, got none"),
        (lambda m, b: error_rate(m, []), "a picture with a label, got none"),
    ],
)  # fmt: skip
def test_errors(call, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        call(model, require_residual_blocks(model))


def test_plain_networks_of_torchvision():
    layers = lesionable_blocks(torchvision.models.vgg11_bn(num_classes=3))
    assert layers and all(layer.plain for layer in layers)
