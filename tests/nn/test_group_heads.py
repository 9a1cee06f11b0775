"""Heads wired to their groups only, against a dense layer with zeros between the groups."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import masked_dense, random_heads, silent

from fastheads.labels import Grouping
from fastheads.metrics import count_macs
from fastheads.nn import AugmentedClassifier, GroupHeads, head_widths, relu_stack
from fastheads.nn.group_heads import group_macs, head_macs

# feature shape, group of each label, widths, channels of the heads' convolution
CASES = {
    "ragged": ((6,), [2, 0, 0, 1, 0, 2, 0], [[5, 3], [4], [2, 7, 3]], 0),
    "ungrouped": ((6,), [-1, 1, 0, -1, 0, 1, -1], [[3], [4, 2]], 0),
    "one group": ((4,), [0, 0, 0], [[3, 2]], 0),
    "feature map, flattened": ((3, 2, 4), [1, 0, 0, 1, -1], [[5], [6, 2]], 0),
    "feature map, convolved": ((3, 2, 4), [1, 0, 0, 1, -1, 2], [[5], [6, 2], [3]], 2),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def heads(request):
    return random_heads(*request.param)


def features_for(heads, rows=4):
    return torch.randn(rows, *heads.feature_shape, dtype=torch.float64)


def test_two_groups_by_hand():
    """Labels 0 and 2 read max(0, x0 - x1), labels 1 and 3 read max(0, 2 x0 + 1)."""
    heads = GroupHeads((2,), Grouping(np.array([0, 1, 0, 1])), [[1], [1]])
    with torch.no_grad():
        heads.first.weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 0.0]]))
        heads.first.bias.copy_(torch.tensor([0.0, 1.0]))
        heads.outputs[0].weight.copy_(torch.tensor([[3.0], [-1.0]]))
        heads.outputs[1].weight.copy_(torch.tensor([[0.5], [10.0]]))
    out = heads(torch.tensor([[3.0, 1.0], [1.0, 5.0], [-2.0, -3.0]]))
    expected = [[6.0, 3.5, -2.0, 70.0], [0.0, 1.5, 0.0, 30.0], [3.0, 0.0, -1.0, 0.0]]
    assert out.tolist() == expected


def test_equals_masked_dense_layer(heads):
    features = features_for(heads)
    torch.testing.assert_close(heads(features), masked_dense(heads, features))


def test_ungrouped_labels_get_zero(heads):
    out = heads(features_for(heads))
    free = heads.grouping.group_of < 0
    assert (out[:, free] == 0).all()
    assert (out[:, ~free] != 0).any()


def test_head_alone_equals_its_columns(heads):
    features = features_for(heads)
    out = heads(features)
    for group in range(heads.grouping.num_groups):
        alone = heads.head(group, features)
        torch.testing.assert_close(alone, out[:, heads.grouping.members(group)])


def test_group_order_is_forward_permuted(heads):
    features = features_for(heads)
    grouped = heads.grouped(features)
    torch.testing.assert_close(grouped, heads(features)[:, heads.permutation])
    torch.testing.assert_close(grouped[:, heads.position], heads(features))


def test_head_reads_nothing_of_another(heads):
    """A change of one group's weights moves no logit of another group."""
    features = features_for(heads)
    before = heads(features)
    changed = copy.deepcopy(heads)
    with torch.no_grad():
        changed.first.bias[: heads.shares[0]] += 1
        changed.outputs[0].weight.mul_(3)
    after = changed(features)
    group_of = heads.grouping.group_of
    assert torch.equal(after[:, group_of != 0], before[:, group_of != 0])
    assert not torch.equal(after[:, group_of == 0], before[:, group_of == 0])


def test_outputs_of_zero_say_nothing_yet_learn():
    heads = GroupHeads((5,), Grouping(np.array([0, 1, 1])), [[4, 4], [4, 4]])
    assert all(output.bias is None for output in heads.outputs)
    assert (heads(torch.randn(3, 5)) != 0).any()
    silent(heads)
    assert (heads(torch.randn(3, 5)) == 0).all()
    heads(torch.randn(50, 5)).sum().backward()
    assert all(output.weight.grad.abs().sum() > 0 for output in heads.outputs)


def test_gradients(heads):
    features = features_for(heads, 2).requires_grad_()
    names, weights = zip(*heads.named_parameters(), strict=True)

    def run(features, *values):
        return torch.func.functional_call(heads, dict(zip(names, values, strict=True)), (features,))

    assert torch.autograd.gradcheck(run, (features, *weights), fast_mode=True)


def test_empty_batch(heads):
    assert heads(features_for(heads, 0)).shape == (0, heads.grouping.num_labels)


def test_state_dict_round_trip(heads):
    again = GroupHeads(heads.feature_shape, heads.grouping, heads.widths, heads.conv_channels)
    again.double().load_state_dict(heads.state_dict())
    features = features_for(heads)
    assert torch.equal(again(features), heads(features))
    assert torch.equal(copy.deepcopy(heads)(features), heads(features))


def test_macs_equal_counted(heads):
    features = features_for(heads, 1)
    groups = range(heads.grouping.num_groups)
    each = [group_macs(heads, group) for group in groups]
    assert sum(each) == count_macs(heads, features)
    for group in groups:
        assert each[group] == count_macs(_Head(heads, group), features)
    classifier = torch.nn.Linear(3, heads.grouping.num_labels).double()
    hidden = torch.randn(1, 3, dtype=torch.float64)
    for rounds in ([], [heads], [heads, heads]):
        expected = count_macs(AugmentedClassifier(classifier, rounds), features, hidden)
        assert head_macs(classifier, rounds) == expected


class _Head(torch.nn.Module):
    def __init__(self, heads, group):
        super().__init__()
        self.heads, self.group = heads, group

    def forward(self, features):
        return self.heads.head(self.group, features)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")  # of groups without a label
@given(
    group_of=st.lists(st.integers(-1, 3), min_size=1, max_size=9).filter(lambda g: max(g) >= 0),
    convolved=st.booleans(),
    depth=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_any_grouping(group_of, convolved, depth, seed):
    widths = np.random.default_rng(seed).integers(1, 5, (max(group_of) + 1, depth)).tolist()
    shape, channels = ((2, 3, 2), 2) if convolved else ((5,), 0)
    heads = random_heads(shape, group_of, widths, channels, seed)
    features = features_for(heads, 3)
    torch.testing.assert_close(heads(features), masked_dense(heads, features))
    torch.testing.assert_close(heads.grouped(features), heads(features)[:, heads.permutation])
    assert sum(group_macs(heads, g) for g in range(len(widths))) == count_macs(heads, features[:1])


@pytest.mark.parametrize("case", ["ungrouped", "feature map, convolved"])
def test_compiles_whole(case):
    heads = random_heads(*CASES[case])
    features = features_for(heads)
    compiled = torch.compile(heads, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features), heads(features))
    assert torch.autograd.grad(compiled(features).sum(), heads.first.weight)[0].abs().sum() > 0


def test_equal_widths():
    assert head_widths((8, 4), 3) == [[8, 4]] * 3
    assert head_widths((8, 4), 2, [0, 0]) == [[8, 4]] * 2
    widths = head_widths((8, 4), 2)
    widths[0][0] = 0
    assert widths[1] == [8, 4]


@given(
    shares=st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any),
    width=st.integers(4, 64),
)
def test_widths_follow_shares(shares, width):
    found = [w for (w,) in head_widths((width,), len(shares), shares)]
    mean = sum(shares) / len(shares)
    for got, share in zip(found, shares, strict=True):
        assert got >= 4
        if width * share / mean >= 4:
            assert abs(got - width * share / mean) <= 0.5
    # About the same total: rounding, and what the narrowest heads are given on top.
    assert abs(sum(found) - width * len(shares)) <= 4.5 * len(shares)


def test_widths_by_hand():
    assert head_widths((32, 16), 3, [1, 2, 3]) == [[16, 8], [32, 16], [48, 24]]
    assert head_widths((8,), 2, [0, 1]) == [[4], [16]]


def test_relu_stack():
    stack = relu_stack(3, [4, 2])
    x = torch.randn(5, 3)
    first, second = stack[0], stack[2]
    expected = (second((first(x)).clamp(min=0))).clamp(min=0)
    assert torch.equal(stack(x), expected)
    assert len(relu_stack(3, [])) == 0


GROUPING = Grouping(np.array([0, 1, 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((5,), GROUPING, [[4]]), r"widths must hold .* each of 2 groups, got \[\[4\]\]"),
        (((5,), GROUPING, [[4], []]), r"widths must hold .*, got \[\[4\], \[\]\]"),
        (((5,), GROUPING, [[4], [4]], 3), r"conv_channels needs features .*, got \(5,\)"),
        (((5,), Grouping(np.array([-1, -1])), []), "grouping must have at least one group, got 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        GroupHeads(*arguments)
    assert "\n" not in str(error.value)
