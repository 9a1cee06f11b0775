"""No operator has a forward-mode derivative: to ask for one is an error, and never a zero."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastheads import losses, ops
from fastheads.targets import SparseTargets

TARGETS = SparseTargets.from_lists([[0], [1]])
GROUPS = torch.tensor([0, 1])

CALLS = {
    "sc_linear": lambda x: ops.sc_linear(x, torch.ones(20), None, None, [0, 1, 5]),
    "sc_linear_conditional": lambda x: ops.sc_linear_conditional(
        x, torch.ones(20), None, GROUPS, GROUPS, None, [0, 1, 5]
    )[0],
    "gate": lambda x: ops.gate(x, torch.ones(3, 4), None, torch.ones(2, 3), None)[1],
    "gated_residual": lambda x: ops.gated_residual(x, x, torch.ones(2)),
    "multilabel_margin": lambda x: losses.multilabel_margin(x, TARGETS),
    "squeeze_excite": lambda x: ops.squeeze_excite(
        x[:, :, None, None], torch.ones(2, 4), None, torch.ones(4, 2), None
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("grad", [False, True])
def test_a_tangent_is_refused(name, grad):
    x = torch.randn(2, 4, requires_grad=grad)
    with forward_ad.dual_level():
        with pytest.raises((RuntimeError, NotImplementedError), match="forward"):
            CALLS[name](forward_ad.make_dual(x, torch.ones_like(x)))
        assert isinstance(CALLS[name](x), Tensor)  # without one


@pytest.mark.parametrize("name", CALLS)
def test_jvp_is_refused(name):
    x = torch.randn(2, 4)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(CALLS[name], (x,), (torch.ones_like(x),))
