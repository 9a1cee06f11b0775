import pytest
import torch
from torch import nn

from fastheads.losses import weight_penalty


def test_l1_by_hand_section_5_2_2():
    """The sum of |w_m|, over weights and not over biases; its gradient is their signs."""
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.5]], requires_grad=True)
    kernel = torch.full((2, 1, 1, 2), -0.25, requires_grad=True)
    bias = torch.tensor([7.0, -7.0], requires_grad=True)
    penalty = 0.1 * weight_penalty([weight, kernel, bias])
    assert penalty.item() == pytest.approx(0.1 * (3.5 + 1.0))
    penalty.backward()
    torch.testing.assert_close(weight.grad, torch.tensor([[0.1, -0.1], [0.0, 0.1]]))
    torch.testing.assert_close(kernel.grad, torch.full_like(kernel, -0.1))
    assert bias.grad is None


def test_l2_is_weight_decay_section_5_2_2():
    """A step with weight decay 2 lambda is one on the loss and lambda sum w^2."""
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    decayed, penalized = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
    penalized.load_state_dict(decayed.state_dict())
    for layer, decay, strength in [(decayed, 0.2, 0.0), (penalized, 0.0, 0.1)]:
        loss = layer(features).square().sum() + strength * layer.weight.square().sum()
        loss.backward()
        torch.optim.SGD(layer.parameters(), lr=0.01, weight_decay=decay).step()
    torch.testing.assert_close(decayed.weight, penalized.weight)


def test_pushes_useless_weights_to_zero():
    """The target needs one feature of two; the penalty takes the other's weight away."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, generator=generator)
    layer = nn.Linear(2, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        fit = (layer(x)[:, 0] - 2 * x[:, 0]).square().mean()
        (fit + 0.2 * weight_penalty(layer.parameters())).backward()
        optimizer.step()
    needed, useless = layer.weight[0].tolist()
    assert abs(useless) < 0.02 and 1.8 < needed < 2


def test_sums_in_float32():
    weights = torch.full((1000, 10), 0.1, dtype=torch.bfloat16, requires_grad=True)
    penalty = weight_penalty([weights])
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(penalty.item(), 10_000 * weights[0, 0].item())
    penalty.backward()
    assert weights.grad.dtype == torch.bfloat16 and (weights.grad == 1).all()


def test_without_weights():
    assert weight_penalty(nn.BatchNorm2d(3).parameters()).item() == 0
