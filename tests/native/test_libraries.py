"""The built libraries: stable ABI alone, no Python, code for both GPU generations, no spills."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import fastheads
from fastheads import _C

SOURCE = Path(__file__).parents[2]
PACKAGE = Path(fastheads.__file__).parent
LIBRARIES = ["libfastheads.so"] + ["libfastheads_cuda.so"] * _C.with_cuda
CMAKE = (SOURCE / "CMakeLists.txt").read_text()
ISA_SOURCES = sorted((SOURCE / "csrc" / "cpu").glob("*_avx*.cpp"))
# Kernels that promise to keep everything in registers: all of them.
CUDA_SOURCES = sorted((SOURCE / "csrc" / "cuda").glob("*.cu"))


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def tool(name: str) -> str:
    beside_triton = None
    try:
        import triton

        beside_triton = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    except ImportError:
        pass
    found = shutil.which(name)
    if found is None and beside_triton is not None and beside_triton.exists():
        found = str(beside_triton)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


@pytest.mark.parametrize("library", LIBRARIES)
def test_only_the_stable_abi_is_undefined(library):
    symbols = run(tool("nm"), "-D", "--undefined-only", "--demangle", PACKAGE / library)
    assert "torch_call_dispatcher" in symbols or "aoti_torch" in symbols
    unstable = [line for line in symbols.splitlines() if re.search(r"\b(at|c10|caffe2)::", line)]
    assert unstable == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_free_of_python(library):
    path = PACKAGE / library
    assert not re.search(r"\bPy[A-Z_]\w+", run(tool("nm"), "-D", "--undefined-only", path))
    assert "libpython" not in run(tool("readelf"), "-d", path)
    assert "libtorch_python" not in run(tool("readelf"), "-d", path)


def isa_flags(isa: str) -> str:
    """What the build compiles the files of an instruction set with."""
    found = re.search(rf'_{isa}\\\\.cpp\$.*?COMPILE_OPTIONS "(.*?)"', CMAKE, re.DOTALL)
    assert found, isa
    return found[1].replace(";", " ")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86-64")
@pytest.mark.parametrize("source", ISA_SOURCES, ids=lambda path: path.stem)
def test_no_function_compiled_for_avx_is_shared(source, tmp_path):
    """Weak symbols of an AVX file could replace those that must run on every processor."""
    isa = source.stem.rpartition("_")[2]
    flags = isa_flags(isa).split()
    run(tool("c++"), "-std=c++20", "-O3", *flags, "-c", source, "-o", tmp_path / "o")
    symbols = run(tool("nm"), "--demangle", "--defined-only", tmp_path / "o")
    assert re.search(rf"^\w+ [TRD] .*_{isa}\b", symbols, re.MULTILINE), symbols
    assert not re.search(r"^\w+ [WVu] (?!DW\.ref)", symbols, re.MULTILINE), symbols


def test_both_gpu_generations_are_there():
    if not _C.with_cuda:
        pytest.skip("built without CUDA")
    listing = run(tool("cuobjdump"), "--list-elf", PACKAGE / "libfastheads_cuda.so")
    for arch in ("sm_80", "sm_90a"):
        assert listing.count(f".{arch}.cubin") >= len(CUDA_SOURCES), listing


@pytest.mark.parametrize("source", CUDA_SOURCES, ids=lambda path: path.stem)
@pytest.mark.parametrize("arch", ["80", "90a"])
def test_no_kernel_spills(source, arch, tmp_path):
    nvcc, torch_path = tool("nvcc"), Path(torch.__file__).parent
    log = run(
        *(nvcc, "-std=c++20", "-O3", "-Xptxas=-v", "-DUSE_CUDA", f"-arch=sm_{arch}", "-cubin"),
        *("-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{torch_path}/include"),
        *(f"-I{torch_path}/include/torch/csrc/api/include", source),
        *("-o", tmp_path / "kernels.cubin"),
    )
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert spills and set(spills) == {("0", "0")}, log


def test_c_knows_what_was_built():
    assert _C.with_cuda == (PACKAGE / "libfastheads_cuda.so").exists()
