"""Finished stages of a pipeline in its run folder, so that a killed run continues where it was."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fastheads.training.checkpoint import check_same, load, save, write_whole

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
            ValueError: if the folder holds results of another fingerprint.
        """
        self.folder = Path(folder)
        self.durations: list[dict[str, Any]] = []
        path = self.folder / "stages" / "fingerprint.json"
        wanted = json.loads(json.dumps(dict(fingerprint), default=str))
        if path.exists():
            check_same(self.folder, json.loads(path.read_text()), wanted)
        write_whole(path, lambda partial: partial.write_text(json.dumps(wanted, indent=1)))

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
