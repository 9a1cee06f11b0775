"""What a training run shows and writes while it runs: a bar or lines, CSV and TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Without a terminal, a line an epoch of a short run would bury the rest of the output.
SECONDS_BETWEEN_LINES = 10.0


class TrainingLog:
    """Shows progress and writes ``folder/log``.

    The files are written anew from the stored history when a run is continued, so that they hold
    every point once, whenever the run was killed.
    """

    def __init__(self, folder: Path, name: str, steps: int, *, writes: bool, quiet: bool):
        self.name, self.steps = name, steps
        self.last_line = self.last_move = 0.0
        self.loggers: list[Any] = []
        if writes:
            (folder / "log").mkdir(parents=True, exist_ok=True)
            for old in [folder / "log" / "metrics.csv", *(folder / "log").glob("events.out.*")]:
                old.unlink(missing_ok=True)
            # CSV first: it warns of a folder that is not empty.
            self.loggers = [
                CSVLogger(folder, "log", "", flush_logs_every_n_steps=1 << 62),
                TensorBoardLogger(folder, "log", ""),
            ]
        self.console = Console(quiet=quiet or not writes)
        self.bar: Progress | None = None
        if self.console.is_terminal and not self.console.quiet:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
                console=self.console,
                refresh_per_second=4,
            )
            self.task = self.bar.add_task(name, total=steps, values="")

    def __enter__(self) -> TrainingLog:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()
        for logger in self.loggers:
            logger.finalize("failed" if error[0] else "success")
        if self.bar is not None:
            self.bar.stop()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point of the curves."""
        for logger in self.loggers:
            logger.log_metrics(dict(values), step)

    def replay(self, curve: Sequence[dict[str, Any]], history: Sequence[dict[str, Any]]) -> None:
        """Writes the points of a run that is continued."""
        for row in [*curve, *history]:
            self.write(row["step"], {k: v for k, v in row.items() if k != "step"})
        self.flush()

    def advance(self, step: int) -> None:
        """Moves the bar now and then; cheap enough for every step."""
        if self.bar is not None and time.monotonic() - self.last_move > 0.25:
            self.last_move = time.monotonic()
            self.bar.update(self.task, completed=step)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Moves the bar, or prints a line if the last one is some time ago or this is the end."""
        text = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
        if self.bar is not None:
            self.bar.update(self.task, completed=step, values=text)
        elif step == self.steps or time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.console.print(f"{self.name}  {step}/{self.steps}  {text}", highlight=False)

    def flush(self) -> None:
        for logger in self.loggers:
            logger.save()
