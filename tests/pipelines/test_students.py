"""Students: what each row's head is, what it is trained on, and how it is measured."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import STEPS
from torch import nn

from fastheads.labels import Grouping
from fastheads.nn import SelfPacedLogits
from fastheads.pipelines.student_task import (
    FeatureRows,
    Repeated,
    StudentTask,
    WithLoss,
    mean_targets,
    parameter_groups,
)
from fastheads.pipelines.students import (
    STUDENTS,
    Pacing,
    Student,
    StudentsConfig,
    build_head,
    feature_batches,
    measure,
)
from fastheads.targets import SparseTargets
from fastheads.training.checkpoint import save

GROUPING = Grouping([1, 0, 1, 0, 1, 1], ("a", "b"))
PRIOR = torch.tensor([0.5, 0.1, 0.2, 0.01, 0.0, 1.0])
SOFT = SparseTargets(
    torch.tensor([0, 2, 1, 3, 4, 5]), torch.tensor([0, 2, 4, 6]), torch.tensor([0.9, 0.3] * 3)
)


def head(student):
    torch.manual_seed(0)
    return build_head(student, 5, StudentsConfig(top1=8, top2=4), GROUPING, PRIOR)


@pytest.mark.parametrize("row", STUDENTS)
def test_rows_are_the_heads_of_figure_3(row):
    """Weights as section 3.2 counts them, of N = 6, M = 2, s_b = 5, s1 = 8, s2 = 4."""
    student = STUDENTS[row]
    x = round(4 * student.generic)
    counts = {
        "fc_fc": 4 * 6 + 4 * 8 + 8 * 5,
        "fc_sc": 4 * 6 + 2 * (4 - x) * 8 + x * 8 + 8 * 5,
        "sc_sc": 4 * 6 + 2 * 4 * 8 + 2 * 8 * 5,
    }
    assert head(student).macs == counts[student.kind]


def test_the_five_settings_of_figure_5():
    settings = {
        row: (p.level, p.trainable, p.init)
        for row in ("paced_fixed", "paced_10", "paced_label_10", "paced", "paced_label")
        if (p := STUDENTS[row].pacing)
    }
    assert settings == {
        "paced_fixed": ("group", False, "sqrt"),
        "paced_10": ("group", True, 10.0),
        "paced_label_10": ("label", True, 10.0),
        "paced": ("group", True, "sqrt"),
        "paced_label": ("label", True, "sqrt"),
    }
    for row in settings:
        worded = STUDENTS[row.replace("paced", "worded")].pacing
        assert worded == replace(STUDENTS[row].pacing, bias="inside", log=False)


def test_biases_say_that_labels_are_rare():
    """One number where logits are not paced, the log-odds of each label where they are."""
    log_odds = torch.logit(PRIOR.double().clamp(1e-6, 0.5)).float()
    plain = head(Student("fc_sc"))
    assert (plain.logits.bias == -6).all()
    log_odds = log_odds[plain.permutation]
    after = head(Student("fc_sc", pacing=Pacing(bias="after")))
    assert isinstance(after.pacing, SelfPacedLogits)
    torch.testing.assert_close(after.pacing.label_bias.detach(), log_odds)
    assert (after.logits.bias == 0).all()
    inside = head(Student("fc_sc", pacing=Pacing(bias="inside")))
    assert isinstance(inside.pacing, SelfPacedLogits) and inside.pacing.label_bias is None
    torch.testing.assert_close(inside.logits.bias.detach(), log_odds)
    assert math.isfinite(log_odds.min()) and log_odds.max() <= 0


def test_every_weight_decays_and_nothing_else():
    model = WithLoss(head(Student("fc_sc", pacing=Pacing())))
    weights, others = parameter_groups(model, replace(STEPS, weight_decay=0.5))
    assert weights["weight_decay"] == 0.5 and others["weight_decay"] == 0
    inner = model.inner
    matrices = [inner.top1.weight, inner.top2.weight, inner.logits.weight]
    assert list(map(id, weights["params"])) == list(map(id, matrices))
    assert inner.pacing.log_gamma in set(others["params"])
    assert len(weights["params"] + others["params"]) == len(list(model.parameters()))


def test_targets_of_rows():
    targets = SparseTargets.from_lists([[0], [1, 5]])
    features = torch.arange(12.0).view(3, 2, 2)
    rows = FeatureRows(features, Repeated(targets))
    assert len(rows) == 6
    inputs, picked = rows.__getitems__([5, 0, 2])
    assert torch.equal(inputs, features[[2, 0, 1], [1, 0, 0]])
    assert picked.tolist() == [[1, 5], [0], [0]]
    soft = FeatureRows(torch.zeros(1, 3, 2), SOFT).__getitems__([2, 1])[1]
    assert soft.tolist() == [[4, 5], [1, 3]] and soft.values.tolist() == SOFT.values[:4].tolist()


@pytest.mark.parametrize("targets", [Repeated(SOFT), SOFT, Repeated(SOFT._replace(values=None))])
def test_mean_of_targets(targets):
    count = 6 if isinstance(targets, Repeated) else 3
    dense = torch.zeros(count, 6, dtype=torch.float64)
    part = targets.select(torch.arange(count))
    values = torch.ones(len(part.indices)) if part.values is None else part.values
    dense[part.row_indices(), part.indices] = values.double()
    torch.testing.assert_close(mean_targets(targets, count, 6), dense.mean(0))


def test_learns_what_its_targets_say(tmp_path):
    torch.manual_seed(1)
    label = torch.arange(60) % 6
    features = torch.eye(6)[label][:, :5].repeat(2, 1, 1) + 0.1 * torch.randn(2, 60, 5)
    save({"result": features}, tmp_path / "features.pt")
    targets = SparseTargets(label, torch.arange(61))
    training = replace(STEPS, epochs=60, lr=0.02, log_every=8)
    task = StudentTask(
        "fc_sc",
        3,
        Student("fc_sc"),
        GROUPING,
        tmp_path / "features.pt",
        (features[0].mean(0), features[0].std(0)),
        Repeated(targets),
        PRIOR,
        StudentsConfig(top1=16, top2=8, training=training),
        tmp_path,
        120,
    )
    network, result = task.run()
    found = measure(network, feature_batches(features[1], targets), GROUPING)
    assert task.name == "fc_sc, seed 3" and task.steps == result.steps == 60 * 3
    assert result.curve[-1]["loss"] < result.curve[0]["loss"] / 3
    assert found["mpvap"] > 0.9 and found["top1"] > 0.9
    assert not network.training
    again, _ = task.run()  # read, not trained
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_measures_the_first_labels_alone():
    """Nodes above the labels, which come last, are never ranked."""
    features = torch.eye(4)
    targets = SparseTargets(torch.arange(3), torch.arange(4))
    scores = nn.Linear(4, 5, bias=False)
    with torch.no_grad():
        scores.weight.copy_(torch.eye(5, 4))
        scores.weight[3:] = 9
    found = measure(scores, feature_batches(features[:3], targets), Grouping([0, 0, 1]))
    assert found["mpvap"] == found["top1"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ("paced", "none")}, "rows must be some of generalist, .*, got 'none'"),
        ({"rows": ()}, "rows must be some of generalist, .*, got none"),
        ({"top2": 0}, "top2 must be at least 1, got 0"),
        ({"rows": ("fc_sc",), "keep": "paced"}, "keep must be one of the rows, got 'paced'"),
    ],
)
def test_config_rejects(changes, message):
    with pytest.raises(ValueError, match=message):
        StudentsConfig(**changes)


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (StudentsConfig(), "paced"),
        (StudentsConfig(rows=("fc_fc", "fc_sc", "found")), "fc_sc"),
        (StudentsConfig(rows=("found",)), "found"),
        (StudentsConfig(rows=("paced", "fc_sc"), keep="fc_sc"), "fc_sc"),
    ],
)
def test_which_student_is_kept(config, kept):
    assert config.kept == kept
