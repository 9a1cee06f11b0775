import pytest
import torch
from torch import nn

from fastheads.metrics import cost_ratio, count_macs, count_parameters


@pytest.mark.parametrize(
    "module, shape, macs",
    [
        (nn.Linear(30, 7), (1, 30), 30 * 7),
        (nn.Linear(30, 7, bias=False), (4, 30), 4 * 30 * 7),
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 8 * 3 * 9 * 10 * 12),
        (nn.Conv2d(6, 8, 3, stride=2, bias=False), (2, 6, 9, 9), 2 * 8 * 6 * 9 * 4 * 4),
        (nn.Conv2d(8, 12, 3, groups=4), (1, 8, 6, 6), 12 * 2 * 9 * 4 * 4),
        (nn.Conv2d(8, 8, 5, groups=8, padding=2), (1, 8, 6, 6), 8 * 25 * 6 * 6),
    ],
)
def test_by_formula(module, shape, macs):
    assert count_macs(module, torch.zeros(shape)) == macs


class Batched(nn.Module):
    def forward(self, a, b):
        return torch.bmm(a, b)


def test_batched_product():
    assert count_macs(Batched(), torch.zeros(5, 2, 3), torch.zeros(5, 3, 4)) == 5 * 2 * 3 * 4


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.cheap, self.dear = nn.Linear(4, 2), nn.Linear(4, 100)

    def forward(self, x):
        return self.dear(x) if x.sum() > 0 else self.cheap(x)


def test_counts_what_is_executed():
    model = Conditional().train()
    assert count_macs(model, torch.ones(1, 4)) == 400
    assert count_macs(model, -torch.ones(1, 4)) == 8
    assert model.training and model.cheap.training


def test_evaluates_batch_norm_of_one_image():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).train()
    model[1].eval()
    assert count_macs(model, torch.zeros(1, 4)) == 4 * 3 + 3 * 2
    assert [module.training for module in model] == [True, False, True, True]


def test_parameters():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    assert count_parameters(model) == 4 * 3 + 3 + 3 * 2 + 2
    model[0].requires_grad_(False)
    assert count_parameters(model, trainable_only=True) == 8
    model.append(model[1])
    assert count_parameters(model) == 23


def test_ratio():
    """The paper's best network: 1.56 billion multiply-adds on 1.52 billion."""
    assert cost_ratio(1_560_000_000, 1_520_000_000) == "1.026x"
