"""Counting, capacity and training of heads on frozen outputs, against brute force."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from fastheads.labels import Grouping
from fastheads.nn import AugmentedClassifier, GroupHeads
from fastheads.pipelines.frozen import BATCH, Frozen
from fastheads.pipelines.heads import (
    HeadsConfig,
    capacity_shares,
    cluster,
    count_confusions,
    grow_heads,
    label_errors,
    measure,
    score_batches,
)
from fastheads.targets import SparseTargets

K = 4
GROUPING = Grouping(np.array([0, 1, -1, 0, 2, 2, 1, 0, 0, -1, 2, 1]))


def scores_of(base, frozen):
    """``[passes, N, labels]``, float64."""
    weight, bias = base.classifier.weight.double(), base.classifier.bias.double()
    return frozen.hidden.double() @ weight.T + bias


def test_confusions_of_equations_3_and_4():
    """Sums over every pass and row, across batches."""
    frozen, base = tiny.frozen(rows=BATCH + 60), tiny.classifier()
    annotated = np.zeros((BATCH + 60, 12), np.int64)
    for row, labels in enumerate(frozen.targets.tolist()):
        annotated[row, labels] = 1
    confusion, together = np.zeros((2, 12, 12), np.int64)
    for scores in scores_of(base, frozen).numpy():
        detected = np.zeros_like(annotated)
        np.put_along_axis(detected, np.argsort(-scores, 1)[:, :K], 1, 1)
        confusion += detected.T @ annotated
        together += detected.T @ detected
    config = HeadsConfig(top_k=K)
    found = count_confusions(base, frozen, config, "confusion").toarray()
    assert np.array_equal(found, confusion)
    found = count_confusions(base, frozen, config, "co_detection").toarray()
    assert np.array_equal(found, together)


def test_confusions_are_counted_where_the_scores_lie(device):
    frozen, base = tiny.frozen(), tiny.classifier()
    placed = copy.deepcopy(base).to(device)
    config = HeadsConfig(top_k=K)
    for kind in ("confusion", "co_detection"):
        found = count_confusions(
            lambda *inputs: placed(*(t.to(device) for t in inputs)), frozen, config, kind
        )
        assert (found != count_confusions(base, frozen, config, kind)).nnz == 0


def test_top_k_beyond_the_labels():
    frozen, base = tiny.frozen(), tiny.classifier()
    found = count_confusions(base, frozen, HeadsConfig(top_k=500), "co_detection")
    assert (found.toarray() == 2 * 40).all()


def test_no_holdout_images():
    empty = Frozen(torch.zeros(1, 0, 6), torch.zeros(1, 0, 5), SparseTargets.from_lists([]))
    with pytest.raises(ValueError, match="holdout must have at least one image, got none"):
        count_confusions(tiny.classifier(), empty, HeadsConfig(), "confusion")


def test_label_errors():
    frozen, base = tiny.frozen(), tiny.classifier()
    expected = np.zeros(12, np.int64)
    for scores in scores_of(base, frozen):
        for best, labels in zip(scores.argmax(1).tolist(), frozen.targets.tolist(), strict=True):
            if best not in labels:
                expected[labels] += 1
    assert expected.sum() > 0
    assert np.array_equal(label_errors(base, frozen, 12), expected)


def test_capacity_shares():
    train = replace(tiny.frozen(), targets=SparseTargets.from_lists([[0, 1], [0, 3, 2], [4], [0]]))
    errors = np.arange(12)
    expected = {
        "equal": None,
        "size": [4, 3, 3],
        "data": [3 + 1, 1, 1],
        "difficulty": [0 + 3 + 7 + 8, 1 + 6 + 11, 4 + 5 + 10],
    }
    for capacity, shares in expected.items():
        config = HeadsConfig(capacity=capacity)
        assert capacity_shares(GROUPING, config, train, errors) == shares


def test_cluster_finds_blocks():
    blocks = np.kron(np.eye(3, dtype=np.int64), np.full((4, 4), 9)) + 1
    order = np.random.default_rng(0).permutation(12)
    found = cluster(blocks[np.ix_(order, order)], HeadsConfig(num_groups=3), seed=0)
    assert found.suggested == 3
    assert len({(b, g) for b, g in zip(order // 4, found.grouping.group_of, strict=True)}) == 3
    assert cluster(blocks, HeadsConfig(num_groups=None), seed=0).grouping.num_groups == 3
    assert sorted(found.eigenvalues, reverse=True) == found.eigenvalues


def test_score_batches_need_no_gradient():
    base, frozen = tiny.classifier().requires_grad_(True), tiny.frozen()
    batches = list(score_batches(base, frozen))
    assert not any(scores.requires_grad for scores, _ in batches)
    assert torch.is_grad_enabled()
    scores = torch.cat([scores for scores, _ in batches])
    torch.testing.assert_close(scores.double(), scores_of(base, frozen).flatten(0, 1))
    rows = [labels for _, targets in batches for labels in targets.tolist()]
    assert rows == frozen.targets.tolist() * 2
    assert sum(len(scores) for scores, _ in score_batches(base, frozen, True)) == 40


# Training. Paper 000, section 2: old weights stay fixed, classifier and heads are learned.


def grow(folder, frozen, base, grouping=GROUPING, shares=None, training=None, **heads):
    config = HeadsConfig(widths=(8,), **heads)
    training = training or replace(tiny.STEPS, epochs=3, batch_size=16)
    return grow_heads(frozen, base, grouping, shares, config, training, folder, 5, "row")


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(one, other):
    assert one.keys() == other.keys()
    return {key for key in one if torch.equal(one[key], other[key])}


@pytest.mark.parametrize("start", ["base", "fresh"])
def test_old_weights_stay_fixed(tmp_path, start):
    base, frozen = tiny.classifier(), tiny.frozen()
    before, inputs = state(base), frozen.hidden.clone()
    top, curve = grow(tmp_path, frozen, base, classifier=start)
    assert same(before, state(base)) == set(before)
    assert torch.equal(frozen.hidden, inputs)
    assert not same(state(base.classifier), state(top.classifier))
    (heads,) = top.heads
    torch.manual_seed(5)
    new = GroupHeads((6,), GROUPING, heads.widths)
    new.standardize.measure(frozen.features[0])
    # All weights are learned; the statistics of the features are measured and stay.
    fixed = {"standardize.mean", "standardize.std"}
    assert same(state(new), state(heads)) - fixed == set()
    assert all((output.weight != 0).any() for output in heads.outputs)
    mean, std = frozen.features[0].mean(0), frozen.features[0].std(0)
    torch.testing.assert_close(heads.standardize.mean, mean)
    torch.testing.assert_close(heads.standardize.std, std)
    assert curve["row"] == "row" and curve["seed"] == 5
    assert len(curve["step"]) == len(curve["loss"]) > 0
    assert not top.training


def test_second_round_keeps_the_first(tmp_path):
    base, frozen = tiny.classifier(), tiny.frozen()
    first, _ = grow(tmp_path / "1", frozen, base)
    before = state(first)
    other = Grouping(np.arange(12) % 2)
    second, _ = grow(tmp_path / "2", frozen, first, other)
    assert same(before, state(first)) == set(before)
    assert len(second.heads) == 2
    assert same(state(first.heads[0]), state(second.heads[0])) == set(state(first.heads[0]))
    assert second.heads[1].grouping is other
    assert (second.heads[1].outputs[0].weight != 0).any()


def test_retraining_alone_adds_nothing(tmp_path):
    base, frozen = tiny.classifier(), tiny.frozen()
    top, _ = grow(tmp_path, frozen, base, grouping=None)
    assert len(top.heads) == 0
    assert not same(state(base), state(top))


def test_starts_from_the_base_or_afresh(tmp_path):
    """A step of size nearly zero shows where training began."""
    base, frozen = tiny.classifier(), tiny.frozen()
    still = replace(tiny.STEPS, lr=1e-12)
    top, _ = grow(tmp_path / "base", frozen, base, training=still, classifier="base")
    torch.testing.assert_close(top.classifier.weight, base.classifier.weight)
    top, _ = grow(tmp_path / "fresh", frozen, base, training=still, classifier="fresh")
    assert (top.classifier.weight - base.classifier.weight).abs().max() > 0.01
    torch.testing.assert_close(top.classifier.bias.sigmoid().sum().item(), 1.0)


def test_same_seed_same_weights(tmp_path):
    base, frozen = tiny.classifier(), tiny.frozen()
    one, _ = grow(tmp_path / "1", frozen, base)
    torch.randn(7)
    two, _ = grow(tmp_path / "2", frozen, copy.deepcopy(base))
    assert same(state(one), state(two)) == set(state(one))


def test_shares_become_widths(tmp_path):
    top, _ = grow(tmp_path, tiny.frozen(), tiny.classifier(), shares=[1, 2, 3])
    assert top.heads[0].widths == [[4], [8], [12]]


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("conv_channels", [0, 4])
def test_heads_learn_what_a_classifier_cannot(tmp_path, loss, conv_channels):
    """Labels are exclusive-ors of features; the hidden units say only which pair of labels."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randint(0, 2, (1, 256, 2, 2, 2), generator=rng).float()
    pair = torch.arange(256) % 3
    label = 2 * pair + (features[0, :, 0, 0, 0] != features[0, :, 1, 1, 1]).long()
    hidden = torch.nn.functional.one_hot(pair, 3).float()[None]
    frozen = Frozen(features, hidden, SparseTargets.from_lists(label[:, None].tolist()))
    base = tiny.classifier(labels=6, hidden=3)
    training = replace(tiny.STEPS, epochs=40, lr=0.02)
    options = {"training": training, "loss": loss, "conv_channels": conv_channels}
    retrained, _ = grow(tmp_path / "alone", frozen, base, grouping=None, **options)
    grouping = Grouping(np.repeat([0, 1, 2], 2))
    top, _ = grow(tmp_path / "heads", frozen, base, grouping, **options)
    assert measure(top, frozen, 6)["top1"] > 0.97
    assert 0.4 < measure(retrained, frozen, 6)["top1"] < 0.7


def test_measure_agrees_with_the_scores():
    frozen, base = tiny.frozen(passes=1), tiny.classifier()
    hits = [
        best in labels
        for best, labels in zip(
            scores_of(base, frozen)[0].argmax(1).tolist(), frozen.targets.tolist(), strict=True
        )
    ]
    assert measure(base, frozen, 12)["top1"] == pytest.approx(np.mean(hits))
    assert isinstance(base, AugmentedClassifier)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": ()}, r"widths must hold at least one width above 0, got \(\)"),
        ({"widths": (4, 0)}, r"widths must hold .*, got \(4, 0\)"),
        ({"num_groups": 1}, "num_groups must be at least 2, got 1"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"conv_channels": -1}, "conv_channels must be at least 0, got -1"),
        ({"regularization": -1.0}, "regularization must be at least 0, got -1.0"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        HeadsConfig(**settings)
