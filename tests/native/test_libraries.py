"""The built libraries: stable ABI alone, no Python, code for both GPU generations, no spills."""

import importlib.util
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import fastheads
from fastheads import _C

SOURCE = Path(__file__).parents[2]
PACKAGE = Path(fastheads.__file__).parent
LIBRARIES = ["libfastheads.so"] + ["libfastheads_cuda.so"] * _C.with_cuda
BUILD = SOURCE / "build" / "native"  # of an editable install
CMAKE = (SOURCE / "CMakeLists.txt").read_text()
ISA_SOURCES = sorted((SOURCE / "csrc" / "cpu").glob("*_avx*.cpp"))
CUDA_LIBRARY = PACKAGE / "libfastheads_cuda.so"
CUDA_SOURCES = sorted((SOURCE / "csrc" / "cuda").glob("*.cu"))
# For Hopper alone, where the build found the wheel nvidia-cutlass.
HOPPER_SOURCES = [path for path in CUDA_SOURCES if re.search("_grouped|_cutlass_", path.stem)]
WITH_CUTLASS = importlib.util.find_spec("cutlass_library") is not None
needs_cuda = pytest.mark.skipif(not _C.with_cuda, reason="built without CUDA")


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
    built = BUILD / "CMakeFiles/fastheads.dir/csrc/cpu" / f"{source.name}.o"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        built = tmp_path / "o"
        flags = isa_flags(isa).split()
        run(tool("c++"), "-std=c++20", "-O3", *flags, "-c", source, "-o", built)
    symbols = run(tool("nm"), "--demangle", "--defined-only", built)
    assert re.search(rf"^\w+ [TRD] .*_{isa}\b", symbols, re.MULTILINE), symbols
    assert not re.search(r"^\w+ [WVu] (?!DW\.ref)", symbols, re.MULTILINE), symbols


@needs_cuda
def test_both_gpu_generations_are_there():
    listing = run(tool("cuobjdump"), "--list-elf", CUDA_LIBRARY)
    hopper = len(HOPPER_SOURCES)
    assert listing.count(".sm_80.cubin") >= len(CUDA_SOURCES) - hopper, listing
    assert listing.count(".sm_90a.cubin") >= len(CUDA_SOURCES) - hopper * (not WITH_CUTLASS), (
        listing
    )


def kernels() -> list[tuple[str, str, str]]:
    """Name, bytes of stack and of other local memory of every kernel of every architecture."""
    listing = run(tool("cuobjdump"), "--dump-resource-usage", CUDA_LIBRARY)
    found = re.findall(r"Function (\S+):\s+REG:\d+ STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", listing)
    assert len(found) == listing.count("Function ")
    return found


@needs_cuda
def test_no_kernel_spills():
    """All promise to keep everything in registers."""
    assert len(kernels()) > 100
    assert [kernel for kernel in kernels() if kernel[1:] != ("0", "0")] == []


def instructions(pattern: str) -> list[tuple[str, str]]:
    """Names and machine code of the kernels whose names have a pattern."""
    names = {name for name, *_ in kernels() if re.search(pattern, name)}
    command = (tool("cuobjdump"), "--dump-sass", "--function", ",".join(names), CUDA_LIBRARY)
    return re.findall(r"Function : (\S+)(.*?)(?=Function : |\Z)", run(*command), re.DOTALL)


@needs_cuda
@pytest.mark.skipif(not WITH_CUTLASS, reason="needs the wheel nvidia-cutlass")
def test_grouped_kernels_use_warpgroup_products():
    found = instructions("GemmUniversal")
    files = [path for path in HOPPER_SOURCES if "_cutlass_" in path.stem]
    assert len(found) == 2 * len(files)  # one a dtype
    for _, code in found:
        assert "HGMMA" in code and "UTMALDG" in code and "HMMA." not in code


@needs_cuda
def test_streaming_kernel_uses_tensor_cores_and_asynchronous_copies():
    found = instructions("sc_linear_rows.*rows_kernel")
    assert len(found) == 8  # dtypes x architectures
    for name, code in found:
        assert "LDGSTS.E.BYPASS.128" in code
        assert ("HMMA.16816.F32" in code) == ("Half" in name or "BFloat16" in name), name


@needs_cuda
def test_co_detection_multiplies_bits_in_tensor_cores():
    found = instructions("bit_product_kernel")
    assert len(found) == 4  # count types x architectures
    for _, code in found:
        assert "BMMA.168256.AND.POPC" in code


def test_c_knows_what_was_built():
    assert _C.with_cuda == (PACKAGE / "libfastheads_cuda.so").exists()
