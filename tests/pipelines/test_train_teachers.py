"""A teacher a vertical is trained, in this process or in several, and goes on where it stopped."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from fastheads.data import Augmentation
from fastheads.data.images import Pictures
from fastheads.hierarchy import Hierarchy
from fastheads.labels import Grouping
from fastheads.models import BaseConfig, BaseNetwork
from fastheads.pipelines import teacher_task
from fastheads.pipelines.teachers import Teachers
from fastheads.pipelines.train_teachers import TeachersConfig, folder_name, train_teachers
from fastheads.targets import SparseTargets

CONFIG = TeachersConfig(
    training=replace(tiny.STEPS, epochs=12, lr=0.01),
    min_steps=20,
    channels=(8, 16),
    hidden=(32, 16),
    top_k=5,
    processes=1,
)
NAMES = ("first", "second/third", "..")


@pytest.fixture(scope="module")
def grouping(data):
    return Grouping(np.arange(data.num_labels) * 3 // data.num_labels, NAMES)


@pytest.fixture(scope="module")
def hierarchy(data):
    """One node above all labels of the first vertical."""
    count = data.num_labels
    return Hierarchy.from_parents([[count] if 3 * n < count else [] for n in range(count)] + [[]])


@pytest.fixture(scope="module")
def with_node(grouping):
    return Grouping(np.append(grouping.group_of, 0), NAMES)


def train(data, grouping, hierarchy, folder, config=CONFIG, seed=1, **options):
    names = (*data.label_space.names, "the node")[: grouping.num_labels]
    augmentation = options.pop("augmentation", Augmentation())
    return train_teachers(
        data, grouping, hierarchy, config, augmentation, folder, seed,
        label_names=names, quiet=True, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(data, with_node, hierarchy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return train(data, with_node, hierarchy, folder), folder


def weights(folder):
    return {
        path.parent.name: path.read_bytes()
        for path in sorted((folder / "teachers").glob("*/model.safetensors"))
    }


def test_teachers_know_their_verticals(trained, data, with_node):
    teachers, _ = trained
    assert [teacher.name for teacher in teachers] == list(NAMES)
    assert all(not teacher.network.training for teacher in teachers)
    soft = Teachers(teachers, with_node, 5)
    rows = torch.arange(len(data.train))
    images, targets = data.train.__getitems__(rows.tolist())
    said = soft(Augmentation().normalize(images), targets)
    group = torch.from_numpy(with_node.group_of)
    best = {}
    for row, label, p in zip(said.row_indices().tolist(), said.indices.tolist(), said.values,
                             strict=True):  # fmt: skip
        if label < data.num_labels and p > best.get(row, (0, 0))[0]:
            best[row] = (p, label)
    right = np.mean([best[row][1] in labels for row, labels in enumerate(targets.tolist())])
    assert right > 0.6  # 1 in 20 by chance
    assert torch.equal(group[said.indices], group[targets.indices][said.row_indices()])


def test_ancestors_are_learned(trained, data):
    """Label smearing: every picture of the first vertical shows the node too."""
    teachers, _ = trained
    first = data.train.targets.indices < data.num_labels // 3
    images, _ = data.train.__getitems__(first.nonzero().squeeze(1).tolist())
    with torch.no_grad():
        p = teachers[0].network(Augmentation().normalize(images)).sigmoid()
    assert teachers[0].labels[-1] == data.num_labels
    assert p[:, -1].mean() > 0.9
    assert p[:, :-1].mean() < 0.3


def test_without_hierarchy_there_is_no_smearing(data, with_node, hierarchy, tmp_path):
    short = replace(CONFIG, training=replace(CONFIG.training, epochs=1), min_steps=0)
    smeared = train(data, with_node, hierarchy, tmp_path / "smeared", short)
    plain = train(data, with_node, None, tmp_path / "plain", short)
    assert torch.equal(smeared[1].network.classifier.weight, plain[1].network.classifier.weight)
    bias = [teachers[0].network.classifier.bias[-1] for teachers in (smeared, plain)]
    assert bias[0] > bias[1]


def test_every_teacher_has_a_folder(trained):
    _, folder = trained
    names = {path.name for path in (folder / "teachers").iterdir()}
    assert names == {"first", "second%2Fthird", "%2E%2E"}
    stored = json.loads((folder / "teachers" / "first" / "teacher.json").read_text())
    assert stored["name"] == "first"
    assert stored["labels"][-1] == "the node"
    assert stored["training"]["epochs"] == 12


def test_small_verticals_have_more_epochs(data, grouping, tmp_path):
    config = replace(CONFIG, training=replace(CONFIG.training, epochs=1), min_steps=7)
    train(data, grouping, None, tmp_path, config)
    for name in map(folder_name, NAMES):
        stored = json.loads((tmp_path / "teachers" / name / "teacher.json").read_text())
        rows = (data.train.targets.counts > 0).sum() // 3
        assert stored["training"]["epochs"] * (rows // 32) >= 7


@pytest.mark.slow
def test_processes_end_where_one_ends(trained, data, with_node, hierarchy, tmp_path):
    _, folder = trained
    train(data, with_node, hierarchy, tmp_path, replace(CONFIG, processes=2))
    assert weights(tmp_path) == weights(folder)


def test_finished_teachers_are_read(trained, data, with_node, hierarchy, monkeypatch):
    teachers, folder = trained
    monkeypatch.setattr(teacher_task, "train_teacher", None)
    again = train(data, with_node, hierarchy, folder)
    for one, other in zip(teachers, again, strict=True):
        for key, tensor in one.network.state_dict().items():
            assert torch.equal(other.network.state_dict()[key], tensor)


def test_refuses_teachers_of_other_settings(trained, data, with_node, hierarchy):
    _, folder = trained
    before = weights(folder)
    for config, options, what in (
        (replace(CONFIG, hidden=(8, 8)), {}, "base.hidden was"),
        (CONFIG, {"seed": 2}, "training.seed was"),
        (CONFIG, {"augmentation": Augmentation(noise=0.5)}, "augmentation.noise was"),
    ):
        with pytest.raises(ValueError, match=rf"another configuration \({what}") as error:
            train(data, with_node, hierarchy, folder, config, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="another configuration"):  # without the node
        train(data, Grouping(with_node.group_of[:-1], NAMES), None, folder)
    assert weights(folder) == before


def test_starts_from_the_trunk(data, grouping, tmp_path):
    torch.manual_seed(0)
    shape = tuple(data.train.images.shape[1:])
    trunk = BaseNetwork(shape, 4, BaseConfig((8, 16), (8,))).trunk
    still = replace(CONFIG, training=replace(CONFIG.training, epochs=1, lr=1e-12), min_steps=0)
    for name, config in (("new", replace(still, from_trunk=False)), ("given", still)):
        teachers = train(data, grouping, None, tmp_path / name, config, trunk=trunk)
        difference = teachers[0].network.trunk[0].weight - trunk[0].weight
        assert (float(difference.detach().abs().max()) < 1e-6) == (name == "given")


def test_trunk_of_another_shape(data, grouping, tmp_path):
    trunk = BaseNetwork(tuple(data.train.images.shape[1:]), 4, BaseConfig((8, 8), (8,))).trunk
    with pytest.raises(ValueError, match=r"trunk must have the shape .* from_trunk to false"):
        train(data, grouping, None, tmp_path, trunk=trunk)


def test_vertical_without_pictures(data, tmp_path):
    grouping = Grouping(np.append(np.zeros(data.num_labels, np.int64), [1, 1]), ("all", "none"))
    with pytest.raises(ValueError, match="vertical 'none' must have a picture to train on"):
        train_teachers(
            data, grouping, None, CONFIG, Augmentation(), tmp_path, 0,
            label_names=("",) * grouping.num_labels, quiet=True,
        )  # fmt: skip


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_error_of_a_teacher(data, grouping, tmp_path, processes):
    wild = replace(CONFIG, training=replace(CONFIG.training, lr=1e30), processes=processes)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step"):
        train(data, grouping, None, tmp_path, wild)


class Elsewhere(Augmentation):
    """Which no other process can import: this module is not on its path."""


@pytest.mark.slow
def test_process_that_dies(data, grouping, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    message = r"teacher '.+' could not be trained: its process ended with status 1; the same run"
    two = replace(CONFIG, processes=2)
    with pytest.raises(ChildProcessError, match=message) as error:
        train(data, grouping, None, tmp_path, two, augmentation=Elsewhere())
    assert "\n" not in str(error.value)


def test_pictures_reach_a_process_by_the_name_of_their_file(data):
    targets = data.train.targets.select(torch.tensor([1, 3]))
    mapped = Pictures(data.train.images, data.train.rows[[1, 3]], targets)
    held = Pictures(np.array(data.train.images), mapped.rows, targets)
    part = Pictures(data.train.images[1:], mapped.rows - 1, targets)
    for pictures in (mapped, held, part):
        sent = pickle.dumps(pictures)
        assert len(sent) < 10_000
        images, labels = pickle.loads(sent).__getitems__([1, 0])
        expected, _ = data.train.__getitems__([3, 1])
        assert torch.equal(images, expected)
        assert labels.tolist() == targets.select(torch.tensor([1, 0])).tolist()
    assert str(data.train.images.filename).encode() in pickle.dumps(mapped)


SCRIPT = """
import sys, torch
sys.path[:0] = sys.argv[4:]
torch.set_num_threads(1)
import test_train_teachers as test
from fastheads.data import load_data
from fastheads.labels import Grouping
import pickle
config, data_config, group_of = pickle.load(open(sys.argv[2], "rb"))
data = load_data(data_config, progress=False)
test.train(data, Grouping(group_of, test.NAMES), None, sys.argv[1], config)
"""


@pytest.mark.slow
def test_killed_run_ends_the_same(data, grouping, full_config, tmp_path):
    """No teacher's process outlives the run, and what was begun goes on from its checkpoint."""
    training = replace(CONFIG.training, epochs=30, checkpoint_seconds=0, log_every=5)
    config = replace(CONFIG, training=training, processes=2)
    train(data, grouping, None, tmp_path / "whole", replace(config, processes=1))
    (tmp_path / "job").write_bytes(pickle.dumps((config, full_config.data, grouping.group_of)))
    command = [sys.executable, "-c", SCRIPT, tmp_path / "killed", tmp_path / "job", "x", *sys.path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not list((tmp_path / "killed").glob("teachers/*/checkpoint.pt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    assert len(children) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not weights(tmp_path / "killed") == weights(tmp_path / "whole")
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{child}") for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    train(data, grouping, None, tmp_path / "killed", config)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"processes": 0}, "processes must be at least 1, got 0"),
        ({"min_steps": -1}, "min_steps must be at least 0, got -1"),
        ({"hidden": ()}, "hidden must hold at least one width"),
    ],
)
def test_config_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_targets_stay_within_the_vertical(data, grouping):
    """A picture with labels in two verticals teaches each teacher its own ones."""
    from fastheads.pipelines.train_teachers import vertical_pictures

    lists = data.train.targets.tolist()
    last = data.num_labels - 1
    lists[0] = [0, last]
    targets = SparseTargets.from_lists(lists)
    first = vertical_pictures(data, targets, grouping, 0)
    third = vertical_pictures(data, targets, grouping, 2)
    assert first.targets.tolist()[0] == [0]
    assert third.targets.tolist()[0] == [int(grouping.sizes[2]) - 1]
    assert first.rows[0] == third.rows[0] == data.train.rows[0]
