"""SCLinear against a masked matrix, by hand, and through what a module must survive."""

import copy
import math
import pickle
import subprocess
import sys
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from torch import nn

from fastheads.metrics.cost import count_macs, count_parameters
from fastheads.nn import SCLinear, decompositions

KINDS = {
    "shared": (6, [3, 1, 4], 0),
    "equal": ([4, 4, 4], [4, 4, 4], 0),
    "ragged": ([3, 1, 7], [5, 2, 1], 0),
    "generic": ([3, 0, 7], [5, 2, 1], 2),
    "shared and generic": (4, [2, 3], 3),
    "generic alone": ([0, 0], [2, 3], 3),
    "empty groups": ([2, 0, 3, 0, 1], [3, 2, 0, 0, 2], 0),
    "one": ([5], [3], 0),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def layer_of(kind, bias=True, dtype=torch.float64):
    in_sizes, out_sizes, generic = KINDS[kind]
    torch.manual_seed(0)
    return SCLinear(in_sizes, out_sizes, generic=generic, bias=bias, dtype=dtype)


def inputs(layer, rows=5):
    torch.manual_seed(rows)
    dtype = layer.weight.dtype
    x = torch.randn(rows, layer.in_features, dtype=dtype)
    return x, torch.randn(rows, layer.generic, dtype=dtype) if layer.generic else None


def masked(layer):
    """The dense matrix, element by element from the flat weight."""
    shared = isinstance(layer.in_offsets, type(None))
    matrix = torch.zeros(
        layer.out_features, layer.generic + layer.in_features, dtype=layer.weight.dtype
    )
    rows, flat = [], iter(layer.weight)
    for g, (top, bottom) in enumerate(pairwise(accumulate(layer.out_sizes, initial=0))):
        start = 0 if shared else sum(layer.in_sizes[:g])
        own = range(layer.generic + start, layer.generic + start + layer.in_sizes[g])
        rows += [(row, [*range(layer.generic), *own]) for row in range(top, bottom)]
    for row, columns in rows:
        for column in columns:
            matrix[row, column] = next(flat)
    assert next(flat, None) is None
    return matrix


def test_by_hand():
    """Two outputs from [g, a], one from [g, b, c]."""
    layer = SCLinear([1, 2], [2, 1], generic=1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2, 3, 4, 5, 6, 7]))
        layer.bias.copy_(torch.tensor([0.0, 100, 200]))
    x, generic = torch.tensor([[1.0, 10, 0.1]]), torch.tensor([[1000.0]])
    torch.testing.assert_close(
        layer(x, generic), torch.tensor([[1002.0, 3104.0, 5000 + 60 + 0.7 + 200]])
    )
    assert [w.tolist() for w in layer.group_weights()] == [[[1, 2], [3, 4]], [[5, 6, 7]]]


@kinds
@pytest.mark.parametrize("bias", [True, False])
def test_is_a_masked_matrix(kind, bias):
    layer = layer_of(kind, bias)
    x, generic = inputs(layer)
    given_ = [t.requires_grad_() for t in (x, generic) if t is not None]
    wanted = [*given_, *layer.parameters()]
    y = layer(x, generic)
    read = x if generic is None else torch.cat([generic, x], 1)
    expected = read @ masked(layer).T + (0 if layer.bias is None else layer.bias)
    torch.testing.assert_close(y, expected)
    weight = torch.randn_like(y)
    got = torch.autograd.grad((y * weight).sum(), wanted)
    for a, b in zip(got, torch.autograd.grad((expected * weight).sum(), wanted), strict=True):
        torch.testing.assert_close(a, b)


@kinds
def test_part_is_columns_of_the_whole(kind):
    layer = layer_of(kind)
    x, generic = inputs(layer)
    whole, offsets = layer(x, generic), [0, *accumulate(layer.out_sizes)]
    for first in range(layer.num_groups):
        for last in range(first + 1, layer.num_groups + 1):
            part = layer.part(x, first, last, generic)
            torch.testing.assert_close(part, whole[:, offsets[first] : offsets[last]])


@kinds
@pytest.mark.parametrize("bias", [True, False])
def test_adds_to_logits(kind, bias):
    """In place, without gradients and with those of the sum; also to columns of more logits."""
    layer = layer_of(kind, bias)
    x, generic = inputs(layer)
    dense = torch.randn(5, layer.out_features, dtype=torch.float64, requires_grad=True)
    expected = dense + layer(x, generic)
    with torch.no_grad():
        wide = torch.ones(5, layer.out_features + 3, dtype=torch.float64)
        logits = wide[:, 1:-2].copy_(dense)
        assert layer.add_(logits, x, generic) is logits
        torch.testing.assert_close(wide[:, 1:-2], expected)
        assert wide[:, :1].eq(1).all() and wide[:, -2:].eq(1).all()
    added, leaves = layer.add_(dense * 1, x, generic), [dense, *layer.parameters()]
    torch.testing.assert_close(added, expected)
    grads = [torch.autograd.grad(y.square().sum(), leaves) for y in (added, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "generic" not in kind])
def test_conditional_is_a_part_of_the_whole(kind, bias):
    """Every pair of a row and a group once, in any order, and its gradients."""
    layer = layer_of(kind, bias)
    x, _ = inputs(layer)
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(layer.num_groups))
    rows, groups = pairs[torch.randperm(len(pairs))].T
    values, offsets = layer.conditional(x, groups, rows)
    whole, begins = layer(x), layer.out_offsets
    expected = [
        whole[row, begins[g] : begins[g + 1]] for row, g in zip(rows.tolist(), groups, strict=True)
    ]
    torch.testing.assert_close(values, torch.cat(expected))
    sizes = torch.tensor(layer.out_sizes)
    assert torch.equal(offsets.diff(), sizes[groups]) and offsets[0] == 0
    parameters = list(layer.parameters())
    grads = [torch.autograd.grad(y.square().sum(), parameters) for y in (values, whole)]
    torch.testing.assert_close(*grads)


def test_conditional_with_a_row_for_each_pair():
    layer = layer_of("equal")
    groups, x = torch.tensor([2, 0, 2]), torch.randn(3, 4, dtype=torch.float64)
    values, _ = layer.conditional(x, groups)
    weights, biases = layer.group_weights(), layer.bias.view(3, 4)
    expected = [weights[g] @ row + biases[g] for g, row in zip(groups.tolist(), x, strict=True)]
    torch.testing.assert_close(values, torch.cat(expected))


def test_starts_as_linear_layers_do():
    """Uniform within 1 / sqrt(fan in), the group's own."""
    torch.manual_seed(0)
    layer = SCLinear([1, 97, 0], [400, 300, 200], generic=3)
    for fan, size, weight, bias in zip(
        (4, 100), (400, 300), layer.group_weights(), layer.bias.split((400, 300, 200)), strict=False
    ):
        bound = 1 / math.sqrt(fan)
        peer = nn.Linear(fan, size)
        for ours, theirs in ((weight, peer.weight), (bias, peer.bias)):
            assert 0.97 * bound < ours.abs().max() <= bound
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.15)
    lonely = SCLinear([0], [3])  # reads nothing
    assert torch.equal(lonely(torch.empty(2, 0)), torch.zeros(2, 3))


@pytest.mark.parametrize("groups", [1, 2000])
def test_state_dict_does_not_grow(groups):
    layer = SCLinear([2] * groups, [3] * groups)
    assert {key: value.dim() for key, value in layer.state_dict().items()} == {
        "weight": 1,
        "bias": 1,
    }
    assert list(SCLinear(2, [3], bias=False).state_dict()) == ["weight"]
    again = SCLinear([2] * groups, [3] * groups)
    again.load_state_dict(layer.state_dict())
    x = torch.randn(2, 2 * groups)
    assert torch.equal(again(x), layer(x))


@kinds
@pytest.mark.parametrize("bias", [True, False])
def test_dense_and_back(kind, bias):
    layer = layer_of(kind, bias)
    dense = layer.to_dense()
    assert torch.equal(dense.weight, masked(layer))
    in_sizes, out_sizes, generic = KINDS[kind]
    sizes = {"in_sizes": in_sizes, "out_sizes": out_sizes, "generic": generic}
    again = SCLinear.from_dense(dense, **sizes)
    assert again.extra_repr() == layer.extra_repr()
    for key, value in layer.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    with torch.no_grad():  # what is between the groups is not taken
        dense.weight.masked_fill_(masked(layer) == 0, 7)
    assert torch.equal(SCLinear.from_dense(dense, **sizes).weight, layer.weight)


@pytest.mark.parametrize("number", [np.int64, np.int32, torch.tensor])
def test_sizes_of_other_kinds_of_numbers(number):
    layer = SCLinear([number(2), number(3)], [number(4), number(1)], generic=number(1))
    assert (layer.in_sizes, layer.out_sizes, layer.generic) == ((2, 3), (4, 1), 1)
    assert {type(size) for size in (*layer.in_sizes, *layer.out_sizes, layer.generic)} == {int}
    shared = SCLinear(np.int64(5), np.array([2, 1]))
    assert shared.shared_input and shared.in_features == 5 and type(shared.in_features) is int
    assert shared(torch.zeros(2, 5)).shape == (2, 3)


@kinds
def test_costs(kind):
    layer = layer_of(kind)
    macs = int((masked(layer) != 0).sum())
    assert layer.macs == macs == layer_of(kind, bias=False).num_parameters
    assert layer.num_parameters == count_parameters(layer) == macs + layer.out_features
    assert count_macs(layer, *inputs(layer, 1)) == macs


def test_copies():
    layer = layer_of("generic")
    data = inputs(layer)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(*data), layer(*data))
        with torch.no_grad():
            copied.weight.zero_()
    assert layer.weight.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    layer = layer_of("generic")
    x, generic = inputs(layer)
    exact = layer(x, generic)
    y = copy.deepcopy(layer).to(dtype)(x.to(dtype), generic.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert SCLinear([2], [3], dtype=dtype).bias.dtype == dtype
    assert copy.deepcopy(layer).half().weight.dtype == torch.float16


@kinds
def test_devices_agree(kind, device):
    layer = layer_of(kind)
    x, generic = inputs(layer, 40)
    moved = copy.deepcopy(layer).to(device)
    y = moved(x.to(device), None if generic is None else generic.to(device))
    torch.testing.assert_close(y.cpu(), layer(x, generic))


def test_autocast():
    layer = layer_of("ragged", dtype=torch.float32)
    x, _ = inputs(layer)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0, atol=0.05)


def test_meta_device_takes_no_memory():
    layer = SCLinear([4096] * 20, [50_000] * 20, device="meta")
    assert layer.macs == 4096 * 1_000_000 and layer.weight.is_meta


@kinds
def test_compiles_whole(kind):
    layer = layer_of(kind)
    x, generic = inputs(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, generic), layer(x, generic))
    compiled(x, generic).sum().backward()
    got = layer.weight.grad.clone()
    layer.zero_grad()
    layer(x, generic).sum().backward()
    torch.testing.assert_close(got, layer.weight.grad)


@kinds
def test_exports(kind):
    layer = layer_of(kind)
    data = inputs(layer)
    program = torch.export.export(layer, data)
    assert "fastheads.sc_linear" in program.graph_module.code
    plain = program.run_decompositions(decompositions())
    assert "fastheads" not in plain.graph_module.code
    for exported in (program, plain):
        torch.testing.assert_close(exported.module()(*data), layer(*data))


def test_exported_program_runs_without_fastheads(tmp_path):
    layer = layer_of("generic")
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        layer, inputs(layer), dynamic_shapes={"x": {0: batch}, "generic": {0: batch}}
    )
    torch.export.save(program.run_decompositions(decompositions()), tmp_path / "layer.pt2")
    data = inputs(layer, 9)
    torch.save((data, layer(*data)), tmp_path / "data.pt")
    code = (
        "import sys, torch\n"
        "data, expected = torch.load('data.pt')\n"
        "y = torch.export.load('layer.pt2').module()(*data)\n"
        "torch.testing.assert_close(y, expected)\n"
        "assert 'fastheads' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: SCLinear([1, 2], [3]), r"in_sizes must be .* the 1 groups of out_sizes, got 2"),
        (lambda: SCLinear([1], [-3]), "out_sizes and generic must be at least 0, got less"),
        (lambda: SCLinear(2, [3], generic=-1), "generic must be at least 0"),
        (lambda: SCLinear([2.7], [3]), r"^in_sizes\[0\] must be a whole number, got 2.7$"),
        (lambda: SCLinear([2, 3], [3, 3.9]), r"^out_sizes\[1\] must be a whole number, got 3.9$"),
        (lambda: SCLinear(2.5, [3]), "^in_sizes must hold whole numbers, got 2.5$"),
        (lambda: SCLinear(2, 3), "^out_sizes must hold whole numbers, got 3$"),
        (lambda: SCLinear(2, [3], generic=0.5), "^generic must be a whole number, got 0.5$"),
        (lambda: layer_of("ragged")(*inputs(layer_of("generic"))), "must have 0 columns, got 2"),
        (lambda: layer_of("generic")(torch.zeros(1, 10)), "must have 2 columns, got none"),
        (
            lambda: layer_of("generic").add_(torch.zeros(1, 8), torch.zeros(1, 10)),
            "generic must have 2 columns, got none",
        ),
        (
            lambda: layer_of("generic").conditional(torch.zeros(1, 10), torch.zeros(1).long()),
            "conditional must have 0 generic columns, got 2",
        ),
        (lambda: SCLinear.from_dense(nn.Linear(2, 2)), "mask, or in_sizes and out_sizes, got"),
        (
            lambda: SCLinear.from_dense(nn.Linear(2, 2), torch.ones(2, 3)),
            r"mask must be \[2, 2\] as the weight, got \[2, 3\]",
        ),
        (
            lambda: SCLinear.from_dense(nn.Linear(3, 2), in_sizes=[2], out_sizes=[2]),
            r"dense must have a weight of \[2, 2\], got \[2, 3\]",
        ),
        (
            lambda: SCLinear.from_dense(nn.Linear(4, 1), torch.tensor([[0, 1, 0, 1]])),
            r"one block of columns a group.*got columns \[1, 3\]",
        ),
        (
            lambda: SCLinear.from_dense(nn.Linear(2, 2), torch.tensor([[0, 1], [1, 0]])),
            r"right of the block before, got columns \[0\] after column 1",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
