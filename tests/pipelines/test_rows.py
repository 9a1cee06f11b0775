"""All rows of one seed, on made-up frozen outputs, and their summary."""

import statistics
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from fastheads.labels import Grouping
from fastheads.metrics import count_macs, count_parameters
from fastheads.pipelines.augment import summarise
from fastheads.pipelines.frozen import Frozen
from fastheads.pipelines.heads import HeadsConfig, measure
from fastheads.pipelines.rows import SeedRows, find_clusters, grow_rows
from fastheads.targets import SparseTargets
from fastheads.training import Stages

SPLITS = ("train", "holdout", "test")
BELOW = (1000, 500)


def splits(feature_shape=(6,)):
    """Labels 0 to 3, 4 to 7, 8 to 11 look alike: hidden units say which four, features which."""
    out = {}
    for number, split in enumerate(SPLITS):
        rng = torch.Generator().manual_seed(number)
        label = torch.arange(72) % 12
        look = torch.nn.functional.one_hot(label // 4, 3).float()
        hidden = 3 * look + 0.3 * torch.randn(2, 72, 3, generator=rng)
        features = torch.randn(2, 72, *feature_shape, generator=rng)
        features.flatten(2)[..., 0] += label % 4
        passes = 1 if split == "test" else 2
        targets = SparseTargets.from_lists(label[:, None].tolist())
        out[split] = Frozen(features[:passes], hidden[:passes], targets)
    return out


def base():
    top = tiny.classifier(hidden=3)
    with torch.no_grad():
        top.classifier.weight.copy_(torch.eye(3).repeat_interleave(4, 0))
        top.classifier.weight.add_(torch.randn(12, 3, generator=torch.Generator().manual_seed(9)) / 9)  # fmt: skip  # noqa: E501
        top.classifier.bias.fill_(-2)
    return top


def run(folder, frozen, seed=3, training=tiny.STEPS, **options):
    settings = {"num_groups": 3, "widths": (6,), "top_k": 3}
    flags = {name: options.pop(name) for name in ("brief", "second_round") if name in options}
    config = HeadsConfig(**settings | options)
    stages = Stages(folder, {})
    return grow_rows(frozen, base(), config, training, stages, seed, BELOW, **flags), stages


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    frozen = splits()
    found, stages = run(tmp_path_factory.mktemp("rows"), frozen, second_round=True)
    return found, stages, frozen


def test_every_row_is_there(rows):
    found, stages, _ = rows
    assert list(found.rows) == list(found.tops) == [*tiny.ROWS, "second_round"]
    assert all(set(row) == {*tiny.METRICS, *tiny.COUNTS} for row in found.rows.values())
    assert [curve["row"] for curve in found.curves] == list(found.rows)[1:]
    assert {each["stage"] for each in stages.durations} >= set(found.rows) - {"base"}


def test_groups_are_what_is_confused(rows):
    found, _, _ = rows
    group_of = found.clusters["confusions"]["group_of"]
    assert len({(label // 4, group) for label, group in enumerate(group_of)}) == 3


def test_rows_are_measured_on_the_test_pictures(rows):
    found, _, frozen = rows
    for row, top in found.tops.items():
        expected = measure(top, frozen["test"], 12)
        assert {name: found.rows[row][name] for name in tiny.METRICS} == expected


def test_cost_of_rows(rows):
    """What is below, and what classifier and heads execute and hold."""
    found, _, _ = rows
    inputs = torch.randn(1, 6), torch.randn(1, 3)
    assert [row["heads"] for row in found.rows.values()] == [0, 0, 3, 3, 3, 3, 6]
    for row, top in found.tops.items():
        assert found.rows[row]["macs"] == BELOW[0] + count_macs(top, *inputs)
        assert found.rows[row]["parameters"] == BELOW[1] + count_parameters(top)
    assert found.rows["base"]["macs"] == found.rows["retrained"]["macs"] == 1000 + 3 * 12
    assert found.rows["second_round"]["macs"] > found.rows["confusions"]["macs"] > 1036


@pytest.mark.parametrize("kind", ["confusions", "co_detections"])
def test_control_differs_by_its_labels_alone(rows, kind):
    found, _, _ = rows
    ours, control = found.tops[kind].heads[0], found.tops[f"randomized_{kind}"].heads[0]
    assert np.array_equal(ours.grouping.group_of, found.clusters[kind]["group_of"])
    assert np.array_equal(ours.grouping.sizes, control.grouping.sizes)
    assert not np.array_equal(ours.grouping.group_of, control.grouping.group_of)
    assert ours.widths == control.widths
    for cost in ("macs", "parameters"):
        assert found.rows[kind][cost] == found.rows[f"randomized_{kind}"][cost]


def test_second_round_augments_the_first(rows):
    found, _, frozen = rows
    first, second = found.tops["confusions"], found.tops["second_round"]
    assert len(second.heads) == 2
    for key, value in first.heads[0].state_dict().items():
        assert torch.equal(second.heads[0].state_dict()[key], value)
    config = HeadsConfig(num_groups=3, widths=(6,), top_k=3)
    expected = find_clusters(first, frozen["holdout"], config, "confusion", 3)["group_of"]
    assert np.array_equal(second.heads[1].grouping.group_of, expected)


def test_clusters_have_a_picture_of_their_similarity(rows):
    found, _, _ = rows
    clusters = found.clusters["confusions"]
    assert clusters["similarity"].shape == (12, 12)
    assert clusters["bounds"].tolist() == [0, 4, 8, 12]
    inside = np.kron(np.eye(3, dtype=bool), np.ones((4, 4), bool)) & ~np.eye(12, dtype=bool)
    assert clusters["similarity"][inside].min() > clusters["similarity"][~inside].max()


def test_second_call_reads_what_the_first_wrote(rows, monkeypatch):
    found, stages, frozen = rows

    def never(*args, **kwargs):
        raise AssertionError("a finished stage ran again")

    monkeypatch.setattr("fastheads.pipelines.rows.find_clusters", never)
    again, _ = run(stages.folder, frozen, second_round=True)
    assert again.rows == found.rows
    assert again.conditional == found.conditional
    assert again.curves == found.curves


def test_brief_leaves_out_co_detections_and_random_groups(tmp_path):
    found, _ = run(tmp_path, splits(), brief=True)
    assert list(found.rows) == ["base", "retrained", "confusions"]
    assert found.conditional == []


@pytest.mark.parametrize("conv_channels", [0, 3])
@pytest.mark.parametrize("capacity", ["equal", "size", "data", "difficulty"])
def test_every_capacity_with_and_without_convolution(tmp_path, capacity, conv_channels):
    frozen = splits((2, 3, 2))
    found, _ = run(
        tmp_path, frozen, capacity=capacity, conv_channels=conv_channels, loss="softmax",
        second_round=True, widths=(6, 5),
    )  # fmt: skip
    heads = found.tops["confusions"].heads[0]
    assert heads.conv_channels == conv_channels
    assert all(np.isfinite(list(row.values())).all() for row in found.rows.values())
    inputs = torch.randn(1, 2, 3, 2), torch.randn(1, 3)
    for row, top in found.tops.items():
        assert found.rows[row]["macs"] == BELOW[0] + count_macs(top, *inputs)
    if capacity in ("equal", "size"):  # all groups have four labels
        assert heads.widths == [[6, 5]] * 3
    assert sum(w[0] for w in heads.widths) == pytest.approx(18, abs=6)


def test_capacity_of_the_control_follows_its_own_groups(tmp_path):
    frozen = splits()
    labels = [[n % 4] if n % 3 else [n % 12] for n in range(72)]  # labels 0 to 3 are frequent
    frozen["train"] = replace(frozen["train"], targets=SparseTargets.from_lists(labels))
    found, _ = run(tmp_path, frozen, capacity="data", widths=(12,))
    counts = np.bincount(np.concatenate(labels), minlength=12)
    for row in ("confusions", "randomized_confusions"):
        heads = found.tops[row].heads[0]
        shares = [counts[heads.grouping.members(g)].sum() for g in range(3)]
        expected = [max(4, round(12 * share / (sum(shares) / 3))) for share in shares]
        assert [w for (w,) in heads.widths] == expected


def test_more_groups_than_labels(tmp_path):
    with pytest.raises(ValueError, match="n_clusters must be at most the 12 connected labels"):
        run(tmp_path, splits(), num_groups=13)


def test_isolated_labels_get_no_head(tmp_path):
    """A label that is never detected and never annotated on hold-out pictures."""
    frozen = splits()
    labels = [[min(row % 12, 10)] for row in range(72)]
    frozen["holdout"] = replace(frozen["holdout"], targets=SparseTargets.from_lists(labels))
    start = base()
    with torch.no_grad():
        start.classifier.bias[11] = -50
    config = HeadsConfig(num_groups=3, widths=(6,), top_k=3)
    found = grow_rows(frozen, start, config, tiny.STEPS, Stages(tmp_path, {}), 0, BELOW)
    assert found.tops["confusions"].heads[0].grouping.group_of[11] == -1
    assert (found.tops["randomized_confusions"].heads[0].grouping.group_of == -1).sum() == 1
    assert len(found.rows) == 6


def test_summary():
    seeds = []
    for top1, macs in ((0.5, 100), (0.6, 103), (0.8, 105)):
        row = {"top1": top1, "macs": macs, "parameters": macs + 1, "heads": 4}
        seeds.append(SeedRows(base(), {}, rows={"base": row, "confusions": {**row, "top1": 1.0}}))
    found = summarise(seeds)
    assert list(found) == ["base", "confusions"]
    assert found["base"]["top1"] == {
        "mean": pytest.approx(19 / 30),
        "std": pytest.approx(statistics.stdev([0.5, 0.6, 0.8])),
        "seeds": [0.5, 0.6, 0.8],
    }
    assert found["confusions"]["top1"]["std"] == 0
    assert (found["base"]["macs"], found["base"]["parameters"]) == (103, 104)
    assert summarise(seeds[:1])["base"]["top1"] == {"mean": 0.5, "std": 0.0, "seeds": [0.5]}


def test_grouping_is_rebuilt_from_what_is_stored(rows):
    found, _, _ = rows
    assert Grouping(found.clusters["confusions"]["group_of"]).num_groups == 3
