"""topk_logits against all logits at once, ties included, and how much it holds."""

import numpy as np
import pytest
import torch
from allocations import peak_bytes
from hypothesis import given
from hypothesis import strategies as st
from top_layers import KINDS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastheads.labels import Grouping
from fastheads.nn import SCLinear, SelfPacedLogits, fc_sc, topk_logits

kinds = pytest.mark.parametrize("kind", KINDS)
budgets = pytest.mark.parametrize("scratch_bytes", [1, 400, None])


def whole(module):
    """Weights of few whole numbers: logits are exact in any order of summing, and often equal."""
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randint(-1, 2, parameter.shape))
    return module


def head_of(kind, sizes=(5, 1, 0, 30, 4), **options):
    torch.manual_seed(0)
    group_of = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    grouping = Grouping(group_of, tuple(f"{g}" for g in range(len(sizes))))
    return whole(KINDS[kind](5, 4, 3, grouping, **options)), grouping


def rows_of(columns, rows=9):
    return torch.randint(
        -2, 3, (rows, columns), generator=torch.Generator().manual_seed(rows)
    ).float()


def ranked(logits, k):
    """By logit, then by label."""
    pairs = [sorted((-v, i) for i, v in enumerate(row))[:k] for row in logits.tolist()]
    values = torch.tensor([[-v for v, _ in row] for row in pairs])
    return values, torch.tensor([[i for _, i in row] for row in pairs])


def assert_best(got, logits, k):
    values, labels = ranked(logits, k)
    assert torch.equal(got[0], values) and torch.equal(got[1], labels)
    torch.testing.assert_close(got[0], logits.topk(k).values, rtol=0, atol=0)


@kinds
@budgets
@pytest.mark.parametrize("k", [1, 3, 40])
def test_heads(kind, k, scratch_bytes):
    head, _ = head_of(kind)
    x = rows_of(5)
    assert_best(topk_logits(head, x, k, scratch_bytes=scratch_bytes), head(x), k)


@budgets
@pytest.mark.parametrize("k", [1, 3, 40])
def test_layers(k, scratch_bytes):
    for layer in (SCLinear([2, 0, 3], [20, 3, 17]), SCLinear(5, [39, 1], bias=False)):
        x = rows_of(5)
        got = topk_logits(whole(layer), x, k, scratch_bytes=scratch_bytes)
        assert_best(got, layer(x), k)
    layer, x, generic = whole(SCLinear([2, 3], [20, 20], generic=2)), rows_of(5), rows_of(2)
    got = topk_logits(layer, x, k, generic=generic, scratch_bytes=scratch_bytes)
    assert_best(got, layer(x, generic), k)


@budgets
@pytest.mark.parametrize("labels", [3, 1024, 5000])
@pytest.mark.parametrize("bias", [True, False])
def test_dense_layer(labels, scratch_bytes, bias):
    layer, x = whole(nn.Linear(6, labels, bias=bias)), rows_of(6)
    assert_best(topk_logits(layer, x, 3, scratch_bytes=scratch_bytes), layer(x), 3)


@budgets
@pytest.mark.parametrize("level", ["group", "label"])
def test_self_paced(level, scratch_bytes):
    sizes = (5, 1, 0, 30, 4)
    pacing = SelfPacedLogits(sizes, level, label_bias=-2)
    head, _ = head_of("fc_sc", sizes, pacing=pacing)
    nn.init.normal_(head.logits.weight)
    nn.init.normal_(pacing.gamma)
    x = rows_of(5)
    values, labels = topk_logits(head, x, 7, scratch_bytes=scratch_bytes)
    expected = head(x).topk(7)
    torch.testing.assert_close(values, expected.values)
    torch.testing.assert_close(head(x).gather(1, labels), expected.values)


@kinds
@budgets
@pytest.mark.parametrize("k", [1, 3, 50])
def test_best_of_each_group(kind, k, scratch_bytes):
    head, grouping = head_of(kind)
    x = rows_of(5)
    values, labels = topk_logits(head, x, k, per_group=True, scratch_bytes=scratch_bytes)
    assert values.shape == labels.shape == (9, 5, k)
    for g in range(grouping.num_groups):
        members = torch.from_numpy(grouping.members(g))
        count = min(k, len(members))
        expected = ranked(head(x)[:, members], count)
        assert torch.equal(values[:, g, :count], expected[0].reshape(9, count))
        assert torch.equal(labels[:, g, :count], members[expected[1].reshape(9, count).long()])
        assert (values[:, g, count:] == -torch.inf).all() and (labels[:, g, count:] == -1).all()


@pytest.mark.parametrize("groups", [1, 20, 2000])
@pytest.mark.parametrize("rows", [1, 7])
def test_large_vocabulary(groups, rows):
    """100,000 labels, groups by Zipf's law: of one label to thousands."""
    share = 1 / np.arange(1, groups + 1)
    sizes = 1 + np.floor((100_000 - groups) * share / share.sum()).astype(int)
    sizes[0] += 100_000 - sizes.sum()
    head, _ = head_of("fc_sc, generic", sizes)
    x = rows_of(5, rows)
    values, labels = topk_logits(head, x, 9)
    expected = head(x).sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, expected.values[:, :9])
    assert torch.equal(labels, expected.indices[:, :9])


@given(
    group_of=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    rows=st.integers(0, 5),
    k=st.integers(1, 30),
    scratch_bytes=st.integers(1, 300),
)
def test_any_sizes(group_of, rows, k, scratch_bytes):
    names = tuple("abcd")
    head = whole(fc_sc(3, 2, 4, Grouping(np.array(group_of), names), generic=1))
    x, k = rows_of(3, rows), min(k, len(group_of))
    values, labels = topk_logits(head, x, k, scratch_bytes=scratch_bytes)
    expected = ranked(head(x), k)
    assert values.shape == labels.shape == (rows, k)
    assert torch.equal(values, expected[0].reshape(rows, k))
    assert torch.equal(labels, expected[1].reshape(rows, k).long())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype, device):
    head, _ = head_of("sc_sc")
    head, x = head.to(device, dtype), rows_of(5).to(device, dtype)
    values, labels = topk_logits(head, x, 6, scratch_bytes=100)
    assert values.dtype == dtype and labels.dtype == torch.int64
    assert_best((values.float().cpu(), labels.cpu()), head(x).float().cpu(), 6)


def test_nan_goes_last():
    layer = whole(SCLinear(3, [2, 2]))
    with torch.no_grad():
        layer.bias[1] = torch.nan
    values, labels = topk_logits(layer, rows_of(3), 4, scratch_bytes=1)
    assert (labels[:, 3] == 1).all() and values[:, 3].isnan().all()
    assert not values[:, :3].isnan().any()


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operator has made."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given_ = {t.untyped_storage()._cdata for t in tree_leaves(args) if torch.is_tensor(t)}
        for made in tree_leaves(result):
            if torch.is_tensor(made) and made.untyped_storage()._cdata not in given_:
                self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("budget", [20_000, 100_000])
@pytest.mark.parametrize("per_group", [False, True])
def test_never_holds_more_than_its_budget(budget, per_group):
    sizes = [1000, 4000] + 50 * [100]
    grouping = Grouping(np.random.default_rng(0).permutation(np.repeat(np.arange(52), sizes)))
    head, x = fc_sc(5, 4, 3, grouping), rows_of(5, 64)
    with Largest() as largest:
        topk_logits(head, x, 2, per_group=per_group, scratch_bytes=budget)
    # Labels (int64) of a chunk are twice as wide; the result per group is [64, 52, 2] of them.
    assert 0.7 * budget < largest.bytes <= max(2 * budget, 64 * 52 * 2 * 8 * per_group)
    with Largest() as everything, torch.no_grad():
        head(x).topk(2)
    assert everything.bytes == 64 * 10_000 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k, per_group", [(5, False), (100, False), (100, True)])
@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize("sizes", [20 * [2500], [15_000, 20_000, 10_000] + 10 * [500]])
def test_all_copies_together_stay_within_the_budget(sizes, paced, k, per_group, dtype):
    """Logits, those in order of labels or in float32, and the lists of the best, in sum."""
    group_of = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    grouping, budget = Grouping(group_of), 2 << 20
    pacing = SelfPacedLogits(grouping.sizes, label_bias=-1.0) if paced else None
    head, x = fc_sc(5, 4, 3, grouping, pacing=pacing).to(dtype), rows_of(5, 64).to(dtype)

    def call():
        return topk_logits(head, x, k, per_group=per_group, scratch_bytes=budget)

    result = sum(t.nbytes for t in call())
    assert 0.3 * budget < peak_bytes(call) - result <= 1.1 * budget < 64 * 50_000 * 2


@pytest.mark.parametrize(
    "head, k, options, message",
    [
        (SCLinear(5, [2, 1]), 4, {}, "k must be 1 to 3, got 4"),
        (SCLinear(5, [2, 1]), 0, {"per_group": True}, "k must be 1 to 3, got 0"),
        (nn.Linear(5, 3), 2, {"per_group": True}, "per_group must be False for a layer without"),
        (SCLinear(5, [2, 1]), 1, {"scratch_bytes": 0}, "scratch_bytes must be None or at least 1"),
        (SCLinear(5, [2, 1]), 1, {"scratch_bytes": -1}, "at least 1, got -1"),
    ],
)
def test_errors(head, k, options, message):
    with pytest.raises(ValueError, match=message):
        topk_logits(head, rows_of(5), k, **options)


@pytest.mark.parametrize(
    "head", [nn.Linear(5, 3), head_of("fc_sc")[0], head_of("fc_sc, generic")[0]]
)
def test_generic_inputs_are_those_of_a_layer(head):
    message = rf"generic must be None .*, got \[9, 2\] for {type(head).__name__}$"
    with pytest.raises(ValueError, match=message):
        topk_logits(head, rows_of(5), 1, generic=rows_of(2))


def test_unknown_head():
    with pytest.raises(TypeError, match=r"head must be TopLayers, .* got Conv2d"):
        topk_logits(nn.Conv2d(1, 1, 1), rows_of(5), 1)
