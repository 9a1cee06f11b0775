"""Updates that are killed, fail, meet another one or find damaged files."""

import os
import shutil
import signal
import threading
from dataclasses import replace

import patterns
import pytest
import torch
from patterns import classifier, mixed, names, network, weights

from fastheads.pipelines.streaming_classifier import StreamingClassifier
from fastheads.pipelines.streaming_settings import Settings

DATA = mixed()
ARGUMENTS = (DATA.images, names(DATA))


def opened(folder, **options):
    return StreamingClassifier.open(folder, network(seed=1), **options)


@pytest.fixture(scope="module")
def created(tmp_path_factory):
    """Before the update, and what it leads to; only to be looked at and copied."""
    before, after = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("after")
    classifier(before, update=replace(patterns.UPDATE, epochs=1, batch_size=8))
    shutil.copytree(before, after, dirs_exist_ok=True)
    opened(after).update(*ARGUMENTS)
    return before, after


def assert_before_or_after(folder, created):
    """All of the update or nothing; and it can be made, or gone back from."""
    before, after = created
    made = opened(folder)
    done = len(made.versions) - 1
    expected = opened(after if done else before)
    assert made.predict(DATA.images) == expected.predict(DATA.images)
    if not done:
        made.update(*ARGUMENTS)
        assert not (folder / "working").exists()
    assert weights(folder, 1) == weights(after, 1)
    assert sorted(path.name for path in (folder / "states").iterdir()) == [
        "000000.safetensors", "000001.safetensors"]  # fmt: skip
    made.roll_back(0)
    assert weights(folder, made.versions[-1].state) == weights(before, 0)
    return done


def in_process(**arguments):
    process = patterns.processes().Process(target=patterns.update_and_die, kwargs=arguments)
    process.start()
    process.join()
    return process.exitcode


def test_killed_within_any_write(created, tmp_path):
    """Checkpoints, weights, folder, pointer, folder: the update is there once the pointer is."""
    done = []
    for save in range(1, 30):
        folder = tmp_path / str(save)
        shutil.copytree(created[0], folder)
        code = in_process(folder=folder, at_save=save)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        done.append(assert_before_or_after(folder, created))
    assert code == 0 and done == [0] * (len(done) - 1) + [1] and len(done) >= 6


def test_killed_in_training(created, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(created[0], folder)
    assert in_process(folder=folder, at_step=3) == -signal.SIGKILL
    assert (folder / "working" / "update.json").exists()
    assert assert_before_or_after(folder, created) == 0


def test_raised_within_any_write(created, tmp_path, monkeypatch):
    """In memory too everything is as it was."""
    sync, last = os.fsync, 0
    for save in range(1, 30):
        folder = tmp_path / str(save)
        shutil.copytree(created[0], folder)
        made, saves = opened(folder), 0
        before = made.predict(DATA.images)

        def failing(file, save=save):
            nonlocal saves
            saves += 1
            if saves == save:
                raise KeyboardInterrupt if save % 2 else OSError("no space left on device")
            sync(file)

        monkeypatch.setattr(os, "fsync", failing)
        try:
            made.update(*ARGUMENTS)
            break
        except (KeyboardInterrupt, OSError):
            last = save
        finally:
            monkeypatch.setattr(os, "fsync", sync)
        assert made.predict(DATA.images) == before and len(made.versions) == 1
        made.refresh()
        assert_before_or_after(folder, created)
    assert last >= 6


def test_a_loss_that_is_not_finite_changes_nothing(created, tmp_path, monkeypatch):
    shutil.copytree(created[0], tmp_path, dirs_exist_ok=True)
    made = opened(tmp_path)
    before = made.predict(DATA.images)
    with monkeypatch.context() as patch:
        patch.setattr(Settings, "prepare", lambda self, images, generator: images / 0.0 * 0.0)
        with pytest.raises(FloatingPointError, match="the loss is nan"):
            made.update(*ARGUMENTS)
    assert made.predict(DATA.images) == before and len(made.versions) == 1
    assert_before_or_after(tmp_path, created)


def test_predicts_while_a_thread_updates(created, tmp_path, monkeypatch):
    shutil.copytree(created[0], tmp_path, dirs_exist_ok=True)
    made, started, go_on = opened(tmp_path), threading.Event(), threading.Event()
    before, prepare = made.predict(DATA.images), Settings.prepare

    def waiting(settings, images, generator):
        started.set()
        assert go_on.wait(300)
        return prepare(settings, images, generator)

    monkeypatch.setattr(Settings, "prepare", waiting)
    thread = threading.Thread(target=made.update, args=ARGUMENTS)
    thread.start()
    try:
        assert started.wait(300)
        assert made.predict(DATA.images) == before
        with pytest.raises(BlockingIOError, match="that another update is changing: try again"):
            made.update(*ARGUMENTS)
        with pytest.raises(BlockingIOError, match="must be free for an update"):
            made.roll_back(0)
    finally:
        go_on.set()
        thread.join()
    assert made.predict(DATA.images) == opened(created[1]).predict(DATA.images) != before


def test_another_process_updates(created, tmp_path):
    """Refused during it; taken up after it, so that no update is lost."""
    shutil.copytree(created[0], tmp_path, dirs_exist_ok=True)
    made, other = opened(tmp_path), opened(tmp_path)
    before = made.predict(DATA.images)
    context = patterns.processes()
    started, go_on = context.Event(), context.Event()
    process = context.Process(
        target=patterns.update_and_wait, args=(tmp_path, started, go_on))  # fmt: skip
    process.start()
    try:
        assert started.wait(300)
        with pytest.raises(BlockingIOError, match="must be free for an update"):
            made.update(*ARGUMENTS)
        assert made.predict(DATA.images) == before
    finally:
        go_on.set()
        process.join()
    assert process.exitcode == 0
    assert made.predict(DATA.images) == before
    made.refresh()
    assert made.predict(DATA.images) == opened(created[1]).predict(DATA.images)
    assert other.update(*ARGUMENTS).version == 2
    assert [version.number for version in other.versions] == [0, 1, 2]


def test_takes_up_the_newest_though_the_one_before_it_is_gone(created, tmp_path, monkeypatch):
    """Another process, which keeps one version, makes two between two looks at the folder."""
    classifier(tmp_path, keep=1)
    reader, writer = opened(tmp_path), opened(tmp_path)
    writer.update(DATA.images[:2], names(DATA)[:2])
    stale, read = writer.versions, reader._store.read
    writer.update(DATA.images[:2], names(DATA)[:2])
    assert not (tmp_path / "states" / "000001.safetensors").exists()
    looks = iter([stale, stale])
    monkeypatch.setattr(reader._store, "read", lambda: next(looks, None) or read())
    reader.refresh()
    assert reader.versions == writer.versions
    assert reader.predict(DATA.images) == writer.predict(DATA.images)


def spoil(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", [spoil, lambda path: os.truncate(path, 100), os.unlink])
def test_damaged_weights_leave_the_other_versions(created, tmp_path, how):
    shutil.copytree(created[1], tmp_path, dirs_exist_ok=True)
    running = opened(tmp_path)
    now = running.predict(DATA.images)
    how(tmp_path / "states" / "000001.safetensors")
    message = r"version 1 in .* got 000001.safetensors damaged \(.+\); other versions are \[0\]"
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)
    with pytest.raises(ValueError, match=message):
        running.roll_back(1)
    assert running.predict(DATA.images) == now
    rescued = opened(tmp_path, version=0)
    assert rescued.predict(DATA.images) == opened(created[0]).predict(DATA.images)
    assert [version.state for version in rescued.versions] == [0, 1, 0]
    assert opened(tmp_path).versions == rescued.versions


def test_goes_on_when_the_first_weights_are_damaged(created, tmp_path):
    shutil.copytree(created[1], tmp_path, dirs_exist_ok=True)
    spoil(tmp_path / "states" / "000000.safetensors")
    found = opened(tmp_path).update(*ARGUMENTS)
    assert found.total is None and found.drift.weights > 0
    assert opened(tmp_path).versions[-1].total is None


def test_weights_of_another_network(created):
    with pytest.raises(ValueError, match="whole weights that fit the network, got 000000"):
        StreamingClassifier.open(created[0], torch.nn.Linear(2, 6))


@pytest.mark.parametrize("name", ["versions.json", "settings.json", "labels.json", "pictures.pt"])
def test_other_damaged_files(created, tmp_path, name):
    shutil.copytree(created[0], tmp_path, dirs_exist_ok=True)
    os.truncate(tmp_path / name, 60)
    with pytest.raises(ValueError, match=f"{name} must .*got something damaged"):
        opened(tmp_path)


def test_interrupted_creation_is_made_again(created, tmp_path, monkeypatch):
    def failing(file):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(KeyboardInterrupt):
            classifier(tmp_path)
    with pytest.raises(ValueError, match=r"without versions\.json"):
        opened(tmp_path)
    classifier(tmp_path)
    assert weights(tmp_path, 0) == weights(created[0], 0)
