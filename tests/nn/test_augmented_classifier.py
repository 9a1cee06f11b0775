"""A classifier with heads beside it: whole, in group order, and only where it points."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import masked_dense, random_heads, silent
from torch import nn

from fastheads.labels import Grouping
from fastheads.nn import AugmentedClassifier, ConditionalClassifier, GroupHeads

GROUP_OF = [1, -1, 0, 2, 2, 0, 1, -1, 2, 2]
WIDTHS = [[4, 3], [5], [2, 6]]


def top(rounds=1, hidden=5, bias=True, group_of=GROUP_OF, conv_channels=0):
    shape = (2, 3, 3) if conv_channels else (6,)
    heads = [random_heads(shape, group_of, WIDTHS, conv_channels, seed) for seed in range(rounds)]
    if rounds > 1:  # a second round has groups of its own
        heads[-1] = random_heads(shape, group_of[::-1], WIDTHS, conv_channels, rounds)
    torch.manual_seed(rounds)
    return AugmentedClassifier(nn.Linear(hidden, len(group_of), bias=bias).double(), heads)


def inputs(module, rows=7):
    shape = module.heads[0].feature_shape if len(module.heads) else (6,)
    torch.manual_seed(rows)
    features = torch.randn(rows, *shape, dtype=torch.float64)
    return features, torch.randn(rows, module.classifier.in_features, dtype=torch.float64)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_sum_of_classifier_and_heads(rounds):
    module = top(rounds)
    features, hidden = inputs(module)
    expected = hidden @ module.classifier.weight.T + module.classifier.bias
    for heads in module.heads:
        expected = expected + masked_dense(heads, features)
    torch.testing.assert_close(module(features, hidden), expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_group_order_of_the_last_round(rounds, bias):
    module = top(rounds, bias=bias)
    features, hidden = inputs(module)
    order = module.heads[-1].permutation if rounds else slice(None)
    expected = module(features, hidden)[:, order]
    torch.testing.assert_close(module.grouped(features, hidden), expected)


def test_group_order_has_the_same_gradients():
    module = top(2)
    features, hidden = inputs(module)
    weights = torch.randn(len(hidden), len(GROUP_OF), dtype=torch.float64)
    plain = (module(features, hidden) * weights).sum()
    ordered = module.grouped(features, hidden) * weights[:, module.heads[-1].permutation]
    parameters = list(module.parameters())
    for expected, got in zip(
        torch.autograd.grad(plain, parameters),
        torch.autograd.grad(ordered.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_heads_that_say_nothing_change_nothing():
    classifier = nn.Linear(5, len(GROUP_OF))
    heads = silent(GroupHeads((6,), Grouping(np.array(GROUP_OF)), WIDTHS))
    features, hidden = torch.randn(4, 6), torch.randn(4, 5)
    augmented = AugmentedClassifier(classifier, [heads])
    assert torch.equal(augmented(features, hidden), classifier(hidden))


def test_state_dict_round_trip():
    module = top(2)
    again = top(2)
    for parameter in again.parameters():
        nn.init.zeros_(parameter)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(*inputs(module)), module(*inputs(module)))


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_compiles_whole(rounds):
    module = top(rounds)
    features, hidden = inputs(module)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, hidden), module(features, hidden))


@pytest.mark.slow
def test_compiles_to_machine_code():
    """By the default backend, which generates C++."""
    module = top(1)
    features, hidden = inputs(module)
    compiled = torch.compile(module, fullgraph=True)
    torch.testing.assert_close(compiled(features, hidden), module(features, hidden))


# What a conditional classifier must do, written out with numpy.


def chosen_groups(base, module, hidden, count, softmax):
    """``[N, count]``: the groups with the largest sum of base probabilities."""
    logits = (hidden @ base.weight.T + base.bias).detach().numpy()
    if softmax:
        powers = np.exp(logits - logits.max(1, keepdims=True))
        probabilities = powers / powers.sum(1, keepdims=True)
    else:
        probabilities = 1 / (1 + np.exp(-logits))
    group_of = module.heads[0].grouping.group_of
    mass = np.stack([probabilities[:, group_of == g].sum(1) for g in range(group_of.max() + 1)], 1)
    return np.argsort(-mass, 1)[:, :count]


def scattered(logits, labels, num_labels):
    """``[N, labels]``, -inf where a label was not evaluated; no label twice in a row."""
    out = torch.full((len(logits), num_labels), -torch.inf, dtype=logits.dtype)
    for row, (values, names) in enumerate(zip(logits, labels, strict=True)):
        kept = values > -torch.inf
        assert names[kept].unique().numel() == kept.sum()
        out[row, names[kept]] = values[kept]
    return out


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("conv_channels", [0, 2])
def test_evaluates_the_chosen_groups(count, softmax, conv_channels):
    module = top(conv_channels=conv_channels)
    base = nn.Linear(5, len(GROUP_OF)).double()
    with torch.no_grad():
        base.weight.mul_(8)  # or the largest group would win every row
    features, hidden = inputs(module, 40)
    conditional = ConditionalClassifier(base, module, count, softmax)
    logits, labels = conditional(features, hidden)
    assert logits.shape == labels.shape == (40, count * 4 + 2)
    assert labels.dtype == torch.int64

    chosen = chosen_groups(base, module, hidden, count, softmax)
    group_of = np.array(GROUP_OF)
    evaluated = torch.tensor([[g < 0 or g in row for g in group_of] for row in chosen])
    expected = module(features, hidden).masked_fill(~evaluated, -torch.inf)
    torch.testing.assert_close(scattered(logits, labels, len(GROUP_OF)), expected)
    if count < 3:
        assert len(np.unique(chosen[:, 0])) > 1  # the rows do not all agree


def test_softmax_may_choose_other_groups():
    """One probable label, or several that are a little less so."""
    module = top(group_of=[0, 1, 1, 2])
    base = nn.Linear(5, 4).double()
    with torch.no_grad():
        base.weight.zero_()
        base.bias.copy_(torch.tensor([6.0, 3.0, 3.0, -9.0]))
    features, hidden = inputs(module, 1)
    for softmax, group in ((True, 0), (False, 1)):
        conditional = ConditionalClassifier(base, module, 1, softmax)
        assert conditional.group_mass(hidden).argmax(1).item() == group
        logits, labels = conditional(features, hidden)
        assert set(labels[logits > -torch.inf].tolist()) == {0: {0}, 1: {1, 2}}[group]


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("group_of", [GROUP_OF, [0, 1, 2, 2, 1]])
def test_small_batches(rows, group_of):
    module = top(group_of=group_of)
    base = copy.deepcopy(module.classifier)
    features, hidden = inputs(module, rows)
    logits, labels = ConditionalClassifier(base, module, 2)(features, hidden)
    largest = np.bincount([g for g in group_of if g >= 0]).max()
    assert logits.shape == labels.shape == (rows, 2 * largest + group_of.count(-1))


def test_rows_do_not_depend_on_their_batch():
    module = top()
    base = nn.Linear(5, len(GROUP_OF)).double()
    features, hidden = inputs(module, 12)
    conditional = ConditionalClassifier(base, module, 2)
    logits, labels = conditional(features, hidden)
    for row in range(12):
        one = conditional(features[row : row + 1], hidden[row : row + 1])
        torch.testing.assert_close(one[0][0], logits[row])
        assert torch.equal(one[1][0], labels[row])


def test_classifier_without_bias():
    module = top(bias=False)
    base = nn.Linear(5, len(GROUP_OF), bias=False).double()
    features, hidden = inputs(module)
    logits, labels = ConditionalClassifier(base, module, 3)(features, hidden)
    found = scattered(logits, labels, len(GROUP_OF))
    torch.testing.assert_close(found, module(features, hidden))


@pytest.mark.parametrize("group_of", [GROUP_OF, [1, 0, 1, 0, 2, 2, 0]])
@pytest.mark.parametrize("conv_channels", [0, 2])
def test_autocast(group_of, conv_channels, device):
    """The dtype of the augmented classifier, with and without labels in no group."""
    module = top(group_of=group_of, conv_channels=conv_channels).float().to(device)
    base = copy.deepcopy(module.classifier)
    features, hidden = (t.float().to(device) for t in inputs(module))
    conditional = ConditionalClassifier(base, module, 3)
    with torch.autocast(device.type, torch.bfloat16):
        logits, labels = conditional(features, hidden)
        expected = module(features, hidden)
    assert logits.dtype == expected.dtype == torch.bfloat16
    found = scattered(logits.cpu(), labels.cpu(), len(group_of)).float()
    torch.testing.assert_close(found, expected.float().cpu(), rtol=0.02, atol=0.05)


def test_networks_stay_as_they_are():
    module = top()
    base = nn.Linear(5, len(GROUP_OF)).double()
    before = copy.deepcopy((module.state_dict(), base.state_dict()))
    ConditionalClassifier(base, module, 1)(*inputs(module))
    for stored, now in zip(before, (module.state_dict(), base.state_dict()), strict=True):
        assert all(torch.equal(stored[key], now[key]) for key in stored | now)


def test_state_dict_of_conditional_round_trip():
    module, other = top(), top(group_of=GROUP_OF)
    base = nn.Linear(5, len(GROUP_OF)).double()
    conditional = ConditionalClassifier(base, module, 2)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    again = ConditionalClassifier(copy.deepcopy(base), other, 2)
    again.load_state_dict(conditional.state_dict())
    for got, expected in zip(again(*inputs(module)), conditional(*inputs(module)), strict=True):
        assert torch.equal(got, expected)


@given(
    group_of=st.lists(st.integers(-1, 2), min_size=3, max_size=12).filter(
        lambda g: {0, 1, 2} <= set(g)
    ),
    seed=st.integers(0, 2**31),
)
def test_all_groups_equal_the_augmented_network(group_of, seed):
    module = top(group_of=group_of)
    torch.manual_seed(seed)
    base = nn.Linear(5, len(group_of)).double()
    features, hidden = inputs(module)
    logits, labels = ConditionalClassifier(base, module, 3)(features, hidden)
    expected = module(features, hidden)
    # To the last bits: the order of the sums may differ between a product and its parts.
    torch.testing.assert_close(
        scattered(logits, labels, len(group_of)), expected, rtol=1e-13, atol=1e-13
    )


def test_errors():
    base = nn.Linear(5, len(GROUP_OF)).double()
    for rounds in (0, 2):
        with pytest.raises(ValueError, match=f"augmented must have one set of heads, got {rounds}"):
            ConditionalClassifier(base, top(rounds), 1)
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"num_chosen must be 1 to 3, got {count}"):
            ConditionalClassifier(base, top(), count)
