"""A whole lesion study on few labels: networks, studies, files, resume, networks of others."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torchvision
from torch import nn

import fastheads
from fastheads.data import Data, DataConfig, Normalize, load_data
from fastheads.metrics import evaluate
from fastheads.nn import scale_branches
from fastheads.nn.residual_blocks import require_residual_blocks
from fastheads.nn.switched_block import StochasticDepth
from fastheads.pipelines import lesion_task
from fastheads.pipelines.lesion import LesionConfig, check_network, lesion, lesion_run
from fastheads.pipelines.lesion_networks import ROWS, NetworksConfig
from fastheads.pipelines.lesion_studies import deleted, error_rate
from fastheads.pipelines.lesion_task import LesionsConfig, some_pictures
from fastheads.pipelines.paths import path_shares, remaining_paths

FEW = LesionsConfig(
    pictures=15, deleted=(1, 2, 9), deletions=3, swaps=(1, 3), reorderings=2, paths=4,
    path_pictures=5,
)  # fmt: skip
NORMALIZE = Normalize((0.4,), (0.3,))


def tiny_config(folder, cache_dir, **changes):
    """20 glyphs, 8 blocks, one seed."""
    config = LesionConfig(
        output_dir=folder,
        data=DataConfig(limit_labels=20, cache_dir=cache_dir),
        networks=NetworksConfig(
            blocks=(3, 3, 2),
            widths=(8, 8, 16),
            vgg_width=8,
            training=replace(tiny.STEPS, epochs=2, lr=2e-2),
            processes=1,
        ),
        lesions=FEW,
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def config(tmp_path_factory, cache_dir):
    return tiny_config(tmp_path_factory.mktemp("lesion"), cache_dir)


@pytest.fixture(scope="module")
def result(config):
    return lesion_run(config)


@pytest.fixture(scope="module")
def glyphs(config):
    return load_data(config.data, progress=False)


def test_every_row_has_its_metrics_and_cost(result, config):
    assert list(result.metrics) == list(ROWS)
    for metrics in result.metrics.values():
        assert len(metrics["top1"]["seeds"]) == len(metrics["top5"]["seeds"]) == 1
        assert 0 <= metrics["top1"]["mean"] <= metrics["top5"]["mean"] <= 1
    same = ("resnet", "stochastic_depth", "effective_paths")
    for name in ("macs", "parameters"):
        assert len({result.metrics[row][name] for row in same}) == 1
    assert json.loads((config.output_dir / "metrics.json").read_text()) == result.metrics
    assert result.report == config.output_dir / "report.html" and result.report.exists()


def test_analysis_is_complete(result, config):
    analysis = json.loads((config.output_dir / "analysis.json").read_text())
    assert analysis["system"] == "lesion" and set(analysis["networks"]) == set(ROWS)
    resnet, vgg = analysis["networks"]["resnet"], analysis["networks"]["vgg"]
    assert (resnet["name"], resnet["depth"], vgg["name"]) == (
        "ResNet-18, 2 epochs",
        8,
        "VGG-15x8, 2 epochs",
    )
    down = [n for n, block in enumerate(resnet["blocks"]) if block["downsampling"]]
    assert down == [3, 6] and len(vgg["blocks"]) == vgg["depth"] == 13
    few = analysis["networks"]["effective_paths"]["name"]
    assert few == "ResNet-18, 3 blocks a batch, 5 epochs"
    for row in ROWS:
        single = analysis["single"][row]
        assert [len(error) for error in single["error"]] == [analysis["networks"][row]["depth"]]
        assert len(single["whole"]) == 1
    many = analysis["many"]["resnet"]
    assert many["deleted"] == [1, 2]  # nine are more than there are
    assert np.shape(many["error"]) == (1, 2, 3)
    order = analysis["reorder"]["resnet"]
    assert order["swaps"] == [1, 1, 3, 3] and len(order["tau"]) == len(order["error"]) == 4
    assert all(-1 <= tau < 1 for tau in order["tau"])
    gradients = analysis["gradients"]["resnet"]
    assert gradients["lengths"] == list(range(9)) and np.shape(gradients["norm"]) == (9, 4)
    assert np.min(gradients["norm"]) > 0
    assert analysis["paths"]["resnet"] == {"n": 8, "counts": path_shares(8)}
    assert analysis["remaining"]["deleted"] == [1]
    assert analysis["remaining"]["fraction"][0] == remaining_paths(8, 1)
    product = np.array(path_shares(8)) * np.mean(gradients["norm"], 1)
    found = analysis["effective"]["resnet"]
    assert found["product"] == pytest.approx(product / product.sum())
    assert sum(found["product"][found["low"] : found["high"] + 1]) >= 0.95 - 1e-9
    assert analysis["training"] == {"modules": 3, "of": 8, "rows": ["resnet", "effective_paths"]}
    keys = [finding["key"] for finding in analysis["findings"]]
    assert keys == ["single_mild", "smooth_decay", "short_paths"]
    assert {curve["row"] for curve in analysis["curves"]} == set(ROWS)
    stages = {row["stage"] for row in analysis["durations"]}
    assert {"training resnet", "single of vgg", "gradients of resnet"} <= stages


def test_errors_are_those_of_the_network(result, config, glyphs):
    """The first seed's network, without its fifth block, on the drawn pictures."""
    network = result.networks["resnet"]
    images, targets = some_pictures(glyphs.test, 15, 0).__getitems__(list(range(15)))
    batch = [(config.augmentation.normalize(images), targets)]
    whole = error_rate(network, batch)
    with deleted(network, require_residual_blocks(network), [5]):
        without = error_rate(network, batch)
    single = result.analysis["single"]["resnet"]
    assert (single["whole"][0], single["error"][0][5]) == (whole, without)
    images, targets = glyphs.test.__getitems__(list(range(len(glyphs.test))))
    with torch.no_grad():
        scores = network(config.augmentation.normalize(images))
    found = evaluate([(scores, targets)], 20)
    assert result.metrics["resnet"]["top1"]["mean"] == pytest.approx(found["top1"])


def test_chance_is_the_most_frequent_label(result, glyphs):
    labels = some_pictures(glyphs.test, 15, 0).targets.tolist()
    most = max(sum(label in row for row in labels) for label in range(20))
    assert result.analysis["chance"] == pytest.approx(1 - most / 15)


def test_rows_execute_as_many_blocks(config):
    """More epochs with 3 of 8 blocks, or with about 3 of 4 (stochastic depth)."""
    networks = config.networks
    epochs = {row: networks.training_of(row, 0).epochs for row in ROWS}
    assert epochs == {"resnet": 2, "vgg": 2, "stochastic_depth": 3, "effective_paths": 5}
    paper = replace(networks, blocks=(18, 18, 18))
    assert paper.num_modules == 23  # of 54, section 4.4.3
    assert paper.survivals("stochastic_depth")[-1] == 0.5


def test_networks_of_few_blocks_are_scaled(config):
    """As stochastic depth scales them in evaluation, so that its layers stay plain."""
    networks = config.networks
    torch.manual_seed(0)
    network = networks.build("resnet", 20, 1)
    survivals = networks.survivals("stochastic_depth")
    images = torch.randn(4, 1, 32, 32)
    model = StochasticDepth(network, survivals)
    model.train()(images)  # statistics that are no identity
    with torch.no_grad():
        expected = model.eval()(images)
        whole = model.release().eval()(images)
        scale_branches(network, survivals)
        torch.testing.assert_close(network(images), expected)
    assert not torch.allclose(whole, expected, rtol=1e-2)


def test_finished_run_is_read_back(result, config, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("measured again")

    monkeypatch.setattr(lesion_task, "error_rate", forbidden)
    monkeypatch.setattr(lesion_task, "path_gradient", forbidden)
    monkeypatch.setattr("fastheads.pipelines.lesion_rows.evaluate", forbidden)
    again = lesion_run(config)
    assert again.metrics == result.metrics
    assert {k: v for k, v in again.analysis.items() if k != "durations"} == {
        k: v for k, v in result.analysis.items() if k != "durations"
    }


def test_stopped_run_goes_on(result, config, cache_dir, tmp_path, monkeypatch):
    """Stopped by the user in the midst of each study: nothing is measured twice."""
    stopped = replace(config, output_dir=tmp_path)
    measure, calls = lesion_task.error_rate, [0]

    def interrupted(*args):
        calls[0] += 1
        if calls[0] % 19 == 0:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(lesion_task, "error_rate", interrupted)
    stops = 0
    for _ in range(20):
        try:
            again = lesion_run(stopped)
            break
        except KeyboardInterrupt:
            stops += 1
            assert not (tmp_path / "metrics.json").exists()
    assert stops >= 2
    assert again.metrics == result.metrics
    for name in ("single", "many", "reorder", "gradients", "effective", "findings"):
        assert again.analysis[name] == result.analysis[name], name
    assert not list(tmp_path.rglob("*.tmp"))


def test_other_settings_are_refused(result, config):
    other = replace(config, lesions=replace(FEW, paths=5))
    with pytest.raises(ValueError, match=r"another configuration \(lesions.paths was"):
        lesion_run(other)


@pytest.fixture(scope="module")
def colour(glyphs):
    """The same pictures in three channels."""
    parts = []
    for part in (glyphs.train, glyphs.holdout, glyphs.test):
        other = copy.copy(part)
        other.images = np.repeat(part.images, 3, axis=1)
        parts.append(other)
    return Data(glyphs.label_space, *parts)


@pytest.fixture(scope="module")
def resnet18(colour):
    """A ResNet-18 with the statistics of the pictures."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=20)
    with torch.no_grad():
        network(NORMALIZE(colour.train.__getitems__(list(range(100)))[0]))
    return network.eval()


def test_network_of_torchvision(resnet18, colour, tmp_path):
    before = {name: tensor.clone() for name, tensor in resnet18.state_dict().items()}
    modules = dict(resnet18.named_modules())
    found = fastheads.lesion(
        resnet18, colour, output_dir=tmp_path, lesions=FEW, normalize=NORMALIZE
    )
    assert found.networks["network"] is resnet18
    assert dict(resnet18.named_modules()) == modules
    assert all(torch.equal(before[name], t) for name, t in resnet18.state_dict().items())
    assert all(parameter.grad is None for parameter in resnet18.parameters())
    blocks = found.analysis["networks"]["network"]["blocks"]
    assert [n for n, block in enumerate(blocks) if block["downsampling"]] == [2, 4, 6]
    assert blocks[2]["name"] == "layer2.0"
    assert found.analysis["effective"]["network"]["high"] <= 8
    assert found.metrics["network"]["parameters"] == sum(p.numel() for p in resnet18.parameters())
    again = lesion(resnet18, colour, output_dir=tmp_path, lesions=FEW, normalize=NORMALIZE)
    assert again.metrics == found.metrics
    other = copy.deepcopy(resnet18)
    with torch.no_grad():
        other.layer1[0].conv1.weight.add_(0.01)
    with pytest.raises(ValueError, match=r"another configuration \(weights was"):
        lesion(other, colour, output_dir=tmp_path, lesions=FEW, normalize=NORMALIZE)


def test_network_without_shortcuts(colour, tmp_path):
    """Of a plain network one layer at a time is deleted; it has no other paths."""
    torch.manual_seed(0)
    vgg = nn.Sequential(torchvision.models.vgg11_bn(num_classes=20).features,
                        nn.Flatten(), nn.Linear(512, 20)).eval()  # fmt: skip
    few = replace(FEW, pictures=5)
    found = lesion(vgg, colour, output_dir=tmp_path, lesions=few, normalize=NORMALIZE)
    assert len(found.analysis["single"]["network"]["error"][0]) == 4
    assert found.analysis["many"] == {} and "findings" not in found.analysis
    assert found.report.exists()


def test_checkpoint(result, glyphs, cache_dir, tmp_path):
    """A network of timm on gray pictures, as the command line names it."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", in_chans=1, num_classes=20)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "weights.pth")
    config = tiny_config(
        tmp_path / "run", cache_dir, model="timm:resnet10t", checkpoint=tmp_path / "weights.pth"
    )
    found = lesion_run(config)
    assert list(found.metrics) == ["network"]
    assert found.analysis["networks"]["network"]["name"] == "timm:resnet10t"
    assert found.analysis["networks"]["network"]["depth"] == 4
    assert found.analysis["reorder"] == {}  # no two of its blocks have one shape
    with torch.no_grad():
        network.fc.bias.add_(1)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"another configuration \(weights was"):
        lesion_run(config)
    other = replace(config, output_dir=tmp_path / "other", model="timm:resnet18")
    with pytest.raises(ValueError, match=r"checkpoint .* must fit the ResNet, got ") as error:
        lesion_run(other)
    assert "\n" not in str(error.value)


class Twice(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images), self.inner(images)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 20)).eval(),
         "model must have residual blocks that are known, got Sequential without any"),
        (lambda: torchvision.models.resnet18(num_classes=20),
         "model must be in evaluation mode .*, got batch norm 'bn1' in training mode"),
        (lambda: torchvision.models.resnet18(num_classes=7).eval(),
         r"model must have one output for each of the 20 labels, got \[7\]"),
        (lambda: Twice(torchvision.models.resnet18(num_classes=20)).eval(),
         "one output for each of the 20 labels, got a tuple"),
        (lambda: torch.jit.script(torchvision.models.resnet18(num_classes=20)).eval(),
         "as it is before tracing, scripting or export, got"),
    ],
)  # fmt: skip
def test_networks_that_do_not_fit(model, message, colour, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        lesion(model(), colour, output_dir=tmp_path, lesions=FEW, normalize=NORMALIZE)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_pictures_that_do_not_fit(glyphs):
    with pytest.raises(ValueError, match=r"model must take pictures \[1, 1, 32, 32\], got: "):
        check_network(torchvision.models.resnet18(num_classes=20).eval(), glyphs, NORMALIZE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: LesionConfig(seeds=()), "seeds must be distinct and at least one"),
        (lambda: LesionConfig(model="timm:resnet18"), "model and checkpoint must be given tog"),
        (lambda: LesionConfig(checkpoint=Path("a")), "got model None and checkpoint a"),
        (lambda: LesionsConfig(paths=0), "paths must be at least 1, got 0"),
        (lambda: LesionsConfig(deleted=(2, 1)), r"deleted must ascend .*got \(2, 1\)"),
        (lambda: LesionsConfig(swaps=()), "swaps must ascend from at least 1"),
        (lambda: NetworksConfig(rows=("alexnet",)), "rows must be among .*, got 'alexnet'"),
        (lambda: NetworksConfig(rows=()), "rows must be distinct and at least one"),
        (lambda: NetworksConfig(survival=0), r"survival must be in \(0, 1\], got 0"),
        (lambda: NetworksConfig(modules=55), "modules must be 1 to the 54 blocks, got 55"),
        (lambda: NetworksConfig(processes=0), "processes must be at least 1, got 0"),
        (lambda: NetworksConfig(vgg_width=0), "width must be positive"),
        (lambda: NetworksConfig(widths=(8, 16)), "one number a stage"),
    ],
)
def test_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        settings()


def test_normalisation_of_other_pictures(tmp_path, cache_dir):
    with pytest.raises(ValueError, match="mean must hold one number for all channels, or one"):
        lesion_run(tiny_config(tmp_path / "run", cache_dir, augmentation=tiny.ODD))
    assert not (tmp_path / "run").exists()


def test_pictures_are_drawn_by_the_seed(glyphs):
    some = some_pictures(glyphs.test, 10, 3)
    assert len(some) == 10 and np.all(np.diff(some.rows) > 0)
    assert np.array_equal(some.rows, some_pictures(glyphs.test, 10, 3).rows)
    for row, labels in zip(some.rows, some.targets.tolist(), strict=True):
        at = int(np.flatnonzero(glyphs.test.rows == row)[0])
        assert labels == glyphs.test.targets.tolist()[at]
    assert (
        len(some_pictures(glyphs.test))
        == len(some_pictures(glyphs.test, 10**6))
        == len(glyphs.test)
    )


def test_findings_are_printed(result, config, capsys):
    lesion_run(config)
    out = capsys.readouterr().out
    assert len(re.findall(r"^(?:does not hold|holds|undecided): .+\.$", out, re.M)) == 3


@pytest.mark.cuda
def test_network_on_a_gpu(resnet18, colour, tmp_path):
    """It is studied where it is; errors and gradients are those of the CPU."""
    network = copy.deepcopy(resnet18)
    found = [
        lesion(network.to(device), colour, output_dir=tmp_path / device, lesions=FEW,
               normalize=NORMALIZE).analysis
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    assert next(network.parameters()).is_cuda
    for part in ("single", "many", "reorder"):
        ours, theirs = (each[part]["network"]["error"] for each in found)
        assert np.max(np.abs(np.subtract(ours, theirs))) <= 2 / 15  # ties among 20 labels
    norms = [np.array(each["gradients"]["network"]["norm"]) for each in found]
    assert norms[1] == pytest.approx(norms[0], rel=2e-2)
