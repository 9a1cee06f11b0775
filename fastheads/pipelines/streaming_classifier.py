"""A classifier that learns new pictures all day (paper 001, 5.2), and can go back to any state."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.data import Augmentation, Normalize
from fastheads.data.images import Pictures
from fastheads.labels import LabelSpace
from fastheads.ops import topk_indices
from fastheads.pipelines.drift import Drift, measure_drift
from fastheads.pipelines.guards import GuardsConfig
from fastheads.pipelines.network_file import network_of
from fastheads.pipelines.streaming_input import checked_pictures, targets_of
from fastheads.pipelines.streaming_settings import (
    LOSSES,
    Kept,
    LossName,
    Settings,
    kept_pictures,
    read_settings,
    write_settings,
)
from fastheads.pipelines.update import learn
from fastheads.pipelines.versions import Version, Versions
from fastheads.training import TrainConfig
from fastheads.training.batches import mix
from fastheads.training.checkpoint import random_state, set_random_state


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        version: number of the version that it made.
        seconds: it took.
        loss: mean of the last epoch.
        drift: from the version before.
        total: drift from version 0; None if the weights of that are damaged.
        norms_kept: whether norms kept their statistics, asked to or for want of pictures.
    """

    version: int
    seconds: float
    loss: float
    drift: Drift
    total: Drift | None
    norms_kept: bool


@dataclass(frozen=True)
class _Current:
    """What predictions are made with; replaced as one, so that no thread sees half of an update."""

    network: nn.Module
    versions: list[Version]


class StreamingClassifier:
    """A trained network that goes on learning, for a service that is sent labelled pictures.

    Each update or roll-back makes a new version: weights on disk, then the pointer to them. One
    that is interrupted at any moment, or fails, leaves everything as it was, on disk and in memory.
    Predictions go on during an update, from the version before. The same updates end in the same
    bits on one machine's CPU, also with the classifier opened anew between them.

    Example::

        classifier = StreamingClassifier.create(
            folder, network, label_space, (3, 300, 300), normalize, TrainConfig(epochs=4, lr=1e-3),
            GuardsConfig(averaging=0.5), description={"model": "timm:seresnet18"})
        classifier.update(images, [["pug", "beagle"]] * len(images))
        classifier.predict(images, k=2)
        classifier.roll_back(0)

    Attributes:
        folder: of the classifier.
        label_space: of the outputs; it never changes.
    """

    def __init__(
        self,
        folder: Path,
        label_space: LabelSpace,
        settings: Settings,
        kept: Kept,
        current: _Current,
    ) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self.folder, self.label_space = folder, label_space
        self._settings, self._kept, self._current = settings, kept, current
        self._store = Versions(folder, settings.keep)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        network: nn.Module,
        label_space: LabelSpace,
        image_shape: Sequence[int],
        normalize: Normalize,
        update: TrainConfig,
        guards: GuardsConfig | None = None,
        replay: Pictures | None = None,
        *,
        description: dict[str, Any] | None = None,
        loss: LossName = "margin",
        augmentation: Augmentation | None = None,
        reference: Tensor | np.ndarray | None = None,
        keep: int | None = None,
    ) -> StreamingClassifier:
        """Writes version 0.

        Args:
            folder: without a classifier so far.
            network: trained; pictures to logits ``[N, labels]``. Copied, and never changed.
            label_space: of its outputs.
            image_shape: ``(channels, height, width)`` of the pictures.
            normalize: from uint8 to what the network takes.
            update: settings of each update; its seed and the version's number give the order.
            guards: against forgetting; none by default, as in the paper.
            replay: old pictures that every update mixes in, such as those of
                :func:`~fastheads.pipelines.guards.replay_buffer`; copied; given if
                ``guards.replay``.
            description: what :func:`~fastheads.pipelines.network_file.network_of` builds the
                network from; without it, :meth:`open` must be given a network.
            loss: margin (section 4.4.1) or soft_margin (4.4.2).
            augmentation: of the pictures that are learned; its normalisation is ``normalize``.
            reference: uint8 ``[N, channels, height, width]``, pictures that drift is measured on;
                up to 64 of the old ones by default.
            keep: how many versions stay on disk beside version 0, the newest; None for all.

        Raises:
            ValueError: if an argument does not fit the others.
            BlockingIOError: if another process or thread is changing the folder.
        """
        if augmentation is not None:
            augmentation = replace(augmentation, normalize=normalize)
        settings = Settings(
            tuple(image_shape), normalize, augmentation, update, guards or GuardsConfig(), loss,
            keep, description,
        )  # fmt: skip
        network = _copy(network)
        settings.check(network, len(label_space))
        kept = kept_pictures(settings, network, replay, reference)
        folder, store = Path(folder), Versions(Path(folder), keep)
        folder.mkdir(parents=True, exist_ok=True)
        with store.locked():
            if store.exists:
                raise ValueError(f"folder must hold no classifier yet, got {folder} with one")
            write_settings(folder, settings, label_space, kept)
            still = measure_drift(network, network, kept.first_logits, kept.first_logits)
            digest = store.save(network, 0)
            first = Version(0, _now(), 0, 0.0, None, still, still, 0, digest)
            versions = store.add([], first)
        return cls(folder, label_space, settings, kept, _Current(network, versions))

    @classmethod
    def open(
        cls, folder: str | Path, network: nn.Module | None = None, version: int | None = None
    ) -> StreamingClassifier:
        """Opens the current version, in any process.

        Args:
            folder: that :meth:`create` has written.
            network: of the same structure, where the folder has no description; copied.
            version: goes back to this version first, as when the current one is damaged.

        Raises:
            ValueError: if there is no classifier, its network is not known, or a file is damaged.
        """
        folder = Path(folder)
        versions = Versions(folder, None).read()
        settings, label_space, kept = read_settings(folder)
        if network is None:
            if settings.description is None:
                raise ValueError(
                    f"network must be given for {folder}, which has no description of it, got None"
                )
            network = network_of(settings.description, settings.image_shape, len(label_space))
        network = _copy(network)
        opened = cls(folder, label_space, settings, kept, _Current(network, versions))
        if version is None:
            opened._current = _Current(*opened._store.current(network))
        else:
            opened.roll_back(version)
        return opened

    @property
    def versions(self) -> list[Version]:
        """All versions that can be gone back to, oldest first; the last one predicts."""
        return list(self._current.versions)

    def update(self, images: Tensor | np.ndarray, labels: Sequence[Sequence[str]]) -> Update:
        """Learns new pictures: a new version.

        A few pictures are enough, one is; the norms of the network then stay as they are, see
        :class:`~fastheads.pipelines.guards.GuardsConfig`.

        Args:
            images: uint8 ``[N, channels, height, width]``, ``N`` at least 1.
            labels: the names of the labels of each picture, at least one.

        Raises:
            ValueError: if a label is unknown or a picture has none, or the pictures do not fit.
            FloatingPointError: if the training leads to numbers that are not finite.
            BlockingIOError: if another process or thread is changing the folder.
        """
        started, settings, replay = time.monotonic(), self._settings, self._kept.replay
        batch = checked_pictures(images, settings.image_shape)
        if not len(batch):
            raise ValueError("images must hold at least one picture, got none")
        targets = targets_of(labels, len(batch), self.label_space)
        data = Pictures(batch.numpy(), np.arange(len(batch)), targets)
        with self._store.locked(), _generators_kept(), _working_folder(self.folder) as working:
            self.refresh()
            before, versions = self._current.network, self._current.versions
            number = versions[-1].number + 1
            after = copy.deepcopy(before)
            result = learn(
                after,
                data,
                replace(settings.update, seed=mix(settings.update.seed, number)),
                settings.guards,
                LOSSES[settings.loss],
                folder=working,
                augment=settings.prepare,
                replay=replay,
            )
            drift, total = self._drifts(before, after, versions)
            loss, seconds = result.history[-1]["train_loss"], time.monotonic() - started
            digest = self._store.save(after, number)
            version = Version(
                number, _now(), len(batch), seconds, loss, drift, total, number, digest
            )
            self._make_current(after, versions, version)
        step = min(settings.update.batch_size, len(batch) + len(replay)) // settings.update.devices
        return Update(number, seconds, loss, drift, total, settings.guards.keeps_norms(step))

    def predict(self, images: Tensor | np.ndarray, k: int = 5) -> list[list[tuple[str, float]]]:
        """The ``k`` best labels of each picture, best first, with their scores.

        Scores are sigmoids of the logits (section 4.2): they rank, but are no probabilities if the
        network was trained with the margin loss.

        Args:
            images: uint8 ``[N, channels, height, width]``; ``N`` may be 0.
            k: from 1 to the number of labels.

        Raises:
            ValueError: if the pictures or ``k`` do not fit.
        """
        names = self.label_space.names
        if not 1 <= k <= len(names):
            raise ValueError(f"k must be 1 to {len(names)}, got {k}")
        batch = checked_pictures(images, self._settings.image_shape)
        if not len(batch):
            return []
        scores = self._settings.logits(self._current.network, batch).sigmoid()
        return [
            [(names[label], float(row[label])) for label in best]
            for row, best in zip(scores, topk_indices(scores, k).tolist(), strict=True)
        ]

    def roll_back(self, number: int) -> Version:
        """Goes back to the weights of version ``number``, bit for bit: a new version.

        Raises:
            ValueError: if there is no such version, or its weights are damaged.
            BlockingIOError: if another process or thread is changing the folder.
        """
        with self._store.locked():
            versions = self._store.read()
            known = {version.number: version for version in versions}
            if number not in known:
                raise ValueError(f"number must be one of the versions {[*known]}, got {number}")
            network = self._store.load(known[number], self._current.network, versions)
            newest = versions[-1].number + 1
            version = replace(
                known[number], number=newest, time=_now(), pictures=0, seconds=0.0, loss=None
            )
            self._make_current(network, versions, version)
        return version

    def refresh(self) -> None:
        """Takes up what another process has stored in the folder since."""
        if self._store.read()[-1].number != self._current.versions[-1].number:
            self._current = _Current(*self._store.current(self._current.network))

    def _make_current(self, network: nn.Module, versions: list[Version], version: Version) -> None:
        versions = self._store.add(versions, version)
        self._current = _Current(network, versions)
        self._store.prune(versions)

    def _drifts(
        self, before: nn.Module, after: nn.Module, versions: list[Version]
    ) -> tuple[Drift, Drift | None]:
        """From the version before, and from version 0."""
        reference, first_logits = self._kept.reference, self._kept.first_logits
        old, new = (self._settings.logits(network, reference) for network in (before, after))
        drift = measure_drift(before, after, old, new)
        try:
            first = self._store.load(versions[0], before, versions)
        except ValueError:  # a service goes on without
            return drift, None
        return drift, measure_drift(first, after, first_logits, new)


def _copy(network: nn.Module) -> nn.Module:
    """In the one memory format that makes the same bits, whatever the format of ``network``."""
    return copy.deepcopy(network).to(memory_format=torch.channels_last).eval()


@contextmanager
def _working_folder(folder: Path) -> Iterator[Path]:
    """Empty before, whatever a killed update has left, and gone after."""
    path = folder / "working"
    shutil.rmtree(path, ignore_errors=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Training seeds the generators of the whole process; a service may draw from them too."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
