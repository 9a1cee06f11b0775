"""Tensors without numbers: what exporters, compilers and the meta device call operators with."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from fastheads import losses
from fastheads.labels import Grouping
from fastheads.nn import SCLinear, fc_sc
from fastheads.ops import sc_linear, sc_linear_, sc_sigmoid_loss, sc_sigmoid_loss_logits_
from fastheads.targets import SparseTargets

TARGETS = SparseTargets.from_lists([[0], [1]])


class Loss(nn.Module):
    def forward(self, logits: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
        return sc_sigmoid_loss_logits_(logits.clone(), SparseTargets(indices, offsets), [0, 3, 5])


def paced(logits: Tensor, targets: SparseTargets = TARGETS) -> Tensor:
    return losses.self_paced_sigmoid_cross_entropy(logits, targets, [0, 3, 5], normalize=False)


def test_an_export_leaves_nothing_behind():
    logits = torch.randn(2, 5, requires_grad=True)
    expected = torch.autograd.grad(paced(logits), logits)[0]
    for strict in (False, True):
        program = torch.export.export(
            Loss(), (torch.zeros(2, 5), TARGETS.indices, TARGETS.offsets), strict=strict
        )
        rows = program.module()(logits.detach(), TARGETS.indices, TARGETS.offsets)
        assert rows.sum() > 0
        assert torch.equal(torch.autograd.grad(paced(logits), logits)[0], expected)


def layer_loss(x: Tensor) -> Tensor:
    weight = torch.ones(10, requires_grad=True)
    return sc_sigmoid_loss(x, weight, None, TARGETS, None, [0, 3, 5])


LOSSES = [
    paced,
    lambda x: losses.multilabel_margin(x, TARGETS),
    lambda x: losses.multilabel_soft_margin(x, TARGETS),
    lambda x: layer_loss(x[:, :2]),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_backward_of_fakes(loss):
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.randn(2, 5, requires_grad=True)
        loss(x).backward()
        assert x.grad.shape == x.shape
    real = torch.randn(2, 5, requires_grad=True)
    loss(real).backward()
    assert type(real.grad) is Tensor and real.grad.any()


@pytest.mark.parametrize("loss", LOSSES[:3])
def test_gradients_can_be_traced(loss):
    def gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(2 * loss(x), x)[0]

    x = torch.randn(2, 5)
    traced = make_fx(gradient, tracing_mode="fake", _allow_non_fake_inputs=True)(x)
    torch.testing.assert_close(traced(x), gradient(x))


def test_meta_device():
    layer = SCLinear([1, 2], [2, 3], device="meta")
    x = torch.randn(2, 3, device="meta")
    assert layer(x).shape == (2, 5)
    y = torch.zeros(2, 5, device="meta")
    assert sc_linear_(y, x, layer.weight.detach(), None, [0, 1, 3], [0, 2, 5]) is y
    head = fc_sc(6, 5, 4, Grouping([1, 0, 1, 0, 2, 2, 0]), device="meta")
    assert head(torch.randn(3, 6, device="meta")).shape == (3, 7)
    logits = torch.randn(2, 5, device="meta", requires_grad=True)
    paced(logits, TARGETS.to("meta")).backward()
    assert logits.grad.is_meta


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_autocast_casts_floating_numbers_alone(dtype):
    x = torch.ones(2, 3).to(dtype)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="x must be"):
        sc_linear(x, torch.ones(15), None, None, [0, 5])
