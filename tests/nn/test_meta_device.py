"""Modules that are built on the meta device and get their weights later, in all usual ways."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fastheads.labels import Grouping
from fastheads.nn import AugmentedClassifier, Gate, GroupHeads, fc_sc, sc_sc

GROUPING = Grouping([1, 0, 1, 0, 2, 2, 0])


def made_on(device, kind):
    torch.manual_seed(0)
    with torch.device(device):
        return {
            "fc_sc": lambda: fc_sc(6, 5, 4, GROUPING, generic=1),
            "sc_sc": lambda: sc_sc(6, 5, 4, GROUPING),
            "group heads": lambda: GroupHeads((6,), GROUPING, [[3]] * 3),
            "inside another": lambda: nn.Sequential(GroupHeads((6,), GROUPING, [[3]] * 3)),
            "gate": lambda: Gate(6),
        }[kind]()


# How weights on a device get into a module whose own are on the meta device.
WAYS = {
    "to_empty": lambda module, device, weights: module.to_empty(device=device),
    "assign": lambda module, device, weights: module.load_state_dict(weights, assign=True),
    "to_empty, twice": lambda module, device, weights: module.to_empty(device="cpu").to_empty(
        device=device
    ),
}
ways = pytest.mark.parametrize("way", WAYS)
kinds = pytest.mark.parametrize("kind", ["fc_sc", "sc_sc", "group heads", "inside another", "gate"])


@pytest.fixture(autouse=True)
def memory_that_is_not_zero():
    """Of ``torch.empty``, so that nothing is right by chance."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def outputs(module, device):
    """In training, where a gate draws noise, and in evaluation."""
    x, found = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)).to(device), []
    for training in (True, False):
        torch.manual_seed(1)
        found.append(module.train(training)(x))
    return found


@kinds
@ways
@pytest.mark.parametrize("moved", [False, True])
def test_gets_its_weights(kind, way, moved, device):
    module = made_on(device, kind)
    weights = copy.deepcopy(module.state_dict())
    skeleton = made_on("cpu", kind).to("meta") if moved else made_on("meta", kind)
    assert list(skeleton.state_dict()) == list(weights)
    WAYS[way](skeleton, device, weights)
    skeleton.load_state_dict(weights)
    assert all(t.device.type == device.type for t in (*module.buffers(), *skeleton.buffers()))
    torch.testing.assert_close(outputs(skeleton, device), outputs(module, device), rtol=0, atol=0)


def test_device_as_an_argument(device):
    head, empty = (fc_sc(6, 5, 4, GROUPING, device=place) for place in (device, "meta"))
    empty.to_empty(device=device).load_state_dict(head.state_dict())
    torch.testing.assert_close(outputs(empty, device), outputs(head, device), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["fc_sc", "group heads"])
def test_runs_on_the_meta_device(kind):
    assert [(y.shape, y.is_meta) for y in outputs(made_on("meta", kind), "meta")] == [
        (torch.Size([9, 7]), True)
    ] * 2


@pytest.mark.parametrize("kind", ["fc_sc", "group heads"])
def test_what_is_not_lost_stays(kind):
    """The addresses of a captured graph, and the order whatever the dtype."""
    module = made_on("cpu", kind)
    before = list(module.buffers())
    module.to("cpu").float().load_state_dict(module.state_dict())
    assert all(a is b for a, b in zip(before, module.buffers(), strict=True))
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        order = copied.to_empty(device="cpu").half()
        assert torch.equal(order.permutation, torch.tensor(GROUPING.permutation))
        assert torch.equal(order.position[order.permutation], torch.arange(7))


def test_group_order_of_a_classifier():
    torch.manual_seed(0)
    augmented = AugmentedClassifier(nn.Linear(8, 7), [made_on("cpu", "group heads")])
    empty = copy.deepcopy(augmented).to("meta").to_empty(device="cpu")
    empty.load_state_dict(augmented.state_dict())
    x, hidden = torch.randn(3, 6), torch.randn(3, 8)
    assert torch.equal(empty.grouped(x, hidden), augmented.grouped(x, hidden))
