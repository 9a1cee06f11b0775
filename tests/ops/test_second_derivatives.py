"""Operators whose gradients have no gradient say so; the gate's have one, and it is right."""

import warnings

import pytest
import torch
from torch import Tensor

from fastheads.losses import sigmoid_cross_entropy, softmax_cross_entropy
from fastheads.ops import (
    csr_matmul,
    dispatch,
    gate,
    gated_residual,
    multilabel_margin,
    sc_linear,
    sc_linear_conditional,
    sc_sigmoid_loss,
    squeeze_excite,
)
from fastheads.targets import SparseTargets


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def excited(x: Tensor) -> Tensor:
    weights = normal(3, 4).to(x), None, normal(4, 3).to(x), None
    return squeeze_excite(x[:, :, None, None], *weights, relu=True)


def gated(x: Tensor) -> Tensor:
    return gated_residual(x, x.sin(), torch.ones(len(x)).to(x), relu=True)


def gated_linearly(x: Tensor) -> Tensor:
    return gated_residual(normal(3, 4).to(x), x, x[:, 0])


def linear(x: Tensor) -> Tensor:
    return sc_linear(x, x.flatten()[:8] ** 2, None, [0, 2, 4], [0, 1, 4])


def of_pairs(x: Tensor) -> Tensor:
    pairs = torch.tensor([0, 2], device=x.device), torch.tensor([1, 0], device=x.device)
    return sc_linear_conditional(x, x.flatten()[:8] ** 2, None, *pairs, [0, 2, 4], [0, 1, 4])[0]


def targets(device: torch.device) -> SparseTargets:
    return SparseTargets.from_lists([[1], [0, 3], []]).to(device)


def margin(x: Tensor) -> Tensor:
    return multilabel_margin(x, targets(x.device))


def grouped_loss(x: Tensor) -> Tensor:
    return sc_sigmoid_loss(x, normal(16).to(x), None, targets(x.device), None, [0, 2, 4])


def sigmoid_loss(x: Tensor) -> Tensor:
    return sigmoid_cross_entropy(x, targets(x.device), reduction="none")


def softmax_loss(x: Tensor) -> Tensor:
    return softmax_cross_entropy(x, targets(x.device), reduction="none")


ONCE = [
    *(excited, gated, gated_linearly, linear, of_pairs, margin),
    *(grouped_loss, sigmoid_loss, softmax_loss),
]


@pytest.fixture(params=["function", "operator"])
def route(request, monkeypatch):
    """As called, or as compilers see it: by what ``register_autograd`` makes."""
    if request.param == "operator":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        monkeypatch.setattr(dispatch, "is_compiling", lambda: True)


@pytest.mark.parametrize("function", ONCE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("inner", ["sum", "square"])
def test_a_second_derivative_is_an_error(inner, function, route, device):
    """Also of a sum, into which only constants flow from behind."""
    x = normal(3, 4).to(device).requires_grad_()

    def loss() -> Tensor:
        y = function(x)
        return y.sum() if inner == "sum" else y.square().sum()

    (expected,) = torch.autograd.grad(loss(), x)
    (grad,) = torch.autograd.grad(loss(), x, create_graph=True)
    assert torch.equal(grad, expected) and grad.requires_grad
    with pytest.raises(RuntimeError, match=r"^\w+ has no second derivative, got a graph that asks"):
        torch.autograd.grad(grad.sum() + x.sum(), x)


def test_what_no_second_derivative_needs_runs():
    """A graph of gradients through other operators."""
    x, w = normal(3, 4).requires_grad_(), normal(4).requires_grad_()
    y = (x * w.exp()).sum() + excited(w[None]).sum()
    (grad,) = torch.autograd.grad(y, x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), w)
    torch.testing.assert_close(second, 3 * w.detach().exp())


@pytest.mark.filterwarnings("ignore:Using backward")
def test_gradients_that_are_kept_may_be_changed_in_place():
    x = normal(3, 4).requires_grad_()
    excited(x).sum().backward(create_graph=True)
    with torch.no_grad():
        x.grad.mul_(2)
    x.grad.add_(1)


def test_gradcheck_of_the_gradients_of_a_gate(device):
    """They are plain PyTorch."""
    x = normal(3, 4, 2, 2).to(device).requires_grad_()
    weights = [w.to(device).requires_grad_() for w in (normal(5, 4), normal(5), normal(2, 5))]

    def probability(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor) -> Tensor:
        return gate(x, weight1, bias1, weight2, None, temperature=0.7, soft=True)[1]

    assert torch.autograd.gradgradcheck(probability, (x, *weights))


def product(x: Tensor) -> Tensor:
    crow, col = (torch.tensor(t, device=x.device) for t in ([0, 2, 3], [0, 2, 1]))
    return csr_matmul(crow, col, torch.ones(3).to(x), x)


def test_a_first_derivative_that_there_is_none_of_is_an_error(device):
    x = normal(3, 4).to(device).requires_grad_()
    y = product(x)
    with torch.no_grad():
        assert torch.equal(y, product(x))
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="has no derivative, got a"):
        warnings.simplefilter("error")
        (y.sum() + x.sum()).backward()


@pytest.mark.filterwarnings("ignore")
def test_compiled_without_asking_for_it():
    x = normal(3, 4).requires_grad_()
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), product(x))
