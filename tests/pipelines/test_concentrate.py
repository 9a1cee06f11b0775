"""A whole run of Knowledge Concentration on few labels: stages, rows, files, resume."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from fastheads.data import DataConfig, load_data
from fastheads.pipelines.concentrate import ConcentrateConfig, concentrate_run
from fastheads.pipelines.network_file import load_network
from fastheads.pipelines.predict import predict, predict_verticals
from fastheads.pipelines.soft_targets import INDEX, SoftTargets
from fastheads.pipelines.students import StudentsConfig
from fastheads.pipelines.train_teachers import TeachersConfig
from fastheads.pipelines.trunk import TrunkConfig
from fastheads.pipelines.verticals import VerticalsConfig

ROWS = ("generalist", "fc_fc", "fc_sc", "sc_sc", "fc_sc_generic_50", "paced", "worded_label",
        "found", "found_paced")  # fmt: skip


def tiny_config(folder, cache_dir, **changes):
    """60 glyphs in two verticals, two seeds."""
    config = ConcentrateConfig(
        output_dir=folder,
        data=DataConfig(limit_labels=60, cache_dir=cache_dir),
        verticals=VerticalsConfig(min_size=5, num_groups=3, top_k=5),
        trunk=TrunkConfig(
            channels=(8, 16), width=32, training=replace(tiny.STEPS, epochs=6, lr=4e-3)
        ),
        teachers=TeachersConfig(
            training=replace(tiny.STEPS, epochs=8),
            channels=(8, 16),
            hidden=(32, 16),
            min_steps=20,
            top_k=10,
            processes=1,
        ),
        students=StudentsConfig(rows=ROWS, top1=24, top2=6, training=replace(tiny.STEPS, epochs=4)),
        passes=2,
        holdout_passes=2,
        seeds=(0, 1),
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def config(tmp_path_factory, cache_dir):
    return tiny_config(tmp_path_factory.mktemp("concentrate"), cache_dir)


@pytest.fixture(scope="module")
def result(config):
    return concentrate_run(config)


@pytest.fixture(scope="module")
def analysis(result, config):
    return json.loads((config.output_dir / "analysis.json").read_text())


def test_every_row_has_its_metrics_and_cost(result, config):
    assert list(result.metrics) == [*ROWS, "specialists"]
    for row, metrics in result.metrics.items():
        for name in ("mpvap", "mpvap_per_label", "top1", "top5"):
            seeds = 1 if row == "specialists" else 2
            assert len(metrics[name]["seeds"]) == seeds
            assert 0 < metrics[name]["mean"] <= 1
    assert json.loads((config.output_dir / "metrics.json").read_text()) == result.metrics
    assert result.report == config.output_dir / "report.html" and result.report.exists()


def test_cost_is_that_of_section_3_2(result, config):
    """Weights of the trunk's convolutions at their places, and of the head each once."""
    rows = result.metrics
    nodes = len(load_network(config.output_dir)[1])
    s_b, s1, s2, groups, trunk = 16 * 8 * 8, 24, 6, 2, 8 * 9 * 32 * 32 + 16 * 8 * 9 * 16 * 16
    assert rows["fc_fc"]["macs"] == trunk + s2 * nodes + s2 * s1 + s1 * s_b
    assert rows["fc_sc"]["macs"] == trunk + s2 * nodes + groups * s2 * s1 + s1 * s_b
    assert rows["sc_sc"]["macs"] == trunk + s2 * nodes + groups * (s2 * s1 + s1 * s_b)
    assert rows["paced"]["macs"] == rows["fc_sc"]["macs"]
    assert rows["paced"]["parameters"] == rows["fc_sc"]["parameters"] + groups + nodes
    assert rows["specialists"]["macs"] > 2 * trunk


def test_students_learn(result):
    """60 labels in a minute: chance is about 0.1 in a vertical of 26 or 34."""
    print({k: v["mpvap"]["seeds"] for k, v in result.metrics.items()})
    assert result.metrics["specialists"]["mpvap"]["mean"] > 0.3
    assert result.metrics["fc_sc"]["mpvap"]["mean"] > 0.3


def test_saved_student_is_the_kept_row(result, config):
    network, label_space, image_shape, normalize = load_network(config.output_dir)
    images, _ = load_data(config.data, progress=False).test.__getitems__(list(range(20)))
    with torch.no_grad():
        expected = result.student(normalize(images))
        assert torch.equal(network(normalize(images)), expected)
    assert network.head.pacing is not None and image_shape == (1, 32, 32)
    assert len(label_space) == expected.shape[1] == 60


@pytest.fixture(scope="module")
def pictures(config, tmp_path_factory):
    """Two test glyphs as files, and as the network takes them."""
    images, _ = load_data(config.data, progress=False).test.__getitems__([3, 40])
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{number}.png" for number in range(2)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[0].numpy()).save(path)
    return paths, config.augmentation.normalize(images)


def test_predicts_the_best_labels(result, config, pictures):
    paths, inputs = pictures
    with torch.no_grad():
        best = result.student(inputs).sigmoid().max(1)
    names = load_network(config.output_dir)[1].names
    found = predict(paths, config.output_dir, top=2, ink="light")
    for path, value, label in zip(paths, best.values, best.indices, strict=True):
        assert found[path][0] == (names[label], pytest.approx(float(value), abs=1e-6))


def test_predicts_the_best_labels_of_each_vertical(result, config, pictures):
    paths, inputs = pictures
    with torch.no_grad():
        scores = result.student(inputs).sigmoid()
    names = load_network(config.output_dir)[1].names
    found = predict_verticals(paths, config.output_dir, top=50, ink="light")
    assert list(found) == paths
    for path, row in zip(paths, scores, strict=True):
        verticals = found[path]
        assert set(verticals) == {"Latin", "Punctuation and Digits"}
        assert sum(map(len, verticals.values())) == len(names)  # fewer than 50 in each
        firsts = [labels[0][1] for labels in verticals.values()]
        assert firsts == sorted(firsts, reverse=True) and firsts[0] == pytest.approx(
            float(row.max())
        )
        for labels in verticals.values():
            values = [value for _, value in labels]
            assert values == sorted(values, reverse=True)
            for name, value in labels:
                assert value == pytest.approx(float(row[names.index(name)]), abs=1e-6)


def test_only_students_have_verticals(finished, full_config, pictures):
    with pytest.raises(ValueError, match=r"run must have a student over verticals, got .* without"):
        predict_verticals(pictures[0], full_config.output_dir)


def test_analysis_is_complete(analysis, config):
    assert analysis["system"] == "concentrate"
    verticals = analysis["verticals"]
    assert [each["name"] for each in verticals] == ["Latin", "Punctuation and Digits"]
    assert [each["labels"] for each in verticals] == [26, 34]
    assert all(each["nodes"] > 0 and each["test"] > 0 for each in verticals)
    assert set(analysis["per_vertical"]) == {*ROWS, "specialists"}
    assert set(analysis["heads"]) == set(ROWS)
    assert {(curve["row"], curve["seed"]) for curve in analysis["curves"]} == {
        (row, seed) for row in ROWS for seed in (0, 1)
    }
    stored = analysis["soft_targets"]
    assert stored["rows"] == 2 * analysis["dataset"]["train"]
    assert 0 < stored["mass_kept"] <= 1 and stored["top_k"] == 10
    assert stored["bytes"] < stored["dense_bytes"]
    assert set(analysis["latency_ms"]["student"]) == {"1", "64"}
    assert analysis["memory_bytes"]["specialists"] > analysis["memory_bytes"]["student"]
    assert set(analysis["gamma"]) == {"paced", "worded_label"}
    assert len(analysis["found"]["groups"]) in (3, 4)  # and perhaps labels without confusion
    assert set(analysis["found"]["mpvap_on_found"]) == {"fc_sc", "paced", "found", "found_paced"}


def test_examples_show_the_best_labels(analysis, config):
    with np.load(config.output_dir / "analysis.npz") as arrays:
        pictures = arrays["examples"]
    assert pictures.dtype == np.uint8 and len(pictures) == len(analysis["examples"]) == 4
    for example in analysis["examples"]:
        assert len(example["top"]) == 3
        probabilities = [p for _, p, _ in example["top"]]
        assert probabilities == sorted(probabilities, reverse=True)
        for name, _, right in example["top"]:
            assert right or name not in example["annotated"]


def test_finished_run_is_read_back(result, config, monkeypatch):
    """Nothing is trained or asked again, and everything comes out the same."""
    before = {
        name: (config.output_dir / name).read_bytes()
        for name in ("metrics.json", "model.safetensors")
    }

    def forbidden(*args, **kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr("fastheads.pipelines.student_rows.measure", forbidden)
    monkeypatch.setattr("fastheads.pipelines.teachers.Teachers.__call__", forbidden)
    assert concentrate_run(config).metrics == result.metrics
    for name, content in before.items():
        assert (config.output_dir / name).read_bytes() == content


def test_other_teachers_are_refused(result, config):
    """The targets on disk are of the old ones."""
    other = replace(config, teachers=replace(config.teachers, top_k=4))
    with pytest.raises(ValueError, match=r"another configuration \(teachers.top_k was"):
        concentrate_run(other)


def test_teachers_of_another_run_teach_the_same(result, config, tmp_path):
    """They are read in place of trained, and their soft targets come out alike."""
    folder = config.output_dir
    students = StudentsConfig(rows=("fc_sc", "found"), top1=24, top2=6, training=tiny.STEPS)
    other = replace(
        config,
        output_dir=tmp_path,
        teachers=replace(config.teachers, files=folder),
        students=students,
        seeds=(0,),
    )
    again = concentrate_run(other)
    assert list(again.metrics) == ["fc_sc", "specialists"]  # none is there for other verticals
    specialists = [run.metrics["specialists"]["mpvap"]["mean"] for run in (again, result)]
    assert specialists[0] == pytest.approx(specialists[1], abs=1e-3)
    first, second = (
        SoftTargets(where, json.loads((where / INDEX).read_text())["files"])
        for where in (run / "given" / "soft_targets" for run in (folder, tmp_path))
    )
    rows = torch.arange(first.num_rows)
    for one, other in zip(first.select(rows), second.select(rows), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-6)  # two roundings of float16


def test_students_may_know_the_nodes_above_the_labels(tmp_path, cache_dir):
    config = tiny_config(
        tmp_path,
        cache_dir,
        students=StudentsConfig(
            rows=("fc_sc",), top1=24, top2=6, ancestors=True, training=replace(tiny.STEPS, epochs=4)
        ),
        seeds=(0,),
    )
    student = concentrate_run(config).student
    names = load_network(tmp_path)[1].names
    assert names[60:] and {"Latin"} <= set(names[60:])
    images, targets = load_data(config.data, progress=False).test.__getitems__(list(range(60)))
    latin = torch.tensor([any(label >= 34 for label in row) for row in targets.tolist()])
    with torch.no_grad():
        said = student(config.augmentation.normalize(images)).sigmoid()[:, names.index("Latin")]
    assert said[latin].mean() > said[~latin].mean() + 0.2


def test_verticals_may_be_found_alone(tmp_path, cache_dir):
    config = tiny_config(
        tmp_path,
        cache_dir,
        verticals=VerticalsConfig(source="found", num_groups=3, top_k=5),
        students=StudentsConfig(rows=("fc_fc", "fc_sc"), top1=24, top2=6, training=tiny.STEPS),
        seeds=(0,),
    )
    result = concentrate_run(config)
    assert list(result.metrics) == ["fc_fc", "fc_sc", "specialists"]
    assert len(result.student.head.logits.out_sizes) in (3, 4)
    assert json.loads((tmp_path / "analysis.json").read_text())["found"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passes": 0}, "passes must be at least 1, got 0"),
        ({"holdout_passes": 0}, "holdout_passes must be at least 1, got 0"),
        ({"seeds": ()}, r"seeds must be distinct and at least one, got \(\)"),
        ({"seeds": (1, 1)}, "seeds must be distinct"),
        ({"seed": -1}, "seed must be at least 0 .*, got -1"),
    ],
)
def test_config_rejects(changes, message):
    with pytest.raises(ValueError, match=message):
        ConcentrateConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": tiny.ODD}, "mean must hold one number for all channels, or one"),
        ({"verticals": VerticalsConfig(num_groups=61)}, "num_groups must be at most the 60 labels"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_training(tmp_path, cache_dir, changes, message):
    with pytest.raises(ValueError, match=message):
        concentrate_run(tiny_config(tmp_path / "run", cache_dir, **changes))
    assert not (tmp_path / "run").exists()
