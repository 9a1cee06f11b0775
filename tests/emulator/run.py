"""Runs the tests of the CUDA operators without a GPU: python tests/emulator/run.py [pytest's ...].

The kernels are translated to C++ and run by an emulator on the CPU, which also fails where a GPU
would: at addresses that are not aligned or beyond a tensor, at warps and blocks that wait for one
another in vain, at launches beyond a GPU's bounds. What it cannot show: speed, the order of memory
between blocks, streams and graphs, and what CUTLASS does, whose place plain loops take.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1]
BUILD = SOURCE / "build" / "emulated"
LIBRARY = BUILD / "libfastheads.so"
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def build() -> None:
    configure = ["cmake", "-G", "Ninja", "-S", HERE, "-B", BUILD]
    environment = {**os.environ, "PATH": TOOLS}
    for command in (
        [*configure, f"-DPython_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", BUILD],
    ):
        subprocess.run(command, check=True, env=environment)


def link(target: Path, place: Path) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def package() -> Path:
    """A folder whose fastheads is that of the source with the emulated library."""
    folder = BUILD / "package"
    (folder / "fastheads").mkdir(parents=True, exist_ok=True)
    for entry in (SOURCE / "fastheads").iterdir():
        link(LIBRARY if entry.name.startswith("lib") else entry, folder / "fastheads" / entry.name)
    return folder


def main() -> int:
    build()
    environment = {
        **os.environ,
        "FASTHEADS_EMULATED": "1",
        "LD_PRELOAD": str(BUILD / "libguard.so"),
        "PYTHONPATH": str(package()),
    }
    # Not from the root of the source, whose own package would come first.
    command = [sys.executable, "-m", "pytest", "-c", SOURCE / "pyproject.toml", "-m", "cuda"]
    options = sys.argv[1:] or ["-q"]
    tests = [SOURCE / "tests" / "ops"]
    return subprocess.run([*command, *options, *tests], cwd=BUILD, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
