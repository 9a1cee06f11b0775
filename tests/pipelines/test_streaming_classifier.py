"""A classifier that goes on learning: versions, roll-back, drift, what it refuses."""

import json
import os
import threading
from dataclasses import replace

import numpy as np
import patterns
import pytest
import torch
from patterns import NAMES, SHAPE, SPACE, UPDATE, classifier, mixed, names, network, weights

import fastheads
from fastheads.data import Augmentation
from fastheads.labels import LabelSpace
from fastheads.models import BaseConfig, BaseNetwork
from fastheads.pipelines.guards import GuardsConfig, replay_buffer
from fastheads.pipelines.stream_networks import NetworksConfig
from fastheads.pipelines.streaming_classifier import StreamingClassifier
from fastheads.pipelines.streaming_settings import Settings

DATA = mixed()
ARGUMENTS = (DATA.images, names(DATA))


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """Two updates; only to be looked at."""
    folder = tmp_path_factory.mktemp("streamed")
    made = classifier(folder)
    return folder, made, [made.update(*ARGUMENTS), made.update(DATA.images[:9], names(DATA)[:9])]


def test_learns(tmp_path):
    made = classifier(tmp_path, update=replace(UPDATE, epochs=40, lr=0.2))
    found = made.update(torch.from_numpy(DATA.images), names(DATA))
    best = made.predict(DATA.images, k=2)
    asked = map(set, names(DATA))
    hits = [{name for name, _ in row} == both for row, both in zip(best, asked, strict=True)]
    assert np.mean(hits) > 0.9
    assert found.version == 1 and 0 < found.loss < 0.6 and found.seconds > 0
    assert not found.norms_kept
    assert found.drift == found.total  # the version before is version 0
    assert found.drift.weights > 0.1 and found.drift.norms > 0.1 and found.drift.divergence > 0.1
    assert found.drift.top5 < 1


def test_predicts_as_the_network_does(tmp_path):
    made, plain = classifier(tmp_path), network()
    with torch.no_grad():
        scores = plain(patterns.normalize(torch.from_numpy(DATA.images))).sigmoid()
    for row, expected in zip(made.predict(DATA.images, k=6), scores, strict=True):
        assert [score for _, score in row] == sorted((score for _, score in row), reverse=True)
        for name, score in row:
            assert score == pytest.approx(float(expected[NAMES.index(name)]), abs=1e-6)
    assert made.predict(DATA.images[:0]) == []
    assert [len(row) for row in made.predict(DATA.images[:2])] == [5, 5]


def test_the_network_that_was_given_never_changes(tmp_path):
    given = network().train()
    before = patterns.state(given)
    made = StreamingClassifier.create(
        tmp_path, given, SPACE, SHAPE, patterns.normalize, UPDATE, loss="soft_margin"
    )
    made.update(*ARGUMENTS)
    assert patterns.same(before, patterns.state(given)) and given.training


def test_versions(streamed):
    folder, made, updates = streamed
    assert [version.number for version in made.versions] == [0, 1, 2]
    assert [version.pictures for version in made.versions] == [0, 32, 9]
    first, second, third = made.versions
    assert first.loss is None and first.drift == first.total
    assert (first.drift.weights, first.drift.divergence, first.drift.top5) == (0, 0, 1)
    for version, update in zip((second, third), updates, strict=True):
        assert (version.loss, version.drift, version.total) == (
            update.loss, update.drift, update.total)  # fmt: skip
    assert third.total.weights > third.drift.weights
    assert first.time <= second.time <= third.time and first.time.endswith("+00:00")
    assert StreamingClassifier.open(folder, network()).versions == made.versions
    files = {"labels.json", "lock", "pictures.pt", "settings.json", "states", "versions.json"}
    assert {path.name for path in folder.iterdir()} == files


def test_same_updates_same_bits_also_when_opened_anew(streamed, tmp_path):
    folder, _, _ = streamed
    torch.manual_seed(123)  # what a service has drawn before does not matter
    classifier(tmp_path).update(*ARGUMENTS)
    again = StreamingClassifier.open(tmp_path, network(seed=5))
    again.update(DATA.images[:9], names(DATA)[:9])
    for state in range(3):
        assert weights(folder, state) == weights(tmp_path, state)
    assert weights(folder, 1) != weights(folder, 2)


def test_draws_of_the_service_are_its_own(tmp_path):
    made = classifier(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    made.update(*ARGUMENTS)
    assert torch.equal(torch.rand(4), expected)


def test_goes_back_to_any_state_bit_for_bit(tmp_path):
    made = classifier(tmp_path)
    seen = [made.predict(DATA.images)]
    for _ in range(2):
        made.update(*ARGUMENTS)
        seen.append(made.predict(DATA.images))
    assert seen[0] != seen[1] != seen[2]
    for number, state in ((1, 1), (0, 0), (3, 1), (2, 2)):
        back = made.roll_back(number)
        assert made.predict(DATA.images) == seen[state]
        assert (back.state, back.pictures, back.loss) == (state, 0, None)
        assert StreamingClassifier.open(tmp_path, network()).predict(DATA.images) == seen[state]
    assert [version.state for version in made.versions] == [0, 1, 2, 1, 0, 1, 2]
    assert made.versions[-1].total == made.versions[2].total
    assert len(list((tmp_path / "states").iterdir())) == 3  # a roll-back writes no weights
    assert made.update(*ARGUMENTS).version == 7
    with pytest.raises(ValueError, match=r"number must be one of the versions \[0, 1, .*got 9"):
        made.roll_back(9)


def test_keeps_the_last_versions_and_the_first(tmp_path):
    made = classifier(tmp_path, keep=2)
    for _ in range(4):
        made.update(DATA.images[:4], names(DATA)[:4])
    assert [version.number for version in made.versions] == [0, 3, 4]
    assert [path.stem for path in sorted((tmp_path / "states").iterdir())] == [
        "000000", "000003", "000004"]  # fmt: skip
    made.roll_back(3)
    assert [(version.number, version.state) for version in made.versions] == [
        (0, 0), (4, 4), (5, 3)]  # fmt: skip
    made = StreamingClassifier.open(tmp_path, network())
    made.update(DATA.images[:4], names(DATA)[:4])
    assert [version.number for version in made.versions] == [0, 5, 6]
    assert [path.stem for path in sorted((tmp_path / "states").iterdir())] == [
        "000000", "000003", "000006"]  # fmt: skip
    with pytest.raises(ValueError, match=r"number must be one of the versions \[0, 5, 6\], got 4"):
        made.roll_back(4)


def test_a_day_of_updates_leaves_nothing_behind(tmp_path):
    made = classifier(tmp_path, keep=1)
    made.update(DATA.images[:4], names(DATA)[:4])
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    for _ in range(5):
        made.update(DATA.images[:4], names(DATA)[:4])
    assert len(os.listdir("/proc/self/fd")) <= files
    assert threading.active_count() <= threads
    after = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert after <= size + 100  # figures of more digits


def test_one_picture_is_enough(tmp_path):
    """Its statistics would be those of one picture: norms keep theirs, the rest learns."""
    made = classifier(tmp_path)
    found = made.update(DATA.images[:1], names(DATA)[:1])
    assert found.norms_kept and found.drift.norms == 0 and found.drift.weights > 0
    assert np.isfinite(found.loss)
    old = replay_buffer(patterns.base(), 12, 0)
    with_old = classifier(tmp_path / "replay", guards=GuardsConfig(replay=12), replay=old)
    assert not with_old.update(DATA.images[:1], names(DATA)[:1]).norms_kept


def test_old_pictures_are_mixed_in_and_copied(tmp_path, monkeypatch):
    """Also by a classifier that was opened; and drift is measured on them."""
    old = replay_buffer(patterns.base(), 12, 0)
    guards = GuardsConfig(replay=12)
    classifier(tmp_path, guards=guards, replay=old, reference=None)
    old.images[:] = 0
    made, seen = StreamingClassifier.open(tmp_path, network()), []

    def prepare(settings, images, generator):
        seen.append(len(images))
        return settings.normalize(images)

    monkeypatch.setattr(Settings, "prepare", prepare)
    found = made.update(DATA.images[:4], names(DATA)[:4])
    assert seen == [16, 16] and found.drift.divergence > 0
    with pytest.raises(ValueError, match=r"guards.replay = 12 asks for, got 0"):
        classifier(tmp_path / "none", guards=guards)


def test_without_reference_pictures(tmp_path):
    found = classifier(tmp_path, reference=None).update(*ARGUMENTS)
    assert (found.drift.divergence, found.drift.top5) == (None, None)
    assert found.drift.weights > 0


def test_every_setting_is_there_when_opened(tmp_path):
    guards = GuardsConfig(0.5, ("0",), True, 0.5, 6, 0.25)
    made = classifier(
        tmp_path, guards=guards, replay=replay_buffer(patterns.base(), 6, 0), loss="margin", keep=3,
        augmentation=Augmentation(degrees=5, scale=(0.9, 1.2)),
        update=replace(UPDATE, milestones=(1.0,), schedule="step"),
    )  # fmt: skip
    again = StreamingClassifier.open(tmp_path, network())
    assert again._settings == made._settings and again._settings.guards == guards
    assert again.label_space == made.label_space
    assert made.update(*ARGUMENTS).norms_kept


def test_built_from_its_description(tmp_path):
    config = BaseConfig((4,), (8, 8))
    torch.manual_seed(0)
    given = BaseNetwork(SHAPE, 6, config)
    described = {"augmented": False, "base": {"channels": [4], "hidden": [8, 8]}, "rounds": []}
    create = (SPACE, SHAPE, patterns.normalize, UPDATE)
    made = fastheads.StreamingClassifier.create(tmp_path, given, *create, description=described)
    made.update(*ARGUMENTS)
    again = fastheads.StreamingClassifier.open(tmp_path)
    assert again.predict(DATA.images) == made.predict(DATA.images)
    other = {**described, "base": {"channels": [5], "hidden": [8, 8]}}
    with pytest.raises(ValueError, match=r"description must be that of the network, got \{"):
        StreamingClassifier.create(tmp_path / "other", given, *create, description=other)
    undescribed = tmp_path / "undescribed"
    classifier(undescribed)
    with pytest.raises(ValueError, match=r"network must be given for .*no description of it, got"):
        StreamingClassifier.open(undescribed)


def test_a_network_with_squeeze_and_excitation(tmp_path):
    """As a run of streamed labels stores it; one picture, mirrored, and read-only."""
    config = NetworksConfig(width=4, stem_stride=1)
    torch.manual_seed(0)
    given = config.build("senet_2x_r32", 6, 1)
    made = StreamingClassifier.create(
        tmp_path, given, SPACE, SHAPE, patterns.normalize, UPDATE,
        GuardsConfig(freeze=("stem",), distillation=1.0),
        description={"stream": config.describe("senet_2x_r32")}, reference=DATA.images[:8],
    )  # fmt: skip
    picture = DATA.images[:1, :, :, ::-1]
    picture.flags.writeable = False
    assert made.update(picture, names(DATA)[:1]).norms_kept
    again = StreamingClassifier.open(tmp_path)
    assert again.predict(DATA.images) == made.predict(DATA.images)
    assert torch.equal(again._current.network.stem[0].weight, given.stem[0].weight)


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (DATA.images, [["pug"]] * 31, "the names for each of the 32 pictures, got 31"),
        (DATA.images[:2], [["pug"], []], "one name for each picture, got none for picture 1"),
        (DATA.images[:1], ["pug"], "got the string 'pug' for picture 0"),
        (DATA.images[:1], [["pug", "Beagel"]],
         "be among the 6 known ones, got 'Beagel' for picture 0; close to it: 'beagle'"),
        (DATA.images[:1], [["é"]], "got 'é' for picture 0$"),
        (DATA.images[:0], [], "images must hold at least one picture, got none"),
        (DATA.images[:1].astype(np.float32), [["pug"]],
         r"images must be uint8 \[N, 1, 8, 8\], got torch.float32 \[1, 1, 8, 8\]"),
        (DATA.images[:1, :, :4], [["pug"]], r"got torch.uint8 \[1, 1, 4, 8\]"),
        (DATA.images[0], [["pug"]], r"got torch.uint8 \[1, 8, 8\]"),
    ],
)  # fmt: skip
def test_update_refuses(streamed, images, labels, message):
    _, made, _ = streamed
    versions = made.versions
    with pytest.raises(ValueError, match=message):
        made.update(images, labels)
    assert made.versions == versions


def test_predict_refuses(streamed):
    _, made, _ = streamed
    with pytest.raises(ValueError, match="k must be 1 to 6, got 7"):
        made.predict(DATA.images, k=7)
    with pytest.raises(ValueError, match=r"images must be uint8 \[N, 1, 8, 8\], got torch.int64"):
        made.predict(DATA.images.astype(np.int64))


def test_create_refuses(streamed, tmp_path):
    folder, _, _ = streamed
    with pytest.raises(ValueError, match="folder must hold no classifier yet, got"):
        classifier(folder)
    for options, message in [
        ({"keep": 0}, "keep must be at least 1, or None for all, got 0"),
        ({"loss": "softmax"}, "loss must be margin or soft_margin, got 'softmax'"),
        ({"update": replace(UPDATE, patience=2)}, "update.patience must be None"),
        ({"reference": np.zeros((2, 3, 8, 8), np.uint8)}, r"reference must be uint8 \[N, 1, "),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            classifier(tmp_path, **options)
    few = LabelSpace(NAMES[:5])
    with pytest.raises(ValueError, match=r"each of the 5 labels, got \[1, 6\] for one picture"):
        StreamingClassifier.create(tmp_path, network(), few, SHAPE, patterns.normalize, UPDATE)
    with pytest.raises(ValueError, match=r"that the network takes, got \[3, 8, 8\] \(Given groups"):
        StreamingClassifier.create(
            tmp_path, network(), SPACE, (3, 8, 8), patterns.normalize, UPDATE)  # fmt: skip
    with pytest.raises(ValueError, match=r"folder must hold a classifier, got .* without versions"):
        StreamingClassifier.open(tmp_path, network())


def test_settings_are_readable(streamed):
    stored = json.loads((streamed[0] / "settings.json").read_text())
    assert stored["image_shape"] == [1, 8, 8] and stored["update"]["epochs"] == 2
