"""What GatedResidual reads and overwrites: never what others may still hold."""

import copy

import pytest
import torch
from gated_blocks import ALL, NONE, SOME, accept_all, features, gated
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class EverySecond(nn.Module):
    """A shortcut that is a view of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("open_gates", [NONE, SOME, ALL])
@pytest.mark.parametrize(
    "shortcut", [nn.Conv2d(8, 8, 1, stride=2), EverySecond(), nn.AvgPool2d(1, 2)]
)
def test_shortcut(device, shortcut, open_gates, layout):
    branch = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
    x = features(open_gates, 8, 7, torch.float32).to(device, memory_format=layout)
    kept = x.clone()
    block = gated(branch=branch, shortcut=copy.deepcopy(shortcut), nonnegative=True, inplace=True)
    block.to(device, memory_format=layout)
    with torch.no_grad():
        y = block(x)
        block.mode = "dense"
        assert torch.equal(y, block(x))
    assert torch.equal(x, kept)


def test_skipped_samples_cost_nothing():
    """In place they are neither read nor written, and with no open gate the branch does not run."""
    block = gated(nonnegative=True, inplace=True)
    x = features(SOME, 8, 5, torch.float32)
    accept_all(block, x)
    x[0, 1:] = -1.0  # not what a ReLU puts out, to see that it is left alone
    x[3, 1, 2, 2] = -1e30
    before, ran = x.clone(), []
    block.branch.register_forward_hook(lambda _, args, y: ran.append(len(y)))
    with torch.no_grad():
        y = block(x)
        assert y is x and ran == [3] and block.last_executed == 3
        skipped = [0, 3, 4, 6]
        assert torch.equal(y[skipped].view(torch.int32), before[skipped].view(torch.int32))
        assert not torch.equal(y[[1, 2, 5]], before[[1, 2, 5]])
        assert block(x[skipped]).shape == (4, 8, 5, 5)
    assert ran == [3] and block.last_executed == 0


@pytest.mark.parametrize("open_gates", [SOME, ALL, [1]])
@pytest.mark.parametrize("mode", ["dense", "gather"])
@pytest.mark.parametrize("shortcut", [None, nn.Conv2d(8, 8, 1)])
@pytest.mark.parametrize("inplace", [False, True])
def test_nothing_is_overwritten_that_others_hold(device, inplace, shortcut, mode, open_gates):
    """Neither what the branch has returned, which may be kept, nor x unless it may be."""
    block = gated(shortcut=copy.deepcopy(shortcut), mode=mode, inplace=inplace).to(device)
    x = features(open_gates, 8, 5, torch.float32).to(device)
    accept_all(block, x)
    kept, held = x.clone(), []
    block.branch.register_forward_hook(lambda _, args, y: held.append((y.detach(), y.clone())))
    with torch.no_grad():
        y = block(x)
    ((f, before),) = held
    assert torch.equal(f, before) and y.data_ptr() != f.data_ptr()
    assert torch.equal(x, kept) or (inplace and y is x)


@pytest.mark.parametrize("open_gates", [SOME, ALL, [1]])
@pytest.mark.parametrize("mode", ["dense", "gather"])
@pytest.mark.parametrize("inplace", [False, True])
def test_branch_that_returns_its_input(inplace, mode, open_gates):
    block = gated(branch=nn.Identity(), mode=mode, inplace=inplace)
    x = features(open_gates, 8, 5, torch.float32)
    accept_all(block, x)
    expected = x * (1 + torch.tensor(open_gates).view(-1, 1, 1, 1))
    with torch.no_grad():
        assert torch.equal(block(x), expected)
