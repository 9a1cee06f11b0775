"""A torchvision network grows heads on scikit-learn's digits, which lie in an image folder."""

import copy
import json

import numpy as np
import pytest
import tiny
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from fastheads.data import Augmentation, Normalize, load_folder
from fastheads.metrics import evaluate
from fastheads.models import Tap
from fastheads.pipelines.heads import HeadsConfig
from fastheads.pipelines.own_network import augment

NORMALIZE = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPTIONS = {
    "feature_layer": "layer3",
    "classifier": "fc",
    "heads": HeadsConfig(num_groups=3, widths=(8,), top_k=3, loss="softmax"),
    "training": tiny.STEPS,
    "augmentation": Augmentation(normalize=NORMALIZE),
    "passes": 1,
    "seeds": (0, 1),
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(images[:400], labels[:400], strict=True)):
        (root / str(label)).mkdir(exist_ok=True)
        picture = (image.reshape(8, 8) * 255 / 16).round().astype("uint8")
        Image.fromarray(picture).save(root / str(label) / f"{i:03d}.png")
    return load_folder(root, channels=3, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="module")
def model(digits):
    """A ResNet-18 with a random trunk, whose last layer is fitted a little."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=10)
    network.train()
    images, targets = digits.train.__getitems__(list(range(len(digits.train))))
    with torch.no_grad():
        network(NORMALIZE(images[:128]))  # batch norm statistics
        _, hidden = Tap(network, "layer3", "fc").eval()(NORMALIZE(images))
    optimizer = torch.optim.Adam(network.fc.parameters(), 0.01)
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(network.fc(hidden), targets.indices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return network  # in training mode, as a user may leave it


@pytest.fixture(scope="module")
def run(model, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    before = copy.deepcopy(model)
    return augment(model, data=digits, output_dir=folder, **OPTIONS), folder, before


def test_rows_and_report(run):
    result, folder, _ = run
    assert list(result.metrics) == tiny.ROWS
    assert json.loads((folder / "metrics.json").read_text()) == result.metrics
    assert result.report == folder / "report.html"
    assert result.report.stat().st_size > 10_000
    analysis = json.loads((folder / "analysis.json").read_text())
    assert analysis["num_groups"] == 3
    assert sum(group["size"] for group in analysis["groups"]) == 10


def test_leaves_the_network_as_it_is(run, model):
    _, _, before = run
    assert [name for name, _ in model.named_modules()] == [n for n, _ in before.named_modules()]
    for key, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_base_is_the_network(run, model, digits):
    result, _, before = run
    images, targets = digits.test.__getitems__(list(range(len(digits.test))))
    with torch.no_grad():
        scores = copy.deepcopy(before).eval()(NORMALIZE(images))
    found = result.metrics["base"]
    expected = evaluate([(scores, targets)], 10)
    assert {name: found[name]["mean"] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert expected["top1"] > 0.3
    assert all(found[name]["std"] == 0 for name in expected)  # the same network for each seed


def test_augmented_network(run, digits):
    result, folder, _ = run
    images, targets = digits.test.__getitems__(list(range(len(digits.test))))
    with torch.no_grad():
        scores = result.network(NORMALIZE(images))
    found = result.metrics["confusions"]
    expected = evaluate([(scores, targets)], 10)
    got = {name: found[name]["seeds"][0] for name in expected}
    assert got == pytest.approx(expected, abs=1e-6)
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(stored[k], v) for k, v in result.network.state_dict().items())


def test_second_call(run, digits):
    result, folder, before = run
    again = augment(before, data=digits, output_dir=folder, **OPTIONS)
    assert again.metrics == result.metrics


def test_refuses_another_network_or_other_data(run, digits):
    """What is stored in the folder was computed by one network on one set of pictures."""
    _, folder, before = run
    other = copy.deepcopy(before)
    with torch.no_grad():
        other.layer1[0].conv1.weight.add_(0.01)
    with pytest.raises(ValueError, match=r"another configuration .*weights"):
        augment(other, data=digits, output_dir=folder, **OPTIONS)
    fewer = copy.copy(digits.test)
    fewer.rows, fewer.targets = fewer.rows[1:], fewer.targets.select(torch.arange(1, len(fewer)))
    with pytest.raises(ValueError, match="other data"):
        augment(before, data=tiny.replace(digits, test=fewer), output_dir=folder, **OPTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_layer": "layer9"}, "feature_layer must be the name of a layer of ResNet"),
        ({"classifier": "avgpool"}, "classifier must be the name of an nn.Linear"),
        (
            {"heads": HeadsConfig(num_groups=11, loss="softmax", top_k=3)},
            "num_groups must be at most the 10 labels, got 11",
        ),
    ],
)
def test_errors(model, digits, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        augment(model, data=digits, output_dir=tmp_path, **OPTIONS | changes)
    assert "\n" not in str(error.value)


def test_classifier_of_other_labels(digits, tmp_path):
    model = torchvision.models.squeezenet1_1(num_classes=10)  # its classifier is a convolution
    with pytest.raises(ValueError, match=r"must be the name of an nn.Linear, got Conv2d"):
        augment(model, data=digits, output_dir=tmp_path, **OPTIONS | {
            "feature_layer": "features", "classifier": "classifier.1"})  # fmt: skip
    model = torchvision.models.resnet18(num_classes=12)
    message = "classifier must have one output for each of the 10 labels, got 12"
    with pytest.raises(ValueError, match=message):
        augment(model, data=digits, output_dir=tmp_path, **OPTIONS)


def test_pictures_of_colour_networks_are_gray(run):
    _, folder, _ = run
    with np.load(folder / "analysis.npz") as arrays:
        assert arrays["group_0"].shape[1:] == (32, 32)
