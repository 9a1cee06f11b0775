"""What `import fastheads` needs, and what it says when the native half is missing."""

import shutil
import subprocess
import sys
from pathlib import Path

import fastheads

PACKAGE = Path(fastheads.__file__).parent


def python(code: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(cwd)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_needs_torch_and_numpy_alone():
    code = (
        "import fastheads\n"
        "extra = {'scipy', 'sklearn', 'torchvision', 'lightning_fabric', 'torchmetrics', 'PIL',"
        " 'matplotlib', 'rich', 'jsonargparse', 'pandas', 'pyarrow'}\n"
        "print(sorted(extra & set(sys.modules)))"
    )
    done = python(code, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_names_the_build_when_libraries_are_missing(tmp_path):
    without = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "fastheads", ignore=without)
    done = python("import fastheads", cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0 and last.startswith("ImportError: fastheads: the native libraries")
    assert str(tmp_path) in last and "pip install -e . --no-build-isolation" in last


def test_version():
    assert fastheads.__version__.count(".") >= 1
