"""A whole run of new labels that stream in, on few of them: rows, files, resume, errors."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from fastheads.cli import main
from fastheads.data.stream import StreamDataConfig, load_stream
from fastheads.pipelines.guards import GuardsConfig
from fastheads.pipelines.network_file import load_network
from fastheads.pipelines.stream import stream_run
from fastheads.pipelines.stream_analysis import best_row, quickest_row
from fastheads.pipelines.stream_config import StreamConfig
from fastheads.pipelines.stream_measures import measure
from fastheads.pipelines.stream_networks import ROWS, NetworksConfig
from fastheads.training import TrainConfig

NETWORKS = ("resnet", "senet_2x_r32")
GUARDS = {"replay": GuardsConfig(replay=40), "low_lr": GuardsConfig(lr_factor=0.1)}


def tiny_config(folder, cache_dir, **changes):
    """Few letters and marks, two networks of a few channels, two guards, two seeds."""
    config = StreamConfig(
        output_dir=folder,
        data=StreamDataConfig(limit_labels=24, limit_kinds=8, cache_dir=cache_dir),
        networks=NetworksConfig(NETWORKS, width=8),
        guards=GUARDS,
        training=replace(tiny.STEPS, epochs=3, lr=0.1, optimizer="sgd"),
        streaming=replace(tiny.STEPS, epochs=2, lr=0.05, optimizer="sgd", batch_size=16),
        soft_margin=("resnet",),
        arrivals=2,
        arriving=("replay",),
        processes=1,
        seeds=(0, 1),
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def config(tmp_path_factory, cache_dir):
    return tiny_config(tmp_path_factory.mktemp("stream"), cache_dir)


@pytest.fixture(scope="module")
def result(config):
    return stream_run(config)


def test_rows(result):
    metrics = result.metrics
    assert set(metrics) == {*NETWORKS, "resnet_soft", "retrained", "kept_replay", "kept_low_lr"}
    for row in (*NETWORKS, "kept_replay", "kept_low_lr"):
        for name in ("base_top5", "original_top5", "streamed_all", "stream_seconds"):
            assert len(metrics[row][name]["seeds"]) == 2
    assert metrics["resnet"]["base_top5"]["mean"] > 0.3  # of 24 labels
    assert "streamed_all" not in metrics["resnet_soft"]
    assert metrics["retrained"]["base_seconds"]["mean"] > 0
    # The guards begin with the kept network, and learn another way than it did.
    kept = metrics["senet_2x_r32"]
    assert metrics["kept_replay"]["base_top5"] == kept["base_top5"]
    assert metrics["kept_low_lr"]["original_top1"] != kept["original_top1"]


def test_streaming_teaches(result):
    metrics = result.metrics
    rows = [metrics[row] for row in NETWORKS]
    before = np.mean([row["before_all"]["mean"] for row in rows])
    assert np.mean([row["streamed_all"]["mean"] for row in rows]) > before


def test_analysis(config, result):
    content = json.loads((config.output_dir / "analysis.json").read_text())
    assert content["system"] == "stream" and content["kept"] == "senet_2x_r32"
    assert content["dataset"]["kinds"] == 8
    assert set(content["arrivals"]["rows"]) == {"senet_2x_r32", "kept_replay"}
    for row in content["arrivals"]["rows"].values():
        assert np.shape(row["original_top5"]) == (2, 3)
        assert np.shape(row["learned_all"]) == np.shape(row["first_all"]) == (2, 2)
    assert content["epochs"][0]["epoch"] == [1, 2, 3]
    assert {curve["stage"] for curve in content["curves"]} == {"base", "stream"}
    labels = content["forgotten"]["labels"]
    assert any(label["component"] for label in labels)
    assert all(0 <= label["after"] <= 1 and label["images"] > 0 for label in labels)
    assert len(content["examples"][0]["after"]) == 5
    assert content["retraining"]["ratio"]["mean"] > 0
    assert set(content["costs"]["rows"]) == set(NETWORKS)
    with np.load(config.output_dir / "analysis.npz") as arrays:
        assert len(arrays["example_pictures"]) == len(content["examples"])
    assert (config.output_dir / "report.html").stat().st_size > 10_000


def test_second_run_reads_what_the_first_wrote(config, result):
    assert stream_run(config).metrics == result.metrics


def test_stored_network_is_the_kept_one_after_its_best_update(config, result):
    network, label_space, _, normalize = load_network(config.output_dir)
    data = load_stream(config.data, progress=False)
    assert label_space.names == data.base.label_space.names
    found = measure(network, data.test, normalize, len(label_space))
    rows = ["senet_2x_r32", "kept_replay", "kept_low_lr"]
    best = result.metrics[best_row(result.metrics, rows)]
    assert found["all"] == pytest.approx(best["streamed_all"]["seeds"][0])


def test_best_row_learns_most_of_those_that_keep_the_base_accuracy():
    def row(base, original, streamed):
        means = {
            "held_base_top5": base, "held_original_top5": original, "held_streamed_all": streamed,
        }  # fmt: skip
        return {name: {"mean": value} for name, value in means.items()}

    metrics = {"a": row(0.9, 0.6, 0.9), "b": row(0.9, 0.88, 0.8), "c": row(0.9, 0.95, 0.7)}
    assert best_row(metrics, ["a", "b", "c"]) == "b"  # a loses 30 points, c learns less
    metrics["d"] = row(0.9, 0.7, 0.2)
    assert best_row(metrics, ["a", "d"]) == "d"  # loses least


def test_quickest_row_keeps_the_base_accuracy():
    def row(original, seconds):
        means = {
            "held_base_top5": 0.9, "held_original_top5": original, "held_streamed_all": original,
            "stream_seconds": seconds,
        }  # fmt: skip
        return {name: {"mean": value} for name, value in means.items()}

    metrics = {"a": row(0.5, 1.0), "b": row(0.88, 3.0), "c": row(0.92, 5.0)}
    assert quickest_row(metrics, ["a", "b", "c"]) == "b"
    assert quickest_row({"a": row(0.5, 1.0), "d": row(0.6, 9.0)}, ["a", "d"]) == "d"  # the best


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_its_network(row):
    network = NetworksConfig((row,), width=8).build(row, 7, 1).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0, 0)}, "seeds must be distinct"),
        ({"kept": "senet_r8"}, "kept must be among"),
        ({"arriving": ("nothing",)}, "arriving must be among replay, low_lr"),
        ({"arrivals": -1}, "arrivals must be at least 0"),
        ({"processes": 0}, "processes must be at least 1, got 0"),
        ({"streaming": TrainConfig(patience=2)}, "streaming.patience must be None"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, cache_dir, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(tmp_path, cache_dir, **changes)


def test_normalisation_of_other_pictures(tmp_path, cache_dir):
    with pytest.raises(ValueError, match="mean must hold one number for all channels, or one"):
        stream_run(tiny_config(tmp_path / "run", cache_dir, augmentation=tiny.ODD))
    assert not (tmp_path / "run").exists()


def test_command_line_names_an_unknown_network(tmp_path, capsys):
    arguments = ["stream", "--output_dir", str(tmp_path), "--networks.rows", "[senet_3x]"]
    assert main(arguments) == 1
    assert "networks.rows must be among" in capsys.readouterr().err
    assert main([*arguments[:-1], "[]"]) == 1
    assert "networks.rows must be distinct and at least one" in capsys.readouterr().err
