"""Modules whose parameters and inputs are on a GPU keep to it: on fake tensors, without a GPU."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

import fastheads.nn as fnn
from fastheads import losses
from fastheads.labels import Grouping
from fastheads.ops import sc_sigmoid_loss
from fastheads.targets import SparseTargets

GROUPING = Grouping([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
OFFSETS = [0, 3, 5, 10]


def targets() -> SparseTargets:
    return SparseTargets.from_lists([[0], [1, 3], [2], [9]]).to("cuda")


class Call(nn.Module):
    """A function of a module and tensors, with the module's parameters as its own."""

    def __init__(self, function, module: nn.Module) -> None:
        super().__init__()
        self.function, self.module = function, module

    def forward(self, *tensors: Tensor):
        return self.function(self.module, *tensors)


def run(module: nn.Module, *shapes: tuple[int, ...], grad: bool = True) -> list[Tensor]:
    """What the module returns on a GPU, but for the numbers."""
    with FakeTensorMode(), torch.set_grad_enabled(grad):

        def moved(t: Tensor) -> Tensor:
            return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda")

        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        state = {name: moved(tensor) for name, tensor in state.items()}
        inputs = tuple(torch.empty(shape, device="cuda") for shape in shapes)
        return tree_leaves(functional_call(module, state, inputs))


def assert_on_gpu(outputs: list[Tensor]) -> None:
    assert outputs and all(t.device.type == "cuda" for t in outputs)


def heads() -> dict[str, nn.Module]:
    sizes = (32, 16, 16, GROUPING)
    paced = {"pacing": fnn.SelfPacedLogits(GROUPING.sizes)}
    return {
        "fc_fc": fnn.fc_fc(*sizes),
        "fc_sc": fnn.fc_sc(*sizes, generic=4, **paced),
        "sc_sc": fnn.sc_sc(*sizes, **paced),
    }


@pytest.mark.parametrize("name", ["fc_fc", "fc_sc", "sc_sc"])
def test_heads(name):
    head = heads()[name]
    assert_on_gpu(run(head, (4, 32)))
    top = Call(lambda head, x: fnn.topk_logits(head, x, 3), head)
    assert_on_gpu(run(top, (4, 32), grad=False))
    loss = Call(lambda head, x: head.loss(x, targets()), head)
    assert_on_gpu(run(loss, (4, 32)))


def test_group_heads():
    group_heads = fnn.GroupHeads((32,), GROUPING, [[4]] * 3)
    augmented = fnn.AugmentedClassifier(nn.Linear(16, 10), [group_heads])
    assert_on_gpu(run(augmented, (4, 32), (4, 16)))


def block() -> fnn.GatedResidual:
    return fnn.GatedResidual(nn.Conv2d(64, 64, 3, padding=1), fnn.Gate(64))


@pytest.mark.parametrize(
    "module", [fnn.SqueezeExcite(64), fnn.Gate(64), fnn.Gate(64).eval(), block()], ids=str
)
def test_modules_of_maps(module):
    assert_on_gpu(run(module, (2, 64, 7, 7)))


@pytest.mark.parametrize("training", [False, True])
def test_patched_networks(training):
    for name in ("seresnet50", "efficientnet_b0", "regnety_002"):
        network = timm.create_model(name).train(training)
        assert fnn.patch(network).replaced
        assert_on_gpu(run(network, (2, 3, 64, 64), grad=training))


def test_a_gated_network_in_training():
    network = timm.create_model("resnet18")
    fnn.gate_model(network)
    assert_on_gpu(run(network, (2, 3, 64, 64)))


LOSSES = {
    "multilabel_margin": losses.multilabel_margin,
    "multilabel_soft_margin": losses.multilabel_soft_margin,
    "sigmoid_cross_entropy": losses.sigmoid_cross_entropy,
    "softmax_cross_entropy": losses.softmax_cross_entropy,
    "self_paced": lambda x, t: losses.self_paced_sigmoid_cross_entropy(x, t, OFFSETS),
    "sc_sigmoid_loss": lambda x, t: sc_sigmoid_loss(
        x, torch.empty(100, device="cuda"), None, t, None, OFFSETS
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    loss = Call(lambda _, x: LOSSES[name](x, targets()), nn.Identity())
    assert_on_gpu(run(loss, (4, 10)))
