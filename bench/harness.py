"""Times contestants against each other: same inputs, same process, in turns, checked first."""

from __future__ import annotations

import argparse
import csv
import datetime
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastheads

COLUMNS = (
    "op pass shape dtype device threads provider median_us q25_us q75_us bytes macs max_error "
    "ratio_to_best_peer torch version date"
).split()
OURS = "fastheads"


@dataclass(frozen=True)
class Settings:
    """What one command asks of every benchmark that it runs.

    Attributes:
        warm: caches stay as the call before has left them; by default they are cold and clean.
        deadline: of ``time.monotonic()``; no case begins after it.
        dtype: only cases of it, None for all.
        keep_memory: freed memory is used again, by everybody: ``bench.allocator``.
    """

    warm: bool = False
    deadline: float = math.inf
    dtype: str | None = None
    keep_memory: bool = False


SETTINGS = ContextVar("SETTINGS", default=Settings())  # noqa: B039  frozen


@dataclass(frozen=True)
class Case:
    """One line-up.

    Attributes:
        providers: name to a call that does the whole job; all are peers but ``fastheads`` and
            variants of it, named ``fastheads ...``.
        error: of a provider and its result, the largest difference from the exact answer.
        bytes: the least that must be moved.
        macs: multiply-adds, or increments of an operator that counts.
        tolerance: the largest error that is right; reset: called before each check.
        peer_tolerance: the same of peers, where they round more; by default ``tolerance``.
    """

    op: str
    shape: str
    dtype: str
    device: torch.device
    providers: dict[str, Callable[[], Any]]
    error: Callable[[str, Any], float]
    bytes: int
    macs: int = 0
    tolerance: float = 0.0
    pass_: str = "forward"
    reset: Callable[[], Any] = lambda: None
    peer_tolerance: float | None = None


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--quick", action="store_true", help="fewer shapes and repetitions")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    options.add_argument("--out", type=Path, help="CSV to append to")
    options.epilog = "More options, for all benchmarks: fastheads bench --help"
    return options


def is_ours(provider: str) -> bool:
    return provider.split(" ")[0] == OURS


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", info.read_text() if info.exists() else "")
    return f"cpu: {models[0] if models else platform.machine()}"


def stopwatch(device: torch.device, *, warm: bool = False) -> Callable[[Callable[[], Any]], float]:
    """A function that runs a call and returns its seconds; on CUDA by events.

    Caches are cold unless ``warm``.
    """
    cold = torch.ones(1 if warm else 256 << 20, dtype=torch.uint8, device=device)

    def seconds(call: Callable[[], Any]) -> float:
        if device.type != "cuda":
            cold.max()  # read: nobody pays for writing back what the one before has left
            begin = time.perf_counter()
            call()
            return time.perf_counter() - begin
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cold.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return seconds


@cache
def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read plus written, of a large copy: what memory allows in this run."""
    source, target = (torch.ones(1 << 26, device=device) for _ in range(2))
    seconds = stopwatch(device)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source)) for _ in range(7))


def measure(case: Case, *, budget: float = 4.0, repeats: int = 50) -> list[dict[str, Any]]:
    """Checks, then times every provider in turns; ``budget`` is in seconds for the whole case."""
    warm, keep_memory = SETTINGS.get().warm, SETTINGS.get().keep_memory
    seconds, errors, rounds = stopwatch(case.device, warm=warm), {}, 0.0
    for name, call in case.providers.items():
        case.reset()
        errors[name] = case.error(name, call())
        peer = case.tolerance if case.peer_tolerance is None else case.peer_tolerance
        if not errors[name] <= (case.tolerance if is_ours(name) else peer):
            raise RuntimeError(f"{case.op} {case.shape}: {name} is off by {errors[name]}")
        rounds += seconds(call)
    times: dict[str, list[float]] = {name: [] for name in case.providers}
    for _ in range(int(np.clip(budget / max(rounds, 1e-9), 5, repeats))):
        for name, call in case.providers.items():
            times[name].append(seconds(call) * 1e6)
    quartiles = {name: np.percentile(taken, [25, 50, 75]) for name, taken in times.items()}
    best = min((q[1] for name, q in quartiles.items() if not is_ours(name)), default=math.nan)
    threads, today = torch.get_num_threads(), datetime.date.today().isoformat()
    pass_ = f"{case.pass_}{', warm' * warm}{', memory kept' * keep_memory}"
    first = (case.op, pass_, case.shape, case.dtype, device_name(case.device), threads)
    last, rows = (torch.__version__, fastheads.__version__, today), []
    for name, (q25, median, q75) in quartiles.items():
        taken = (name, round(median, 2), round(q25, 2), round(q75, 2))
        facts = (case.bytes, case.macs, errors[name], round(best / median, 3))
        rows.append(dict(zip(COLUMNS, (*first, *taken, *facts, *last), strict=True)))
    return rows


def run(
    cases: Iterable[Case], out: Path | None, *, device: torch.device, quick: bool
) -> list[dict[str, Any]]:
    """Measures all cases, prints the table as it grows, appends the rows to ``out``."""
    bandwidth = copy_bandwidth(device) / 1e9
    print(f"{device_name(device)}, {torch.get_num_threads()} threads, copy {bandwidth:.1f} GB/s")
    form = "{:22} {:26} {:9} {:24} {:>11} {:>17} {:>7} {:>8} {:>11}"
    print(form.format(*"op shape dtype provider us quartiles GB/s of-copy x-best-peer".split()))
    settings, every = SETTINGS.get(), []
    for case in cases:
        if settings.dtype not in (None, case.dtype):
            continue
        left = max(settings.deadline - time.monotonic(), 0)
        rows = measure(case, budget=min(1.0 if quick else 4.0, left))
        for row in rows:
            rate = case.bytes / row["median_us"] / 1e3
            names = (row[key] for key in ("op", "shape", "dtype", "provider"))
            times = (f"{row['median_us']:.1f}", f"{row['q25_us']:.1f}-{row['q75_us']:.1f}")
            shares = (f"{rate:.2f}", f"{rate / bandwidth:.0%}", f"{row['ratio_to_best_peer']:.2f}")
            print(form.format(*names, *times, *shares), flush=True)
        every += rows
        if out is not None:
            append(out, rows)
        if time.monotonic() > settings.deadline:
            print("the budget is spent; what is left of this benchmark is left out", flush=True)
            break
    return every


Row = Mapping[str, Any]


def line_ups(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows by case: those that were timed against each other."""
    cases: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("op", "pass", "shape", "dtype"))
        cases.setdefault(key, []).append(row)
    return cases


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV, none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(out: Path, rows: list[dict[str, Any]]) -> None:
    """Adds rows to a CSV, which is replaced as a whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    earlier = out.read_text() if out.exists() else ",".join(COLUMNS) + "\n"
    partial = out.with_name(out.name + ".partial")
    with partial.open("w", newline="") as file:
        file.write(earlier)
        csv.DictWriter(file, COLUMNS, lineterminator="\n").writerows(rows)
    os.replace(partial, out)
