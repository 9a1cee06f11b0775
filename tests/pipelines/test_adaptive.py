"""A whole run of networks that skip layers, on few labels: rows, files, resume, prediction."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import fastheads
from fastheads.data import DataConfig, load_data
from fastheads.metrics import count_macs
from fastheads.nn import gated_blocks
from fastheads.pipelines.adaptive import adaptive_run
from fastheads.pipelines.adaptive_analysis import counts
from fastheads.pipelines.adaptive_config import AdaptiveConfig
from fastheads.pipelines.adaptive_measures import measure
from fastheads.pipelines.gate_analysis import GateAnalysisConfig
from fastheads.pipelines.gated_training import GatesConfig, NetworkConfig
from fastheads.pipelines.lesion import LesionConfig
from fastheads.pipelines.network_file import load_network
from fastheads.pipelines.predict import predict
from fastheads.training import TrainConfig

TRAINED = ["plain", "preactivation", "stochastic_depth", "plain_continued", "adaptive_40",
           "adaptive_80", "adaptive_80_soft", "adaptive_80_worded"]  # fmt: skip
UNTRAINED = ["adaptive_80_all", "random_80", "adaptive_80_sampled", "budget_1", "budget_2"]


def tiny_config(folder, cache_dir, **changes):
    """30 glyphs, 3 blocks, two seeds."""
    config = AdaptiveConfig(
        output_dir=folder,
        data=DataConfig(limit_labels=30, cache_dir=cache_dir),
        network=NetworkConfig(blocks=(1, 2), widths=(8, 16)),
        gates=GatesConfig(hidden=4),
        targets=(0.4, 0.8),
        kept=0.8,
        budgets=(1, 2),
        training=replace(tiny.STEPS, epochs=4, lr=1e-2),
        tuning=replace(tiny.STEPS, log_every=5),
        analysis=GateAnalysisConfig(epsilons=(0.0, 0.05), attacked=32, examples=2, min_size=5),
        compiled=False,
        processes=1,
        seeds=(0, 1),
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def config(tmp_path_factory, cache_dir):
    return tiny_config(tmp_path_factory.mktemp("adaptive"), cache_dir)


@pytest.fixture(scope="module")
def result(config):
    return adaptive_run(config)


def test_rows(result):
    metrics = result.metrics
    assert list(metrics) == [*TRAINED, *UNTRAINED]
    for row in TRAINED:
        for name in ("top1", "top5", "layers", "ms_1", "ms_32"):
            assert len(metrics[row][name]["seeds"]) == 2
        assert metrics[row]["ms_32"]["mean"] > 0
    assert metrics["plain"]["top1"]["mean"] > 0.1  # of 30 labels
    assert metrics["plain"]["layers"]["mean"] == metrics["adaptive_80_all"]["layers"]["mean"] == 3
    assert metrics["adaptive_40"]["macs"] < metrics["adaptive_80"]["macs"]
    assert metrics["random_80"]["layers"]["mean"] == pytest.approx(
        metrics["adaptive_80"]["layers"]["mean"], abs=0.3
    )
    for k in (1, 2):
        assert metrics[f"budget_{k}"]["layers"]["seeds"] == [k, k]
        assert metrics[f"budget_{k}"]["ms_1"]["mean"] > 0
    assert metrics["plain"]["parameters"] < metrics["adaptive_80"]["parameters"]


def test_cost_is_that_of_each_image(config, result):
    """The mean of what is executed, image by image."""
    data = load_data(config.data, progress=False)
    network = result.network
    normalize = config.augmentation.normalize
    images, _ = data.test.__getitems__(list(range(len(data.test))))
    with torch.no_grad():
        each = [count_macs(network, normalize(image[None])) for image in images]
    assert result.metrics["adaptive_80"]["macs"] > 0
    first = measure(network, data, normalize)
    assert first["macs"] == pytest.approx(np.mean(each), rel=1e-9)


def test_analysis(config, result):
    content = json.loads((config.output_dir / "analysis.json").read_text())
    assert content["system"] == "adaptive" and content["kept"] == "adaptive_80"
    assert [block["gated"] for block in content["network"]["blocks"]] == [True] * 3
    trajectory = content["trajectories"][0]
    assert trajectory["epochs"][0] == 0 and trajectory["layers"][0] == [0.85] * 3
    assert len(trajectory["epochs"]) == len(trajectory["layers"]) > 2
    assert len(content["rates"]["adaptive_40"]["layers"]) == 2
    assert [budget["k"] for budget in content["budget"]] == [1, 2]
    assert set(content["latency"]["rows"]) == {*TRAINED, "budget_1", "budget_2"}
    assert set(content["latency"]["peers"]) == {"kept", "plain", "masked", "skip_batch_of_one"}
    with np.load(config.output_dir / "analysis.npz") as arrays:
        assert arrays["execution"].shape == (30, 3)
    assert (config.output_dir / "report.html").stat().st_size > 10_000


def test_second_run_reads_what_the_first_wrote(config, result):
    again = adaptive_run(config)
    assert again.metrics == result.metrics
    for name, tensor in result.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name


def test_stored_network_predicts(config, result, tmp_path):
    network, label_space, image_shape, normalize = load_network(config.output_dir)
    data = load_data(config.data, progress=False)
    images, _ = data.test.__getitems__([0, 1])
    with torch.no_grad():
        assert torch.equal(network(normalize(images)), result.network(normalize(images)))
    Image.fromarray(images[0, 0].numpy()).save(tmp_path / "one.png")
    (found,) = predict([tmp_path / "one.png"], config.output_dir, top=30).values()
    assert sum(score for _, score in found) == pytest.approx(1.0, abs=1e-4)
    assert len(label_space) == 30 and image_shape == (1, 32, 32)


@pytest.mark.slow
def test_gates_from_the_beginning(tmp_path, cache_dir):
    config = tiny_config(
        tmp_path, cache_dir, start="new", targets=(0.8,), others=(), budgets=(1,), seeds=(0,),
        training=replace(tiny.STEPS, epochs=2), compiled=True,
    )  # fmt: skip
    metrics = adaptive_run(config).metrics
    assert list(metrics)[:2] == ["plain", "adaptive_80"]
    content = json.loads((tmp_path / "analysis.json").read_text())
    assert content["latency"]["peers"]["compiled_plain"]["32"]["ms"] > 0


def test_own_network(tmp_path, cache_dir):
    data = load_data(DataConfig(limit_labels=30, cache_dir=cache_dir), progress=False)
    torch.manual_seed(0)
    model = NetworkConfig(blocks=(1, 1), widths=(8, 8)).build(1, data.num_labels)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = {
        "data": data,
        "output_dir": tmp_path,
        "targets": (0.5,),
        "kept": 0.5,
        "gates": GatesConfig(hidden=4),
        "tuning": tiny.STEPS,
        "analysis": GateAnalysisConfig(epsilons=(0.05,), attacked=8, examples=1, min_size=5),
        "processes": 1,
        "compiled": False,
    }
    result = fastheads.adapt(model, **given)
    assert list(result.metrics)[:3] == ["plain", "plain_continued", "adaptive_50"]
    assert len(gated_blocks(result.network)) == 2 and not gated_blocks(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert fastheads.adapt(model, **given).metrics == result.metrics
    with pytest.raises(ValueError, match="must be rows that begin with the trained network"):
        fastheads.adapt(model, **{**given, "others": ("preactivation",)})
    with pytest.raises(ValueError, match="residual block"):
        fastheads.adapt(torch.nn.Linear(2, 2), **given)
    with torch.no_grad():
        model.classifier.bias += 1
    with pytest.raises(ValueError, match="weights"):
        fastheads.adapt(model, **given)


def test_counts_of_the_papers_networks():
    for row in counts():
        for name in ("parameters", "gated_parameters"):
            assert row[name] == row["expected"][name], row["network"]
        assert row["macs"] == pytest.approx(row["expected"]["macs"], rel=2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": (0.4, 1.2)}, r"targets must be above 0 and at most 1, got 1.2"),
        ({"targets": ()}, r"targets must be distinct and at least one, got \(\)"),
        ({"kept": 0.5}, r"kept must be one of the targets \(0.4, 0.8\), got 0.5"),
        ({"seeds": (1, 1)}, r"seeds must be distinct and at least one, got \(1, 1\)"),
        ({"seeds": (-1,)}, "seeds must be at least 0 .*, got -1"),
        ({"targets": (0.5, 0.504)}, r"targets must be distinct in percent, got \(0.5, 0.504\)"),
        ({"budgets": (1, 1)}, r"budgets must be distinct and at least one, got \(1, 1\)"),
        ({"processes": 0}, "processes must be at least 1, got 0"),
        ({"tuning": TrainConfig(patience=2)}, "tuning.patience must be None"),
    ],
)
def test_bad_settings(tmp_path, cache_dir, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(tmp_path, cache_dir, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": (1, 4)}, "budgets must be from 0 to the 3 gates, got 4"),
        ({"gates": GatesConfig(rates=(0.5,))}, "rates must hold one for each of the 3 gates"),
        ({"gates": GatesConfig(always_on=("foo",))}, "always_on must name blocks .*, got 'foo'"),
        ({"analysis": GateAnalysisConfig(level="foo")}, "level must be one of .*, got 'foo'"),
        ({"analysis": GateAnalysisConfig(attacked_group="foo")}, "attacked_group must be one of"),
        ({"network": NetworkConfig("torchvision:resnet18")}, "for pre-activation, got 'torchvis"),
        ({"augmentation": tiny.ODD}, "mean must hold one number"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_training(tmp_path, cache_dir, changes, message):
    with pytest.raises(ValueError, match=message):
        adaptive_run(tiny_config(tmp_path / "run", cache_dir, **changes))
    assert not (tmp_path / "run").exists()


def test_default_options_of_glyphs_do_not_hinder_other_data():
    for config in (AdaptiveConfig(), LesionConfig()):
        assert replace(config.data, kind="folder", path=Path("/x")).scripts
