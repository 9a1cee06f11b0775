"""Own teachers and students of any kind: trained as a whole, on what the teachers say."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
from torch import nn

import fastheads
from fastheads.data import Augmentation, Normalize
from fastheads.labels import Grouping
from fastheads.losses import sigmoid_cross_entropy
from fastheads.models import HeadedNetwork, small_trunk
from fastheads.nn import Standardize, fc_sc
from fastheads.pipelines.own_students import Distilled, verticals_of
from fastheads.pipelines.teachers import Prepare, Teacher, Teachers
from fastheads.targets import SparseTargets

TRAINING = replace(tiny.STEPS, epochs=2, lr=0.01)


def convolutional(size, labels, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        small_trunk(1, (4, 8)), nn.Flatten(), nn.Linear(8 * (size // 4) ** 2, labels)
    )


@pytest.fixture(scope="module")
def teachers(data):
    """Untrained ones, of pictures of another size and normalisation."""
    own, other = Normalize(), Normalize((0.0,), (1.0,))
    cut = data.num_labels // 3
    return [
        Teacher("few", convolutional(16, cut, 1), torch.arange(cut), Prepare(16, 1, other, own)),
        Teacher(
            "many", convolutional(32, data.num_labels - cut, 2), torch.arange(cut, data.num_labels)
        ),
    ]


def student(data, grouping):
    torch.manual_seed(5)
    head = fc_sc(8 * 64, 16, 6, grouping)
    return HeadedNetwork(small_trunk(1, (4, 8)), Standardize(8), head)


def test_verticals_are_the_labels_of_the_teachers(teachers, data):
    grouping = verticals_of(teachers, data.num_labels)
    assert grouping.names == ("few", "many")
    assert grouping.sizes.tolist() == [len(t.labels) for t in teachers]


def test_loss_is_that_of_the_soft_targets_equation_2(teachers, data):
    grouping = verticals_of(teachers, data.num_labels)
    asked = Teachers(teachers, grouping, 7)
    images, annotated = data.train.__getitems__([0, 300, 5])
    inputs = Normalize()(images)
    soft = asked(inputs, annotated)
    ours = student(data, grouping)
    plain = convolutional(32, data.num_labels)
    for network in (ours, plain):
        network.eval()
        model = Distilled(network, asked)
        expected = sigmoid_cross_entropy(network(inputs), soft)
        torch.testing.assert_close(model(inputs, annotated), expected)
        names = {name for name, _ in model.named_parameters()}
        assert names == {f"student.{name}" for name, _ in network.named_parameters()}


def test_students_of_any_kind_are_trained(teachers, data, tmp_path):
    grouping = verticals_of(teachers, data.num_labels)
    students = {"ours": student(data, grouping), "plain": convolutional(32, data.num_labels)}
    before = {name: [p.clone() for p in s.parameters()] for name, s in students.items()}
    metrics = fastheads.concentrate(
        students, teachers, data, output_dir=tmp_path, training=TRAINING, top_k=5
    )
    assert list(metrics) == ["ours", "plain", "specialists"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    for name, network in students.items():
        assert not network.training
        assert all(
            not torch.equal(old, new)
            for old, new in zip(before[name], network.parameters(), strict=True)
        )
        assert (tmp_path / f"{name}.safetensors").exists()
        assert 0 < metrics[name]["mpvap"] < 1 and len(metrics[name]["pvap"]) == 2
    assert metrics["ours"]["macs"] > students["ours"].head.macs

    again = {"ours": student(data, grouping), "plain": convolutional(32, data.num_labels)}
    fastheads.concentrate(again, teachers, data, output_dir=tmp_path, training=TRAINING, top_k=5)
    for name, network in students.items():
        for old, new in zip(network.parameters(), again[name].parameters(), strict=True):
            assert torch.equal(old, new)


def test_a_student_learns_from_its_teachers_alone(data, tmp_path):
    """Teachers that know nothing teach nothing, whatever is annotated."""
    count = data.num_labels
    silent = convolutional(32, count)
    nn.init.zeros_(silent[-1].weight)
    nn.init.constant_(silent[-1].bias, -4.0)
    learner = convolutional(32, count)
    teacher = Teacher("all", silent, torch.arange(count))
    fastheads.concentrate(
        {"learner": learner}, [teacher], data, output_dir=tmp_path,
        training=replace(TRAINING, epochs=6), augmentation=Augmentation(), top_k=count,
    )  # fmt: skip
    images, _ = data.test.__getitems__(list(range(30)))
    with torch.no_grad():
        said = learner(Normalize()(images)).sigmoid()
    assert abs(float(said.mean()) - float(torch.tensor(-4.0).sigmoid())) < 0.02


def test_refuses_what_does_not_fit(teachers, data, tmp_path):
    count = data.num_labels
    options = {"output_dir": tmp_path, "training": TRAINING, "top_k": 5}
    short = {"short": convolutional(32, count - 1)}
    with pytest.raises(ValueError, match=rf"'short' must give one logit for each of the {count} "):
        fastheads.concentrate(short, teachers, data, **options)
    good = {"good": convolutional(32, count)}
    with pytest.raises(ValueError, match=r"teachers must know every label, got none for label"):
        fastheads.concentrate(good, teachers[:1], data, **options)
    twice = [teachers[0], replace(teachers[0], name="again")]
    with pytest.raises(ValueError, match=r"got label 0 of both 'few' and 'again'"):
        fastheads.concentrate(good, twice, data, **options)
    other = Grouping([0] * count, ("all",))
    with pytest.raises(ValueError, match="teachers must be"):
        fastheads.concentrate(good, teachers, data, grouping=other, **options)
    with pytest.raises(ValueError, match=f"must know labels below {count - 5}, got {count - 1}"):
        verticals_of(teachers, count - 5)
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_targets_without_values_stay_annotations(teachers, data):
    """A row whose labels lie in both verticals asks both teachers."""
    grouping = verticals_of(teachers, data.num_labels)
    both = SparseTargets.from_lists([[0, data.num_labels - 1], [1]])
    images, _ = data.train.__getitems__([0, 1])
    soft = Teachers(teachers, grouping, 4)(Normalize()(images), both)
    assert soft.counts.tolist() == [8, 4]
    assert set(grouping.group_of[soft.tolist()[0]]) == {0, 1}
