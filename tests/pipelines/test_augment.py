"""A whole run on a few glyphs, with every option, read back from its folder."""

import dataclasses
import json
import time

import numpy as np
import pytest
import tiny
import torch

from fastheads.labels import Grouping
from fastheads.metrics import count_macs, count_parameters, evaluate
from fastheads.models import BaseNetwork
from fastheads.nn import AugmentedClassifier
from fastheads.pipelines.augment import AugmentConfig, augment_run
from fastheads.pipelines.heads import HeadsConfig
from fastheads.pipelines.network_file import load_network
from fastheads.pipelines.run_folder import fingerprint
from fastheads.pipelines.train import train
from fastheads.training import TrainConfig
from fastheads.training.checkpoint import load


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="session")
def folder(finished, full_config):
    return full_config.output_dir


def base_of(folder, config, seed):
    """The base network of a seed, from the checkpoints of its training."""
    network = BaseNetwork((1, 32, 32), 60, config.base)
    trunk = load(folder / "training" / f"trunk seed {config.seed}" / "checkpoint.pt")["model"]
    trunk = {key.replace("0.", "trunk.", 1): v for key, v in trunk.items() if key[:2] == "0."}
    above = load(folder / "training" / f"base seed {seed}" / "checkpoint.pt")["model"]
    above = {key.removeprefix("top."): value for key, value in above.items()}
    network.load_state_dict(trunk | above)
    return network.eval()


def test_metrics_of_every_row(finished, folder):
    metrics = read(folder, "metrics.json")
    assert metrics == finished.metrics
    assert set(metrics) == {*tiny.ROWS, "second_round", "fine_tuned"}
    for row in metrics.values():
        for name in tiny.METRICS:
            assert set(row[name]) == {"mean", "std", "seeds"}
            assert len(row[name]["seeds"]) == 2
            assert row[name]["mean"] == pytest.approx(np.mean(row[name]["seeds"]))
            assert row[name]["std"] == pytest.approx(np.std(row[name]["seeds"], ddof=1))
            assert 0 < row[name]["mean"] < 1
        for name in ("macs", "parameters"):
            assert isinstance(row[name], int) and row[name] > 0
    assert metrics["base"]["map50_per_label"]["std"] > 0  # the seeds are different


def test_cost_is_that_of_the_network(finished, folder, full_config):
    """Of the first seed; the table shows the mean over seeds, whose heads differ a little."""
    base = base_of(folder, full_config, 0)
    images = torch.zeros(1, 1, 32, 32)
    assert finished.metrics["base"]["macs"] == count_macs(base, images)
    assert finished.metrics["base"]["parameters"] == count_parameters(base)
    found = finished.metrics["confusions"]
    assert found["macs"] == pytest.approx(count_macs(finished.network, images), rel=0.05)
    assert found["parameters"] == pytest.approx(count_parameters(finished.network), rel=0.05)


def test_old_weights_stay_fixed(finished, folder, full_config):
    """Paper 000, section 2: trunk and stack are the base's bit by bit, the classifier is not."""
    base = base_of(folder, full_config, 0).state_dict()
    ours = {key.replace(".layer.", "."): v for key, v in finished.network.state_dict().items()}
    compared = [key for key in base if not key.startswith("classifier.")]
    assert len(compared) > 10
    assert all(torch.equal(ours[f"tap.model.{key}"], base[key]) for key in compared)
    assert not torch.equal(ours["top.classifier.weight"], base["classifier.weight"])


def test_saved_network_is_the_row_of_the_table(finished, folder, data):
    """Measured on pictures; fine-tuning has made a network of its own."""
    network, label_space, _, normalize = load_network(folder)
    assert label_space == data.label_space
    images, targets = data.test.__getitems__(list(range(len(data.test))))
    with torch.no_grad():
        scores = network(normalize(images))
        torch.testing.assert_close(scores, finished.network(normalize(images)))
    found = {name: finished.metrics["confusions"][name]["seeds"][0] for name in tiny.METRICS}
    assert evaluate([(scores, targets)], 60) == pytest.approx(found, abs=1e-6)


def test_base_is_the_row_of_the_table(finished, folder, full_config, data):
    images, targets = data.test.__getitems__(list(range(len(data.test))))
    images = full_config.augmentation.normalize(images)
    for number, seed in enumerate(full_config.seeds):
        with torch.no_grad():
            scores = base_of(folder, full_config, seed)(images)
        found = {name: finished.metrics["base"][name]["seeds"][number] for name in tiny.METRICS}
        assert evaluate([(scores, targets)], 60) == pytest.approx(found, abs=1e-6)


def test_fine_tuning_moves_everything(finished, folder, full_config):
    tuned = load(folder / "training" / "fine tuned seed 0" / "checkpoint.pt")["model"]
    before = finished.network.state_dict()
    weights = [key for key, _ in finished.network.named_parameters()]
    assert set(tuned) == set(before)
    assert not [key for key in weights if torch.equal(tuned[key], before[key])]
    assert finished.metrics["fine_tuned"]["macs"] == finished.metrics["confusions"]["macs"]


def test_analysis(finished, folder, full_config, data):
    analysis = read(folder, "analysis.json")
    assert analysis["num_groups"] == 4 == len(analysis["groups"])
    assert sum(group["size"] for group in analysis["groups"]) <= 60
    assert all(0 < group["purity"] <= 1 for group in analysis["groups"])
    assert analysis["dataset"]["labels"] == 60
    assert analysis["dataset"]["test"] == len(data.test)
    assert analysis["eigenvalues"][0] == pytest.approx(1, abs=1e-3)
    narrow, wide = analysis["contrast"]
    assert (narrow["bottleneck"], wide["bottleneck"]) == (8, 16)
    assert narrow["rows"] == finished.metrics
    assert set(wide["rows"]) == {"base", "retrained", "confusions"}
    curves = {(curve["row"], curve["seed"]) for curve in analysis["curves"]}
    assert {(row, seed) for row in tiny.ROWS[1:] for seed in (0, 1)} <= curves
    assert analysis["settings"]["heads.capacity"] == "difficulty"
    assert {"torch", "cpu", "threads", "version", "date"} <= set(analysis["environment"])
    stages = [each["stage"] for each in analysis["durations"]]
    assert len(stages) == len(set(stages))
    assert all(each["seconds"] >= 0 for each in analysis["durations"])
    for row in analysis["conditional"]:
        assert set(row["latency_ms"]) == {"1", "32"}
        assert min(row["latency_ms"].values()) > 0
    assert [row["groups"] for row in analysis["conditional"]] == [1, 2, 3, 4] * 2


def test_pictures(folder):
    analysis = read(folder, "analysis.json")
    with np.load(folder / "analysis.npz") as arrays:
        for group in analysis["groups"]:
            sheet = arrays[group["sheet"]]
            assert sheet.shape == (len(group["examples"]), 32, 32) and sheet.dtype == np.uint8
            assert sheet.max() > 128 > sheet.mean()
        for pair in analysis["repaired"]:
            assert arrays[pair["pictures"]].shape == (2, 32, 32)


def test_conditional_is_the_mean_over_seeds(finished, folder):
    """With all groups: what the table says of the whole network."""
    for row in read(folder, "analysis.json")["conditional"]:
        if row["groups"] == row["of"]:
            assert row["recall"] == 1
            for name in tiny.METRICS:
                assert row[name] == pytest.approx(finished.metrics[row["grouping"]][name]["mean"])
            assert row["top1_std"] == pytest.approx(
                finished.metrics[row["grouping"]]["top1"]["std"]
            )


def test_repaired_confusions(finished, folder, full_config, data):
    """Counted anew from the networks, picture by picture."""
    stages = folder / "stages"
    features = load(stages / "features_of_the_holdout_pictures_seed_0.pt")["result"][0]
    base = base_of(folder, full_config, 0)
    annotated = data.holdout.targets.tolist()

    def mistakes(classify):
        counts = {}
        for each in features:
            with torch.no_grad():
                guesses = classify(each, base.stack(each)).argmax(1).tolist()
            for guess, labels in zip(guesses, annotated, strict=True):
                if guess not in labels:
                    pair = labels[0], guess
                    counts[pair] = counts.get(pair, 0) + 1
        return counts

    before = mistakes(lambda features, hidden: base.classifier(hidden))
    after = mistakes(finished.network.top)
    found = load(stages / "clusters_by_confusions_seed_0.pt")["result"]["group_of"]
    grouping, names = Grouping(found), data.label_space.names
    analysis = read(folder, "analysis.json")
    repaired = analysis["repaired"]
    assert analysis["mistakes"] == {
        "images": features.shape[0] * features.shape[1],
        "before": sum(before.values()),
        "after": sum(after.values()),
    }
    changes = {}
    for row in repaired:
        pair = names.index(row["label"]), names.index(row["confused_with"])
        assert (row["before"], row["after"]) == (before.get(pair, 0), after.get(pair, 0))
        assert grouping.group_of[pair[0]] == row["group"]
        changes.setdefault(row["group"], []).append(row["after"] - row["before"])
    assert changes
    for group in range(grouping.num_groups):
        possible = sorted(
            after.get(pair, 0) - before.get(pair, 0)
            for pair in before | after
            if grouping.group_of[pair[0]] == group
        )
        fell = [change for change in possible if change < 0][:3]
        rose = [change for change in possible if change > 0][-1:]
        assert changes.get(group, []) == fell + rose


def test_a_run_may_go_on_at_another_speed_but_not_to_another_outcome():
    config = AugmentConfig()
    faster = dataclasses.replace(config.trunk, threads=1, checkpoint_seconds=5.0)
    longer = dataclasses.replace(config.trunk, epochs=config.trunk.epochs + 1)
    assert fingerprint(dataclasses.replace(config, trunk=faster)) == fingerprint(config)
    assert fingerprint(dataclasses.replace(config, trunk=longer)) != fingerprint(config)


def test_report_is_written(finished, folder):
    assert finished.report == folder / "report.html"
    assert "<html" in finished.report.read_text(encoding="utf-8")


def test_nothing_is_left_half_written(finished, folder):
    assert not [path for path in folder.rglob("*") if path.suffix in (".tmp", ".partial")]


def test_second_call_returns_what_the_first_wrote(finished, folder, full_config):
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    assert len(written) > 20
    started = time.time()
    again = augment_run(full_config)
    assert again.metrics == finished.metrics
    for key, value in finished.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[key], value)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == written
    assert (folder / "metrics.json").stat().st_mtime >= started - 1


def test_refuses_another_configuration(finished, folder, full_config):
    before = {path: path.read_bytes() for path in folder.glob("*.*")}
    changed = dataclasses.replace(full_config, passes=3)
    with pytest.raises(ValueError, match=r"another configuration .*passes") as e:
        augment_run(changed)
    assert "\n" not in str(e.value)
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == before


def test_trunk_for_each_seed(tmp_path, cache_dir):
    """And a classifier from fresh weights, softmax, convolved heads, and the eigengap's number."""
    config = tiny.config(tmp_path / "run", cache_dir)
    heads = dataclasses.replace(
        config.heads, classifier="fresh", conv_channels=2, num_groups=None, capacity="size"
    )
    config = dataclasses.replace(
        config, trunk_per_seed=True, seeds=(3, 4), heads=heads, trunk=tiny.STEPS
    )
    result = augment_run(config)
    trunks = [
        load(tmp_path / "run" / "training" / f"trunk seed {seed}" / "checkpoint.pt")["model"]
        for seed in (3, 4)
    ]
    assert not torch.equal(trunks[0]["0.0.weight"], trunks[1]["0.0.weight"])
    assert torch.equal(
        result.network.state_dict()["tap.model.trunk.layer.0.weight"], trunks[0]["0.0.weight"]
    )
    assert list(result.metrics) == tiny.ROWS
    assert isinstance(result.network.top, AugmentedClassifier)
    assert result.network.top.heads[0].conv_channels == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": ()}, r"seeds must be distinct and at least one, got \(\)"),
        ({"seeds": (1, 1)}, r"seeds must be distinct .*, got \(1, 1\)"),
        ({"contrast": (8, 8)}, r"contrast must hold distinct widths above 0, got \(8, 8\)"),
        ({"passes": 0}, "passes must be at least 1, got 0"),
        ({"trunk_width": 0}, "trunk_width must be at least 1, got 0"),
        ({"fine_tune_epochs": -1}, "fine_tune_epochs must be at least 0, got -1"),
        ({"seed": 2**63}, "seed must be at least 0 .*, got 9223372036854775808"),
        ({"trunk": TrainConfig(patience=2)}, "trunk.patience must be None"),
        ({"fine_tune": TrainConfig(patience=2)}, "fine_tune.patience must be None"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**settings)


@pytest.mark.parametrize("run", [train, augment_run])
def test_what_does_not_fit_is_refused_before_the_training(tmp_path, cache_dir, run):
    config = tiny.config(tmp_path / "run", cache_dir)
    with pytest.raises(ValueError, match="mean must hold one number for all channels, or one"):
        run(dataclasses.replace(config, augmentation=tiny.ODD))
    if run is augment_run:
        with pytest.raises(ValueError, match="num_groups must be at most the 60 labels, got 61"):
            run(dataclasses.replace(config, heads=HeadsConfig(num_groups=61)))
    assert not (tmp_path / "run").exists()


def test_fine_tuning_takes_its_epochs_from_one_place():
    assert AugmentConfig(fine_tune=TrainConfig(epochs=9)).fine_tune_epochs == 0
