"""`fastheads bench`: operators, systems and whole networks against their peers."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import importlib.util
import io
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import torch

from . import bench_ceilings, bench_model
from .allocator import keep_freed_memory
from .harness import SETTINGS, Settings, read
from .table import print_table

DESCRIPTION = """\
Measures operators, systems and whole networks against the best peers, in one process and in
turns, from cold caches; every result is checked before it is timed."""
EXAMPLES = """\
examples:
  fastheads bench --list
  fastheads bench all --quick --out results.csv
  fastheads bench squeeze_excite gate --device cuda --out results.csv --figure roofline.png
  fastheads bench --model timm:seresnet50 --batch 8 --size 224
  fastheads bench --model mypackage.networks:build --train --device cuda --dtype bfloat16
  fastheads bench topk_confusion --quick --budget 30 --threads 1
  fastheads bench sc_sigmoid_loss --keep_memory  # as a training that keeps what it frees
  fastheads bench clustering --help     # the options of one benchmark alone

NAME: """
DTYPES = (*bench_model.DTYPES, "int32", "int64")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # without the usage, which is a page
        raise argparse.ArgumentError(None, message)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmarks named in ``argv``; returns the exit status.

    Raises:
        ValueError: if something cannot be measured here.
        argparse.ArgumentError: if ``argv`` is not understood.
    """
    parser = _parser()
    options, others = parser.parse_known_args(argv)
    names = _names(options)
    if "model" in names:
        parser = _parser(networks=True)
        options, others = parser.parse_known_args(argv)
        names = _names(options)
    for name in names:
        _check_name(name)
    if options.help and len(names) == 1:
        _module(names[0]).main(["--help"])
    if options.list:
        for name in benchmarks():
            print(f"{name:16} {'/'.join(devices_of(name)):9} {_summary(_module(name))}")
    elif options.help or not (names or argv):
        _parser(networks=True).print_help()
    else:
        _check(parser, options, others, names)
        return _measure(options, others, names)
    return 0


def _names(options: argparse.Namespace) -> list[str]:
    """What is to be measured, each once: ``all`` is everything but networks."""
    every = [name for name in benchmarks() if name != "model"]
    asked = [part for name in options.names for part in (every if name == "all" else [name])]
    return list(dict.fromkeys([*asked, *(["model"] if options.model else [])]))


def benchmarks() -> list[str]:
    """The names of all benchmarks."""
    files = Path(__file__).parent.glob("bench_*.py")
    return sorted(path.stem.removeprefix("bench_") for path in files)


def devices_of(name: str) -> list[str]:
    """Where a benchmark runs, as its own help says."""
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        _module(name).main(["--help"])
    return ["cpu", "cuda"] if "cuda" in text.getvalue() else ["cpu"]


def _parser(*, networks: bool = False) -> _Parser:
    """With the options of ``networks``, whose names other benchmarks may have too, or without."""
    parser = _Parser(
        prog="fastheads bench",
        usage="fastheads bench NAME... [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES + ", ".join(benchmarks()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="what to measure: see below, or all")
    add("-h", "--help", action="store_true", help="this page, or that of one NAME")
    add("--list", action="store_true", help="say what each NAME measures, and where it runs")
    add("--device", default="cpu", choices=["cpu", "cuda"], help="default: %(default)s")
    threads = torch.get_num_threads()
    add("--threads", type=int, default=threads, help="of the CPU (default: %(default)s)")
    add("--dtype", choices=DTYPES, help="only this one (networks: float32)")
    add("--quick", action="store_true", help="fewer shapes and repetitions")
    add("--warm", action="store_true", help="caches as the call before has left them")
    add("--keep_memory", action="store_true", help="freed memory is used again, by peers as well")
    add("--budget", type=float, metavar="SECONDS", help="for each NAME, after which no case begins")
    add("--out", type=Path, metavar="CSV", help="append the results to it")
    add("--figure", type=Path, metavar="PNG", help="draw them under this machine's ceilings")
    group = parser.add_argument_group("whole networks")
    group.add_argument("--model", metavar="SPEC", help=bench_model.SPEC)
    if networks:
        bench_model.add_options(group)
    return parser


def _check_name(name: str) -> None:
    known = benchmarks()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"bench must be one of {', '.join(known)}, got {name!r}{hint}")


def _check(
    parser: _Parser, options: argparse.Namespace, others: list[str], names: list[str]
) -> None:
    """Refuses before anything is measured what could not be finished."""
    if not names:
        parser.error("bench must be given a NAME or a --model; see fastheads bench --list")
    if others and len(names) > 1:
        parser.error(f"unrecognized arguments beside several names: {' '.join(others)}")
    if "model" in names and not options.model:
        parser.error("bench model must be given a --model, such as timm:seresnet50")
    if "model" in names and options.dtype not in (None, *bench_model.DTYPES):
        raise ValueError(f"dtype of a network must be floating, got {options.dtype}")
    if options.threads < 1:
        raise ValueError(f"threads must be at least 1, got {options.threads}")
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device must be cpu where PyTorch finds no CUDA GPU, got cuda")
        for name in names:
            if "cuda" not in devices_of(name):
                raise ValueError(f"device must be cpu for {name}, got cuda")
    if options.keep_memory and not keep_freed_memory():
        raise ValueError("keep_memory needs glibc, whose allocator keeps memory when it is asked")
    if options.figure and not importlib.util.find_spec("matplotlib"):
        raise ValueError("figure needs the package matplotlib: pip install 'fastheads[bench]'")


def _measure(options: argparse.Namespace, others: list[str], names: list[str]) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        out, stopped = options.out or Path(scratch, "results.csv"), False
        before = len(read(out))
        shared = ["--threads", str(options.threads), *(["--quick"] if options.quick else [])]
        if options.device != "cpu":
            shared += ["--device", options.device]
        try:
            if options.figure:  # whole, whatever the budget and the dtype
                bench_ceilings.main([*shared, "--out", str(out)])
            for name in names:
                if name == "ceilings" and options.figure:
                    continue
                seconds = math.inf if options.budget is None else options.budget
                deadline = time.monotonic() + seconds
                asked = Settings(options.warm, deadline, options.dtype, options.keep_memory)
                token = SETTINGS.set(asked)
                try:
                    if name == "model":
                        bench_model.bench(options, out)
                    else:
                        _module(name).main([*shared, "--out", str(out), *others])
                finally:
                    SETTINGS.reset(token)
        except KeyboardInterrupt:
            stopped = True
        rows = read(out)[before:]
    print_table(rows)
    if options.out:
        print(f"{len(rows)} rows in {options.out}")
    if options.figure and rows:
        from .figure import draw

        draw(rows, options.figure)
        print(f"figure: {options.figure}")
    if stopped:
        print("fastheads: stopped; what is above was measured", file=sys.stderr)
        return 130
    if not rows:
        raise ValueError(f"dtype must be one that {', '.join(names)} measures, got {options.dtype}")
    return 0


def _module(name: str) -> ModuleType:
    return importlib.import_module(f".bench_{name}", __package__)


def _summary(module: ModuleType) -> str:
    return (module.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
