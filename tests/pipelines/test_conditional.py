"""Accuracy, recall and executed multiply-adds of conditional heads, row by row."""

import numpy as np
import pytest
import tiny
import torch

from fastheads.labels import Grouping
from fastheads.metrics import count_macs, evaluate
from fastheads.nn import AugmentedClassifier, ConditionalClassifier, GroupHeads
from fastheads.pipelines.conditional import ROWS, conditional_rows
from fastheads.pipelines.heads import measure

GROUP_OF = {
    "confusions": np.array([0, 1, -1, 0, 2, 2, 1, 0, 0, -1, 3, 1]),
    "randomized_confusions": np.array([1, 0, 1, -1, 3, 0, 2, 0, -1, 0, 1, 2]),
}
WIDTHS = [[3, 4], [7], [2], [5, 2]]
BELOW = 12345


@pytest.fixture(params=[False, True], ids=["sigmoid", "softmax"])
def case(request):
    frozen, base = tiny.frozen(rows=70, passes=2), tiny.classifier()
    with torch.no_grad():
        base.classifier.weight.mul_(6)
    tops = {}
    for row in ROWS:
        heads = GroupHeads((6,), Grouping(GROUP_OF[row]), WIDTHS)
        for output in heads.outputs:
            torch.nn.init.normal_(output.weight)
        tops[row] = AugmentedClassifier(tiny.classifier(seed=1).classifier, [heads]).eval()
    found = conditional_rows(base.classifier, tops, frozen, BELOW, request.param)
    return found, frozen, base.classifier, tops, request.param


def chosen_groups(base, hidden, group_of, count, softmax):
    logits = (hidden @ base.weight.T + base.bias).double()
    probabilities = (logits.softmax(1) if softmax else logits.sigmoid()).numpy()
    mass = np.stack([probabilities[:, group_of == g].sum(1) for g in range(4)], 1)
    return np.argsort(-mass, 1)[:, :count]


def test_one_two_three_and_all(case):
    found = case[0]
    settings = [(row["grouping"], row["groups"], row["of"]) for row in found]
    assert settings == [(row, count, 4) for row in ROWS for count in (1, 2, 3, 4)]


def test_recall(case):
    """An image counts if the group of any of its labels is chosen, or the label has none."""
    found, frozen, base, _, softmax = case
    for row in found:
        group_of = GROUP_OF[row["grouping"]]
        chosen = chosen_groups(base, frozen.hidden[0], group_of, row["groups"], softmax)
        hits = [
            any(group_of[label] < 0 or group_of[label] in groups for label in labels)
            for groups, labels in zip(chosen, frozen.targets.tolist(), strict=True)
        ]
        assert row["recall"] == pytest.approx(np.mean(hits))
    assert found[0]["recall"] < found[1]["recall"] < found[3]["recall"] == 1


def test_executed_macs(case):
    """Counted picture by picture while it runs."""
    found, frozen, base, tops, softmax = case
    for row in found:
        top = tops[row["grouping"]]
        if row["groups"] < row["of"]:  # with all groups nothing is chosen
            top = ConditionalClassifier(base, top, row["groups"], softmax)
        counted = [
            count_macs(top, frozen.features[0, n : n + 1], frozen.hidden[0, n : n + 1])
            for n in range(70)
        ]
        assert row["macs"] == round(BELOW + np.mean(counted))
    assert found[0]["macs"] < found[1]["macs"] < found[2]["macs"]


def test_metrics_of_what_is_evaluated(case):
    found, frozen, base, tops, softmax = case
    for row in found:
        group_of = GROUP_OF[row["grouping"]]
        chosen = chosen_groups(base, frozen.hidden[0], group_of, row["groups"], softmax)
        evaluated = np.array([[g < 0 or g in groups for g in group_of] for groups in chosen])
        with torch.no_grad():
            scores = tops[row["grouping"]](frozen.features[0], frozen.hidden[0])
        scores = scores.masked_fill(torch.from_numpy(~evaluated), -torch.inf)
        expected = evaluate([(scores, frozen.targets)], 12)
        assert {name: row[name] for name in tiny.METRICS} == pytest.approx(expected)


def test_all_groups_are_as_good_as_the_whole_network(case):
    found, frozen, _, tops, _ = case
    one_pass = tiny.Frozen(frozen.features[:1], frozen.hidden[:1], frozen.targets)
    for row in found:
        if row["groups"] == row["of"]:
            expected = measure(tops[row["grouping"]], one_pass, 12)
            assert {name: row[name] for name in tiny.METRICS} == pytest.approx(expected)


def test_two_groups_are_counted_once():
    frozen, base = tiny.frozen(), tiny.classifier()
    heads = GroupHeads((6,), Grouping(np.arange(12) % 2), [[3], [4]])
    tops = dict.fromkeys(ROWS, AugmentedClassifier(base.classifier, [heads]))
    found = conditional_rows(base.classifier, tops, frozen, 0)
    assert [row["groups"] for row in found] == [1, 2, 1, 2]
