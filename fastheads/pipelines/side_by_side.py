"""Runs trainings side by side, each in a process of one thread or one GPU.

Small networks gain little from a second thread: two trainings of one thread each are faster.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import fastheads

ERRORS = {kind.__name__: kind for kind in (ValueError, FloatingPointError, OSError)}


class Task(Protocol):
    """A training that another process can run: it is pickled, and leaves its result in files."""

    @property
    def name(self) -> str:
        """Told apart by, among the tasks."""
        ...

    @property
    def steps(self) -> int:
        """How long it takes."""
        ...

    def run(self, watch: Callable[[int, float], None]) -> object:
        """Trains, or goes on where it was stopped; ``watch(step, loss)`` now and then."""
        ...


def run_all(
    tasks: Sequence[Task],
    processes: int | None,
    accelerator: str,
    quiet: bool = False,
    kind: str = "task",
) -> None:
    """Runs all tasks, those with most steps first.

    With one process at a time they run in this one. Else every process is started anew, because
    neither threads nor CUDA survive a fork, and as a module of its own, so that the caller's
    script is not run once more. A process ends with this one, however that ends.

    Args:
        tasks: with distinct names.
        processes: how many; by default one for each GPU, or else for each thread of PyTorch.
        accelerator: ``cpu`` or ``auto``.
        quiet: shows nothing.
        kind: what a task is called.
    """
    environments = _environments(processes, accelerator)[: len(tasks)]
    waiting = deque(sorted(tasks, key=lambda task: -task.steps))
    with _Shown(tasks, quiet, kind) as shown:
        if len(environments) > 1:
            _in_processes(waiting, environments, shown)
            return
        while waiting:
            task = waiting.popleft()
            task.run(partial(shown.step, task.name))
            shown.finish(task.name)


def _environments(processes: int | None, accelerator: str) -> list[dict[str, str]]:
    """The environment variables of each process."""
    if accelerator != "cpu" and torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices = visible.split(",") if visible else [*map(str, range(torch.cuda.device_count()))]
        count = processes or len(devices)
        return [{"CUDA_VISIBLE_DEVICES": devices[n % len(devices)]} for n in range(count)]
    return [{"OMP_NUM_THREADS": "1"}] * (processes or torch.get_num_threads())


def _in_processes(waiting: deque[Task], environments: list[dict[str, str]], shown: _Shown) -> None:
    started: list[subprocess.Popen[bytes]] = []
    lock = threading.Lock()
    root = str(Path(fastheads.__file__).parent.parent)

    def serve(environment: dict[str, str]) -> None:
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        )
        started.append(process)
        with process:
            while True:
                with lock:
                    if not waiting:
                        break
                    task = waiting.popleft()
                _run_in(process, task, shown)

    with ThreadPoolExecutor(len(environments)) as pool:
        try:
            for done in as_completed([pool.submit(serve, each) for each in environments]):
                done.result()
        finally:  # after an error, or when the user stops the run
            waiting.clear()
            for process in started:
                process.kill()


def _run_in(process: subprocess.Popen[bytes], task: Task, shown: _Shown) -> None:
    """Sends one task, and follows it to its end."""
    assert process.stdin is not None and process.stdout is not None
    try:
        pickle.dump(task, process.stdin)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # its last words follow
    for line in process.stdout:
        said = json.loads(line)
        if "step" in said:
            shown.step(task.name, said["step"])
        elif "error" in said:
            raise ERRORS[said["kind"]](said["error"])
        else:
            shown.finish(task.name)
            return
    raise ChildProcessError(
        f"{shown.kind} {task.name!r} could not be trained: its process ended with status "
        f"{process.wait()}; the same run goes on from its last checkpoint"
    )


class _Shown:
    """One bar over the steps of all tasks; without a terminal a line for each of them."""

    def __init__(self, tasks: Sequence[Task], quiet: bool, kind: str) -> None:
        self.kind = kind
        self.steps = {task.name: task.steps for task in tasks}
        self.done = dict.fromkeys(self.steps, 0)
        self.finished = 0
        self.console = Console(quiet=quiet)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task(f"{kind}s", total=sum(self.steps.values()), values="")

    def __enter__(self) -> _Shown:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def step(self, name: str, step: int, _loss: float = 0.0) -> None:
        self.done[name] = step
        values = f"{self.finished} of {len(self.steps)} trained"
        self.bar.update(self.task, completed=sum(self.done.values()), values=values)

    def finish(self, name: str) -> None:
        self.finished += 1
        self.step(name, self.steps[name])
        if not self.console.is_terminal:
            count = f"{self.finished} of {len(self.steps)}"
            text = f"{self.kind} {name}: {self.steps[name]} steps, {count}"
            self.console.print(text, highlight=False)


def main() -> None:
    """Runs the tasks that are pickled into the standard input, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    out, sys.stdout = sys.stdout, sys.stderr

    def say(**words: Any) -> None:
        print(json.dumps(words), file=out, flush=True)

    def read() -> None:
        try:
            while True:
                tasks.put(pickle.load(sys.stdin.buffer))
        except EOFError:
            os._exit(0)  # all is done, or the process that started this one is gone
        except BaseException:  # such as a class that this process cannot import
            traceback.print_exc()
            os._exit(1)

    if os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(1)
    threading.Thread(target=read, daemon=True).start()
    while True:
        task = tasks.get()
        try:
            task.run(lambda step, loss: say(step=step))
        except tuple(ERRORS.values()) as error:
            kind = next(name for name, kind in ERRORS.items() if isinstance(error, kind))
            say(error=str(error), kind=kind)
        else:
            say(done=True)


if __name__ == "__main__":
    main()
