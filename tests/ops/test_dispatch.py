"""A compiler chooses the layout of what our operators read between convolutions."""

import re
import warnings

import pytest
import torch
import torch._inductor.config
from torch._inductor.utils import run_and_get_code
from torch.nn import functional as F

from fastheads.ops import dispatch, gate, gated_residual


def gated(x, kernel, z, *_):
    f = F.conv2d(x, kernel)
    return gated_residual(F.conv2d(f, kernel), f, z, relu=True)


def decided(x, kernel, _, weight1, weight2):
    return gate(F.conv2d(x, kernel), weight1, None, weight2, None, soft=True)[0]


@pytest.mark.parametrize("network", [gated, decided])
@pytest.mark.filterwarnings("ignore")
def test_compiler_chooses_the_layout(network):
    inputs = [torch.randn(s) for s in [(2, 32, 8, 8), (32, 32, 1, 1), (2,), (4, 32), (2, 4)]]
    # The cache on disk does not tell code of other tags apart.
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        y, (code,) = run_and_get_code(torch.compile(network, fullgraph=True), *inputs)
        torch.testing.assert_close(y, network(*inputs), rtol=1e-4, atol=1e-4)
    before = re.split(r"\n [^#\n]*ops\.fastheads\.gate", code)[0]
    # inductor computes convolutions channels-last
    assert len(re.findall(r"(?m)^ +cpp_fused\w+\(", before)) == 1, "x is converted, nothing else"


def test_autograd_is_entered_only_where_a_gradient_is_needed(monkeypatch):
    entered = []
    guard = torch._C._AutoDispatchBelowAutograd
    monkeypatch.setattr(
        dispatch, "_AutoDispatchBelowAutograd", lambda: entered.append("below") or guard()
    )
    x, z = torch.randn(3, 4), torch.ones(3)
    leaf = x.clone().requires_grad_()
    assert not gated_residual(x, x, z).requires_grad and entered == ["below"]
    assert gated_residual(leaf, x, z).requires_grad and entered == ["below"]
    with torch.no_grad():
        assert not gated_residual(leaf, x, z).requires_grad and entered == ["below"] * 2


def test_transforms_see_the_operators():
    """Also where what they wrap needs no gradient."""
    x, z = torch.randn(5, 3, 4), torch.ones(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is slow
        y = torch.func.vmap(lambda x: gated_residual(x, x, z))(x)
    assert torch.equal(y, x + x)
