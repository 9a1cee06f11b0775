"""What sc_linear holds on the CPU beside its results: no copy of what it reads or writes.

Seen is what PyTorch allocates, and not the few rows and weights that each thread packs at a time.
"""

from functools import partial

import pytest
import torch
from allocations import peak_bytes
from linear_groups import Layer
from torch import Tensor

from fastheads.ops import sc_linear, sc_linear_

DTYPES = [torch.float32, torch.bfloat16]


def layer_of(dtype, generic=None):
    """X, y and the weight take 1.6 MB or more; PyTorch multiplies 256 rows, and may copy."""
    return Layer(200, [1000] * 4, [1000] * 4, generic=generic, dtype=dtype)


def within_a_larger_matrix(x: Tensor) -> Tensor:
    larger = x.new_zeros(len(x), x.shape[1] + 24)
    larger[:, 8:-16] = x
    return larger[:, 8:-16]


@pytest.mark.parametrize("generic", [None, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_result_alone(dtype, generic):
    """Whether gradients are recorded or not, and where x is columns of a larger matrix."""
    layer = layer_of(dtype, generic)
    assert peak_bytes(lambda: layer(sc_linear)) == layer.grad.nbytes
    layer.x = within_a_larger_matrix(layer.x)
    assert peak_bytes(lambda: layer(sc_linear)) == layer.grad.nbytes
    layer.weight.requires_grad_()
    assert peak_bytes(lambda: layer(sc_linear)) == layer.grad.nbytes


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("generic", [None, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_in_place(dtype, generic, accumulate):
    layer = layer_of(dtype, generic)
    x, weight, bias, shared = layer.tensors()
    options = {"generic": shared, "accumulate": accumulate}
    for y in (layer.grad, within_a_larger_matrix(layer.grad)):
        arguments = (y, x, weight, bias, layer.ins, layer.outs)
        assert peak_bytes(partial(sc_linear_, *arguments, **options)) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_in_place_with_gradients(dtype):
    layer = layer_of(dtype)
    x, weight, bias, _ = layer.tensors()
    weight.requires_grad_()

    def call():
        sc_linear_(layer.grad, x, weight, bias, layer.ins, layer.outs)

    assert peak_bytes(call) == layer.grad.nbytes


@pytest.mark.parametrize("batch, read, written", [(256, 1000, 1000), (64, 16, 25_000)])
def test_gradients(batch, read, written):
    """Beside them parts of that of x: of large groups none, and few for groups of many labels."""
    layer = Layer(batch, [read] * 4, [written] * 4)
    leaves = [t.requires_grad_() for t in layer.tensors() if t is not None]
    y = layer(sc_linear)
    extra = peak_bytes(lambda: torch.autograd.grad(y, leaves, layer.grad)) - sum(
        leaf.nbytes for leaf in leaves
    )
    assert extra <= 0.1 * min(layer.weight.nbytes, layer.grad.nbytes)
