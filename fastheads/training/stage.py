"""Finished stages of a pipeline in its run folder, so that a killed run continues where it was."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TextIO, TypeVar
from weakref import WeakValueDictionary

from fastheads.training.checkpoint import claim, load, save

T = TypeVar("T")


class Stages:
    """Runs each named stage once for a run folder, and reads its result afterwards.

    Example::

        stages = Stages(run_dir, asdict(config))
        features = stages.run("features", lambda: compute_features(model, data))
        groups = stages.run("clustering, seed 0", lambda: {"group_of": cluster(features)})

    Attributes:
        folder: the run folder; results lie in ``folder/stages``, one file a stage.
        durations: one row a stage run or read so far: ``stage``, and the ``seconds`` it took
            when it was computed.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]):
        """Opens or creates the run folder.

        Args:
            folder: the run folder.
            fingerprint: everything that the results depend on, as JSON values: the settings.

        Raises:
            BlockingIOError: if another process has opened the folder.
            ValueError: if the folder holds results of another fingerprint.
        """
        self.folder = Path(folder)
        self.durations: list[dict[str, Any]] = []
        self._lock = _Lock.of(self.folder)
        claim(self.folder, "stages/fingerprint.json", dict(fingerprint))

    def run(self, name: str, compute: Callable[[], T]) -> T:
        """The result of stage ``name``, computed unless an earlier run has finished it.

        Args:
            name: a title, distinct within the run.
            compute: gives tensors, numpy arrays, plain Python values or containers of these.

        Raises:
            ValueError: if ``name`` and an earlier stage's differ only in punctuation.
        """
        path = self.path(name)
        if path.exists():
            # Mapped, not read: cached features may be larger than memory.
            stored = load(path, mmap=True)
            if stored["stage"] != name:
                raise ValueError(f"name must be distinct, got {name!r} after {stored['stage']!r}")
            result, seconds = stored["result"], stored["seconds"]
        else:
            started = time.monotonic()
            result = compute()
            seconds = time.monotonic() - started
            save({"stage": name, "result": result, "seconds": seconds}, path)
        self.durations.append({"stage": name, "seconds": seconds})
        return result

    def path(self, name: str) -> Path:
        """Where the result of stage ``name`` lies."""
        return self.folder / "stages" / (re.sub(r"[^\w.+-]+", "_", name) + ".pt")


class _Lock:
    """Keeps other processes out of a folder, as long as an object of this one refers to it."""

    _held: ClassVar[WeakValueDictionary[Path, _Lock]] = WeakValueDictionary()

    @classmethod
    def of(cls, folder: Path) -> _Lock | None:
        """The lock of this process; None in the others of a training that processes share."""
        if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) != "0":
            return None
        path = (folder / "stages" / "lock").resolve()
        if held := cls._held.get(path):
            return held
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = cls(open(path, "a"))
        try:
            # Released by the kernel however the process ends, so that a killed one leaves no lock.
            fcntl.flock(lock.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"output_dir must be free, got {folder}, which another run is writing: "
                "wait for its end or choose another folder"
            ) from None
        cls._held[path] = lock
        return lock

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def __del__(self) -> None:
        self.file.close()
