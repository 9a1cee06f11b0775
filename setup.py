"""Builds the native half with CMake and Ninja; all metadata is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class CMakeBuild(build_ext):
    """One CMake build puts `_C` and the two operator libraries beside each other."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        # Kept for an editable install, whose next build compiles what has changed alone.
        build = Path("build/native" if self.editable_mode else self.build_temp).resolve()
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": _pybind11_dir(),
            "FASTHEADS_CUDA": os.environ.get("FASTHEADS_CUDA", "ON"),
        }
        flags = [f"-D{name}={value}" for name, value in settings.items()]
        # The cmake and ninja of this environment come before the system's, which may be too old.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        environment = {**os.environ, "PATH": path}
        cmake = shutil.which("cmake", path=path) or "cmake"
        # Objects stay, paths are found anew: an isolated build has some of its own.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        configure = [cmake, "-S", ".", "-B", str(build), "-G", "Ninja", *flags]
        subprocess.run(configure, check=True, env=environment)
        # Two jobs: a CUDA file takes gigabytes to compile.
        command = [cmake, "--build", str(build), "--parallel", "2"]
        subprocess.run(command, check=True, env=environment)
        # An editable install copies `_C` alone beside the sources, so the libraries go there too.
        prefixes = {target, Path("fastheads").resolve()} if self.editable_mode else {target}
        for prefix in prefixes:
            subprocess.run([cmake, "--install", str(build), "--prefix", str(prefix)], check=True)


def _pybind11_dir() -> str:
    import pybind11

    return pybind11.get_cmake_dir()


setup(ext_modules=[Extension("fastheads._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
