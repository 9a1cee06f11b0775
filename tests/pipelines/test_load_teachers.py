"""Teachers from files say what the networks say that were saved there, or are refused."""

import csv
import json
import re
import sys

import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml
from safetensors.torch import save_file

from fastheads.data import Augmentation, Normalize
from fastheads.labels import Grouping, LabelSpace
from fastheads.models import BaseConfig
from fastheads.pipelines.load_teachers import load_teachers
from fastheads.pipelines.teachers import Teachers
from fastheads.pipelines.train_teachers import TeachersConfig, train_teachers
from fastheads.targets import SparseTargets
from fastheads.training import TrainConfig

LABELS = LabelSpace(("pug", "tabby", "beagle", "manx", "boxer"))
GROUPING = Grouping(np.array([0, 1, 0, 1, 0]), ("dogs", "cats"))
SIZE = 32  # of what both networks take
IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    dogs = torchvision.models.resnet18(num_classes=4)
    cats = timm.create_model("resnet10t", num_classes=2, in_chans=1)
    return {"dogs": dogs.eval(), "cats": cats.eval()}


@pytest.fixture
def files(networks, tmp_path):
    """A description with both kinds of networks, checkpoints and label maps."""
    weights = {f"module.{k}": v for k, v in networks["dogs"].state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "dogs.pth")
    save_file(dict(networks["cats"].state_dict()), tmp_path / "cats.safetensors")
    (tmp_path / "dogs.json").write_text(json.dumps({"2": "pug", "0": "boxer", "3": "beagle"}))
    with open(tmp_path / "cats.csv", "w") as file:
        csv.writer(file).writerows([("output", "label"), (1, "tabby"), (0, "manx")])
    return tmp_path


ENTRIES = [
    {
        "vertical": "cats",
        "model": "timm:resnet10t",
        "checkpoint": "cats.safetensors",
        "labels": "cats.csv",
        "channels": 1,
        "mean": [0.5],
        "std": [0.25],
    },
    {
        "vertical": "dogs",
        "model": "torchvision:resnet18",
        "checkpoint": "dogs.pth",
        "labels": "dogs.json",
        "size": SIZE,
    },
]


def write(folder, entries, name="teachers.yaml"):
    path = folder / name
    path.write_text(yaml.safe_dump(entries) if name.endswith("yaml") else json.dumps(entries))
    return path


def changed(**changes):
    """The description, with other settings of the dogs' teacher; None leaves one out."""
    dogs = {k: v for k, v in {**ENTRIES[1], **changes}.items() if v is not None}
    return [ENTRIES[0], dogs]


@pytest.mark.parametrize("name", ["teachers.yaml", "teachers.json"])
def test_teachers_are_the_networks(files, networks, name):
    teachers = load_teachers(write(files, ENTRIES, name), LABELS, GROUPING)
    assert [teacher.name for teacher in teachers] == ["dogs", "cats"]
    assert [teacher.labels.tolist() for teacher in teachers] == [[4, -1, 0, 2], [3, 1]]
    torch.manual_seed(1)
    images = torch.randint(0, 256, (3, 1, SIZE, SIZE), dtype=torch.uint8)
    inputs = {
        "dogs": IMAGENET(images.expand(-1, 3, -1, -1)),
        "cats": Normalize((0.5,), (0.25,))(images),
    }
    soft = Teachers(teachers, GROUPING, 2, device="cpu")(
        Normalize()(images), SparseTargets.from_lists([[0], [3], [4]])
    )
    with torch.no_grad():
        p = {name: network(inputs[name]).sigmoid() for name, network in networks.items()}
    for row, name in enumerate(["dogs", "cats", "dogs"]):
        labels = teachers[GROUPING.names.index(name)].labels
        known = [
            (float(p[name][row, n]), label) for n, label in enumerate(labels.tolist()) if label >= 0
        ]
        best = sorted(known, reverse=True)[:2]
        part = soft.select(torch.tensor([row]))
        assert part.tolist() == [sorted(label for _, label in best)]
        expected = [value for value, _ in sorted(best, key=lambda each: each[1])]
        torch.testing.assert_close(part.values, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_own_teachers(data, tmp_path):
    """Those of a run, in another run with other labels, sizes and normalisation."""
    grouping = Grouping(np.arange(data.num_labels) % 2, ("even", "odd"))
    config = TeachersConfig(
        training=TrainConfig(epochs=1, batch_size=32, accelerator="cpu", threads=1),
        min_steps=0, channels=(8, 8), hidden=(8, 8), processes=1,
    )  # fmt: skip
    trained = train_teachers(data, grouping, None, config, Augmentation(), tmp_path, 0, quiet=True)
    names = data.label_space.names[::-1][:-4]
    labels = LabelSpace(names)
    group_of = [grouping.group_of[data.label_space.index(name)] for name in names]
    images = data.test.__getitems__([0, 1, 2])[0]
    other = Normalize((0.3,), (0.2,))
    for path in (tmp_path, tmp_path / "teachers", None):
        if path is None:
            rows = [{"vertical": name, "run": f"teachers/{name}"} for name in ("odd", "even")]
            path = write(tmp_path, rows)
        loaded = load_teachers(path, labels, Grouping(group_of, ("even", "odd")), other)
        for one, two in zip(trained, loaded, strict=True):
            assert one.name == two.name
            expected = [data.label_space.names[label] for label in one.labels]
            got = [names[label] if label >= 0 else None for label in two.labels]
            assert got == [name if name in names else None for name in expected]
            with torch.no_grad():
                first = one.network(Normalize()(images))
                torch.testing.assert_close(two.network(two.prepare(other(images))), first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vertical": "birds"},
            "teacher 'birds' of .* must be for one of the verticals dogs, cats",
        ),
        ({"vertical": "cats"}, "must have one teacher for 'cats', got two"),
        ({"model": "resnet18"}, "must be timm:NAME or torchvision:NAME, got 'resnet18'"),
        ({"model": "torchvision:resnet0"}, "that torchvision can build, got 'resnet0'"),
        ({"model": "timm:resnet0"}, "that timm can build, got 'resnet0'"),
        ({"options": {"depth": 3}}, "torchvision can build, got 'resnet18' .*depth"),
        ({"labels": None}, "teacher 'dogs' of .* must have labels, got none"),
        ({"weights": "x"}, "teacher 'dogs' of .* must have settings among .*, got {'weights'}"),
        ({"labels": "none.csv"}, "none.csv must be a file that can be read"),
        ({"checkpoint": "none.pth"}, "checkpoint must be a file, got .*none.pth"),
        ({"model": "torchvision:resnet34"}, "got no layer1.2.conv1.weight"),
        (
            {"model": "torchvision:alexnet"},
            "teacher 'dogs': checkpoint .*dogs.pth must fit the AlexNet, got no features.0.weight",
        ),
        ({"outputs": 7}, r"got fc.weight of shape \[4, 512\] in place of \[7, 512\]"),
        ({"outputs": 3}, "name at most the 3 outputs of teacher 'dogs', got output 3"),
        ({"run": "."}, "teacher 'dogs' must be a finished one, got .* without teacher.json"),
        ({"std": [0.0]}, "std must be above 0"),
    ],
)
def test_errors(files, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        load_teachers(write(files, changed(**changes)), LABELS, GROUPING)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "teachers.yaml must be YAML or JSON, got"),
        ("vertical: cats", "must be a list of teachers, each with its settings by name"),
        (yaml.safe_dump(ENTRIES[:1]), "must have a teacher for each vertical, got none for dogs"),
    ],
)
def test_descriptions(files, text, message):
    (files / "teachers.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_teachers(files / "teachers.yaml", LABELS, GROUPING)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"none.yaml must be a file that can be read \(No such"):
        load_teachers(files / "none.yaml", LABELS, GROUPING)
    with pytest.raises(ValueError, match="must lie in a folder that a run has written, got"):
        load_teachers(files, LABELS, GROUPING)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("dogs.json", "{", "dogs.json must be JSON, got"),
        ("dogs.json", '{"a": "pug"}', "must give names to outputs by their numbers, from 0"),
        ("dogs.json", "3", "must give names to outputs by their numbers, from 0"),
        ("dogs.json", "[]", "must give names to outputs by their numbers, from 0"),
        ("dogs.csv", "a,b\n1,pug\n", r"must have the columns output and label, got \['a', 'b'\]"),
    ],
)
def test_label_maps(files, name, text, message):
    (files / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_teachers(write(files, changed(labels=name)), LABELS, GROUPING)
    assert "\n" not in str(error.value)


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("kind", ["code", "truncated", "no weights", "truncated safetensors"])
def test_checkpoints(files, kind, capsys):
    path = files / "dogs.pth"
    if kind == "code":
        torch.save({"state_dict": Evil()}, path)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "no weights":
        torch.save([1, 2], path)
    else:
        path = files / "dogs.safetensors"
        path.write_bytes((files / "cats.safetensors").read_bytes()[:-7])
    with pytest.raises(ValueError, match=rf"checkpoint .*{re.escape(path.name)} must") as error:
        load_teachers(write(files, changed(checkpoint=path.name)), LABELS, GROUPING)
    assert "\n" not in str(error.value)
    assert "run\n" not in capsys.readouterr().out


def test_own_teacher_of_other_shape(data, tmp_path):
    grouping = Grouping(np.zeros(data.num_labels, np.int64), ("all",))
    config = TeachersConfig(
        training=TrainConfig(epochs=1, batch_size=32, accelerator="cpu", threads=1),
        min_steps=0, channels=(8, 8), hidden=(8, 8), processes=1,
    )  # fmt: skip
    train_teachers(data, grouping, None, config, Augmentation(), tmp_path, 0, quiet=True)
    path = tmp_path / "teachers" / "all" / "teacher.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "base": vars(BaseConfig((8, 8), (8, 9)))}))
    with pytest.raises(
        ValueError, match=r"model.safetensors must fit .*teacher.json, got"
    ) as error:
        load_teachers(tmp_path, data.label_space, grouping)
    assert "\n" not in str(error.value)


def test_library_that_is_not_installed(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    message = "teacher 'cats': model 'timm:resnet10t' needs timm, which is not installed: pip"
    with pytest.raises(ModuleNotFoundError, match=message):
        load_teachers(write(files, ENTRIES), LABELS, GROUPING)
