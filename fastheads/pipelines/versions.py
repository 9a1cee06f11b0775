"""The versions of a classifier in a folder: weights that are whole or absent, and one pointer.

``states/000003.safetensors`` holds weights. ``versions.json`` lists the versions with the digests
of their weights; it is replaced as a whole after the weights are on disk, and its last version is
the one that counts, so that an update exists from one moment on and not before.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from fastheads.pipelines.drift import Drift
from fastheads.pipelines.foreign_network import first_line
from fastheads.training import load_weights, save_weights
from fastheads.training.checkpoint import write_whole

POINTER, STATES, LOCK = "versions.json", "states", "lock"


@dataclass(frozen=True)
class Version:
    """A state of a classifier, and how it came about.

    Attributes:
        number: 0 at creation, then counted up by each update and each roll-back.
        time: when, in ISO 8601 (UTC).
        pictures: that the update learned; 0 for a roll-back.
        seconds: that it took.
        loss: mean of the update's last epoch; None without an update.
        drift: from the version before; of a roll-back, that of the version it went back to.
        total: drift from version 0; None if the weights of that were damaged.
        state: the version whose weights it has: its own, or that which a roll-back went back to.
        digest: of the file of the weights.
    """

    number: int
    time: str
    pictures: int
    seconds: float
    loss: float | None
    drift: Drift
    total: Drift | None
    state: int
    digest: str


class Versions:
    """Reads and writes the versions in a folder.

    Attributes:
        folder: of the classifier.
        keep: how many of the newest versions stay beside version 0; None for all.
    """

    def __init__(self, folder: Path, keep: int | None) -> None:
        if keep is not None and keep < 1:
            raise ValueError(f"keep must be at least 1, or None for all, got {keep}")
        self.folder, self.keep = Path(folder), keep

    @property
    def exists(self) -> bool:
        return (self.folder / POINTER).exists()

    def read(self) -> list[Version]:
        """All versions that can be gone back to, oldest first; the last one is the current.

        Raises:
            ValueError: if there is none, or the list is damaged.
        """
        if not self.exists:
            raise ValueError(f"folder must hold a classifier, got {self.folder} without {POINTER}")
        try:
            rows = json.loads((self.folder / POINTER).read_text())
            return [_version(row) for row in rows]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self.folder / POINTER} must list the versions of a classifier, "
                f"got something damaged ({first_line(error)})"
            ) from None

    def save(self, network: nn.Module, number: int) -> str:
        """Writes the weights of a version that is still to be added; their digest."""
        path = self._path(number)
        save_weights(network, path)
        return _digest(path)

    def add(self, versions: list[Version], version: Version) -> list[Version]:
        """Makes ``version``, whose weights are saved, the current one."""
        _sync(self.folder / STATES)
        kept = [*versions, version]
        if self.keep is not None:
            kept = [kept[0], *kept[1:][-self.keep :]]
        rows = json.dumps([asdict(each) for each in kept], indent=1)
        write_whole(self.folder / POINTER, lambda partial: partial.write_text(rows))
        _sync(self.folder)
        return kept

    def prune(self, versions: list[Version]) -> None:
        """Deletes weights that no version has, also those that a killed update has left."""
        needed = {self._path(version.state) for version in versions}
        for path in (self.folder / STATES).iterdir():
            if path not in needed:
                path.unlink()

    def load(self, version: Version, like: nn.Module, versions: list[Version]) -> nn.Module:
        """A copy of ``like`` with the weights of ``version``, in eval mode.

        Raises:
            ValueError: if they are missing, damaged or those of another network.
        """
        path = self._path(version.state)
        network = copy.deepcopy(like).eval()
        try:
            if _digest(path) != version.digest:
                raise ValueError("its bytes have changed")
            load_weights(network, path)
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            others = [v.number for v in versions if v.state != version.state]
            raise ValueError(
                f"version {version.number} in {self.folder} must have whole weights that fit the "
                f"network, got {path.name} damaged ({first_line(error)}); other versions "
                f"are {others}"
            ) from None
        return network

    def current(self, like: nn.Module) -> tuple[nn.Module, list[Version]]:
        """The network of the current version, as :meth:`load` gives it, and all versions."""
        while True:
            versions = self.read()
            try:
                return self.load(versions[-1], like, versions), versions
            except ValueError:
                # Another process may have made new versions since, and deleted this one.
                if self.read()[-1].number == versions[-1].number:
                    raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other process and thread from changing the folder.

        Raises:
            BlockingIOError: if another one is changing it.
        """
        # Released by the kernel however the process ends, so that a killed one leaves no lock.
        with open(self.folder / LOCK, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(
                    f"folder {self.folder} must be free for an update, "
                    "got one that another update is changing: try again when it is done"
                ) from None
            yield

    def _path(self, number: int) -> Path:
        return self.folder / STATES / f"{number:06d}.safetensors"


def _version(row: dict[str, Any]) -> Version:
    total = None if row["total"] is None else Drift(**row["total"])
    return Version(**{**row, "drift": Drift(**row["drift"]), "total": total})


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Puts renamed files on disk before what is written next."""
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
