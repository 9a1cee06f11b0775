"""sc_linear_conditional against its reference and literal cases."""

from itertools import accumulate

import pytest
import torch
from accuracy import assert_as_accurate as nearly_as_accurate
from hypothesis import given
from hypothesis import strategies as st
from linear_groups import zipf
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastheads.metrics import count_bytes
from fastheads.ops import sc_linear_conditional, sc_linear_conditional_reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OP = torch.ops.fastheads.sc_linear_conditional
READ, WRITTEN = [33, 7, 0, 130], [5, 41, 8, 200]


class Pairs:
    """Random inputs and pairs; ``read`` None for a shared input of 24 columns."""

    def __init__(self, batch, pairs, read=READ, written=WRITTEN, *, bias=True, device="cpu",
                 dtype=torch.float32):  # fmt: skip
        generator = torch.Generator().manual_seed(pairs)

        def draw(*shape):
            values = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return values.to(dtype).to(device)

        widths = [24] * len(written) if read is None else read
        self.ins = None if read is None else [0, *accumulate(read)]
        self.outs = [0, *accumulate(written)]
        self.x = draw(batch, 24 if read is None else sum(read))
        self.weight = draw(sum(n * k for n, k in zip(written, widths, strict=True)))
        self.bias = draw(sum(written)) if bias else None
        self.rows = torch.randint(0, max(1, batch), (pairs,), generator=generator).to(device)
        self.groups = torch.randint(0, len(written), (pairs,), generator=generator).to(device)

    def arguments(self, dtype=None) -> tuple:
        floats = [t if t is None else t.to(dtype) for t in (self.x, self.weight, self.bias)]
        return *floats, self.rows, self.groups, self.ins, self.outs


def assert_as_accurate(pairs: Pairs) -> None:
    """Off by at most twice what eager PyTorch is, and one rounding (64 of float64, see there)."""
    values, offsets = sc_linear_conditional(*pairs.arguments())
    eager, places = sc_linear_conditional_reference(*pairs.arguments())
    exact, _ = sc_linear_conditional_reference(*pairs.arguments(torch.float64))
    assert offsets.dtype == torch.int64 and torch.equal(offsets, places)
    assert values.dtype == pairs.x.dtype and values.shape == exact.shape
    if exact.numel():
        errors = [(t.double() - exact).abs().max() for t in (values, eager)]
        roundings = 64 if pairs.x.dtype == torch.float64 else 1
        eps = torch.finfo(pairs.x.dtype).eps
        assert errors[0] <= 2 * errors[1] + roundings * eps * exact.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_by_hand(dtype, device):
    """A sample twice, a group twice, in no order."""
    x = torch.tensor([[1.0, 2, 3], [4, 5, 6]], dtype=dtype, device=device)
    weight = torch.tensor([1.0, 0, 1, 1, 10], dtype=dtype, device=device)  # [2, 2] and [1, 1]
    bias = torch.tensor([0.0, 1, 2], dtype=dtype, device=device)
    rows, groups = (torch.tensor(p, device=device) for p in ([1, 0, 1], [1, 0, 0]))
    values, offsets = sc_linear_conditional(x, weight, bias, rows, groups, [0, 2, 3], [0, 2, 3])
    assert values.tolist() == [62, 1, 4, 4, 10] and offsets.tolist() == [0, 1, 3, 5]
    compact, _ = sc_linear_conditional(x[:, :1], weight[:3], bias, None, rows[:2], None, [0, 2, 3])
    assert compact.tolist() == [3, 4, 1]


@pytest.mark.parametrize("pairs", [0, 1, 3, 70, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_accuracy(dtype, pairs, device):
    assert_as_accurate(Pairs(40, pairs, device=device, dtype=dtype))
    assert_as_accurate(Pairs(40, pairs, None, bias=False, device=device, dtype=dtype))


# Columns and labels of each group: thousands, by Zipf's law, 100,000 labels of which one group has
# 30,000 and one has one.
LARGE = {
    "2000": ([3 + g % 5 for g in range(2000)], [1 + 7 * g % 50 for g in range(2000)]),
    "zipf": ([24] * 30, zipf(30, 900)),
    "100000": ([8] * 14, [*zipf(12, 30_000), 1, 99_999 - sum(zipf(12, 30_000))]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", LARGE)
def test_large_vocabularies(sizes, dtype, device):
    """With gradients; and the last group, whose weight lies furthest."""
    case = Pairs(20, 60, *LARGE[sizes], device=device, dtype=dtype)
    case.groups[0] = len(LARGE[sizes][0]) - 1
    assert_as_accurate(case)
    functions = sc_linear_conditional, sc_linear_conditional_reference
    ours, eager = (gradients(f, case, dtype) for f in functions)
    exact = gradients(sc_linear_conditional_reference, case, torch.float64)
    for mine, theirs, right in zip(ours, eager, exact, strict=True):
        nearly_as_accurate(mine, theirs, right, roundings=2)


def test_no_rows(device):
    """A batch of none asks for none, with the rows of pairs or without."""
    case = Pairs(0, 0, None, device=device)
    x, weight, bias, rows, *rest = case.arguments()
    x.requires_grad_()
    for pairs in (rows, None):
        values, offsets = sc_linear_conditional(x, weight, bias, pairs, *rest)
        assert values.shape == (0,) and offsets.tolist() == [0]
        values.sum().backward()
        assert x.grad.shape == (0, 24)


@given(
    batch=st.integers(1, 20),
    sizes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6),
    pairs=st.integers(0, 50),
)
def test_any_shape(batch, sizes, pairs):
    """Whole numbers, so that the order of the sums does not matter."""
    case = Pairs(batch, pairs, [k for k, _ in sizes], [n for _, n in sizes])
    for tensor in (case.x, case.weight, case.bias):
        tensor.mul_(3).round_()
    found, offsets = sc_linear_conditional(*case.arguments())
    wanted, places = sc_linear_conditional_reference(*case.arguments())
    assert torch.equal(found, wanted) and torch.equal(offsets, places)


@pytest.mark.parametrize("width", [24, 100])
def test_compact_rows(width, device):
    """The second layer of a head: row p is the hidden layer of pair p."""
    case = Pairs(60, 60, [width] * 3, [4, 0, 77], device=device)
    x = torch.randn(60, width, device=device)
    _, weight, bias, _, groups, ins, outs = case.arguments()
    wanted, places = sc_linear_conditional_reference(x, weight, bias, None, groups, ins, outs)
    for offsets in (ins, None):
        found = sc_linear_conditional(x, weight, bias, None, groups, offsets, outs)
        torch.testing.assert_close(found, (wanted, places))


def gradients(function, case: Pairs, dtype: torch.dtype) -> tuple[Tensor, ...]:
    *floats, rows, groups, ins, outs = case.arguments(dtype)
    leaves = [t.clone().requires_grad_() for t in floats if t is not None]
    values, _ = function(*leaves, *[None] * (3 - len(leaves)), rows, groups, ins, outs)
    grad = torch.randn(len(values), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.autograd.grad(values, leaves, grad.to(values), materialize_grads=True)


@pytest.mark.parametrize("pairs", [1, 70])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype, pairs, device):
    """Off by at most twice what eager PyTorch is; zero where no pair is."""
    compact = Pairs(pairs, pairs, None, device=device, dtype=dtype)
    compact.rows = None
    for case in (
        Pairs(40, pairs, device=device, dtype=dtype),
        Pairs(40, pairs, None, bias=False, device=device, dtype=dtype),
        compact,
    ):
        exact = gradients(sc_linear_conditional_reference, case, torch.float64)
        eager, ours = (
            gradients(f, case, dtype)
            for f in (sc_linear_conditional_reference, sc_linear_conditional)
        )
        for mine, theirs, right in zip(ours, eager, exact, strict=True):
            nearly_as_accurate(mine, theirs, right, roundings=2)  # sums in another order


def test_gradients_without_pairs(device):
    grads = gradients(sc_linear_conditional, Pairs(4, 0, device=device), torch.float32)
    assert [len(grad) for grad in grads] == [4, 5 * 33 + 41 * 7 + 200 * 130, 254]
    assert not any(grad.count_nonzero() for grad in grads)


def test_gradients_of_what_is_needed(device):
    """Of a frozen weight none is computed."""
    case = Pairs(6, 9, device=device)
    x, weight, _, rows, groups, ins, outs = case.arguments()
    values, offsets = sc_linear_conditional(*case.arguments())
    rest = x, weight, rows, groups, offsets, ins, outs
    backward = torch.ops.fastheads.sc_linear_conditional_backward
    whole = backward(values, *rest, [True] * 3)
    for i in range(3):
        found = backward(values, *rest, [j == i for j in range(3)])
        assert [t.numel() > 0 for t in found] == [j == i for j in range(3)]
        assert torch.equal(found[i], whole[i])


def test_gradcheck(device):
    case = Pairs(3, 7, [2, 3, 0, 4], [3, 1, 2, 0], device=device, dtype=torch.float64)
    *leaves, rows, groups, ins, outs = case.arguments()

    def values(x, weight, bias):
        return sc_linear_conditional(x, weight, bias, rows, groups, ins, outs)[0]

    assert torch.autograd.gradcheck(values, [t.requires_grad_() for t in leaves])


def test_skipped_groups_are_not_read(device):
    case = Pairs(5, 20, device=device)
    case.groups.fill_(1)
    case.weight[: 5 * 33], case.weight[5 * 33 + 41 * 7 :] = torch.nan, torch.nan
    values, _ = sc_linear_conditional(*case.arguments())
    assert values.isfinite().all() and len(values) == 20 * 41


def test_strided_inputs(device):
    case = Pairs(40, 30, device=device)
    wanted = sc_linear_conditional(*case.arguments())
    case.x = case.x.t().contiguous().t()
    case.rows, case.groups = (torch.stack([t, t], 1)[:, 0] for t in (case.rows, case.groups))
    assert all(map(torch.equal, sc_linear_conditional(*case.arguments()), wanted))


def test_same_bits_for_any_number_of_threads():
    case, runs = Pairs(90, 300, [64] * 3, [3000, 1, 700]), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        runs.append(sc_linear_conditional(*case.arguments())[0])
    assert torch.equal(*runs)


def test_same_bits_from_run_to_run(device):
    case = Pairs(90, 300, device=device)
    runs = [sc_linear_conditional(*case.arguments())[0] for _ in range(2)]
    assert torch.equal(*runs)
    case.rows[:200], case.groups[:200] = 7, 1  # one pair again and again
    first, second = (gradients(sc_linear_conditional, case, torch.float32) for _ in range(2))
    assert all(map(torch.equal, first, second))


def call(case: Pairs, x: Tensor, rows: Tensor | None, groups: Tensor) -> Tensor:
    values, offsets = OP(x, case.weight, case.bias, rows, groups, case.ins, case.outs)
    return values * 2 + offsets.sum()


def test_opcheck(device):
    case = Pairs(6, 9, device=device)
    x, weight, bias, rows, groups, ins, outs = case.arguments()
    for features in (x, x.t().contiguous().t()):
        opcheck(OP.default, (features, weight, bias, rows, groups, ins, outs))
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    opcheck(OP.default, (*leaves, rows, groups, ins, outs))


def test_compile(device):
    case = Pairs(6, 9, device=device)
    given = case.x, case.rows, case.groups
    compiled = torch.compile(call, fullgraph=True)
    assert torch.equal(compiled(case, *given), call(case, *given))
    case.weight.requires_grad_()
    grads = [torch.autograd.grad(f(case, *given).sum(), case.weight)[0] for f in (compiled, call)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype, device):
    """Features as a network under autocast gives them, a float32 weight."""
    case = Pairs(6, 9, device=device)
    wanted = sc_linear_conditional(*case.arguments(torch.bfloat16))
    case.x, case.weight = case.x.to(dtype), case.weight.requires_grad_()
    x, *rest = case.x, *case.arguments()[1:]
    with torch.autocast(device.type, torch.bfloat16):
        found = sc_linear_conditional(x, *rest)
    assert all(map(torch.equal, found, wanted))
    found[0].sum().backward()
    assert case.weight.grad.dtype == torch.float32


class Module(torch.nn.Module):
    def forward(self, x: Tensor, weight: Tensor, rows: Tensor, groups: Tensor) -> Tensor:
        places = [0, *accumulate(READ)], [0, *accumulate(WRITTEN)]
        return sc_linear_conditional(x, weight, None, rows, groups, *places)[0]


def test_export(device):
    case = Pairs(6, 9, device=device)
    given = case.x, case.weight, case.rows, case.groups
    exported = torch.export.export(Module(), given)
    assert torch.equal(exported.module()(*given), Module()(*given))


def test_flops(device):
    case = Pairs(6, 9, [16] * 3, [5, 7, 1], device=device)
    with FlopCounterMode(display=False) as counter:
        values, _ = sc_linear_conditional(*case.arguments())
    assert counter.get_total_flops() == 2 * len(values) * 16
    case.weight.requires_grad_(), case.x.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        sc_linear_conditional(*case.arguments())[0].sum().backward()
    assert counter.get_total_flops() == 3 * 2 * len(values) * 16


def test_bytes(device):
    """Of the weight, what the groups that are asked for have."""
    case = Pairs(6, 9, device=device)
    case.groups.fill_(1)
    given = case.x, case.weight, case.rows, case.groups
    whole = case.x.nbytes + case.rows.nbytes + case.groups.nbytes
    written = 9 * 41 * 4 + 10 * 8
    assert count_bytes(Module(), *given) == whole + 41 * 7 * 4 + written


@pytest.mark.parametrize("wrong", [-1, 40])
def test_out_of_range(wrong):
    """On the CPU; CUDA does not wait for the device to find out."""
    case = Pairs(40, 9)
    case.rows[3] = wrong
    with pytest.raises(RuntimeError, match=f"rows must be from 0 to 39, got {wrong} at 3"):
        sc_linear_conditional(*case.arguments())
    case = Pairs(40, 9)
    case.groups[4] = wrong
    with pytest.raises(RuntimeError, match=f"groups must be from 0 to 3, got {wrong} at 4"):
        sc_linear_conditional(*case.arguments())


def rejected(device):
    """Every check once: arguments and a part of its sentence."""
    case = Pairs(6, 9, device=device)
    x, weight, bias, rows, groups, ins, outs = case.arguments()
    rest = bias, rows, groups, ins, outs
    yield (x[0], weight, *rest), "x must be [B, K], got 1 dimensions"
    yield (x.int(), weight, *rest), "x must be float32, float64, float16 or bfloat16, got Int"
    yield (x, weight.half(), *rest), "weight must be Float, got Half"
    yield (x, weight[1:], *rest), f"weight must be [{len(weight)}], got 1 dimensions"
    yield (x, weight, bias[1:], *rest[1:]), "bias must be [254], got 1 dimensions of 253 entries"
    yield (x, weight, bias, rows[1:], *rest[2:]), "rows must be [9], got 1 dimensions of 8 entries"
    yield (x, weight, bias, rows.int(), *rest[2:]), "rows must be Long, got Int"
    yield (x, weight, bias, rows, groups.int(), ins, outs), "groups must be Long, got Int"
    yield (x, weight, bias, rows, groups[None], ins, outs), "groups must be [9], got 2 dimensions"
    yield (x, weight, bias, None, groups, ins, outs), "x must have the 9 rows of groups, got 6"
    every = "every group must read the 170 columns of x, got 33 in group 0"
    yield (x, weight, bias, None, groups[:6], ins, outs), every
    if device.type == "cuda":
        yield (x, weight, bias, rows.cpu(), groups, ins, outs), "rows must be on the device of x"


def test_rejects(device):
    for arguments, message in rejected(device):
        with pytest.raises(RuntimeError) as error:
            OP(*arguments)
        assert message in str(error.value), message
