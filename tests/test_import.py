"""What importing the package loads, and which parts may import which."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastheads

PACKAGE = Path(fastheads.__file__).parent
HEAVY = "torchvision scipy sklearn matplotlib PIL lightning_fabric torchmetrics jsonargparse rich".split()  # noqa: E501

# What each part may import, besides itself. Nothing imports what is not listed before it.
LABELS = {"labels", "targets", "hierarchy"}
ALLOWED = {
    "ranges": set(),
    "labels": set(),
    "targets": set(),
    "hierarchy": {"labels", "targets"},
    "memory": set(),
    "ops": {"memory", *LABELS},
    "data": {"ranges", *LABELS},
    "report": LABELS,
    "nn": {"ops", *LABELS},
    "losses": {"ops", *LABELS},
    "metrics": {"ops", *LABELS},
    "models": {"ops", "nn", "losses", "metrics", *LABELS},
    "clustering": {"ops", "nn", "losses", "metrics", *LABELS},
    "training": {"ranges", "ops", "nn", "losses", "metrics", "models", "clustering", *LABELS},
}
ALLOWED["pipelines"] = {*ALLOWED, "__init__"}  # __init__ for the version
ALLOWED["cli"] = {*ALLOWED, "presets", "__init__"}


def imported_parts(path):
    """Parts of the package that a module imports, also within functions."""
    package = ["fastheads", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "fastheads" and parts[1:2] != ["_C"]:  # the native code imports nothing
                inner = parts[1] if len(parts) > 1 else "__init__"
                known = (PACKAGE / inner).is_dir() or (PACKAGE / f"{inner}.py").exists()
                yield inner if known else "__init__"


TOP = [PACKAGE / f"{name}.py" for name in (*sorted(LABELS), "ranges", "memory", "cli")]
MODULES = [*sorted(set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("*.py"))), *TOP]


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES])
def test_imports_point_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert set(imported_parts(path)) - {part} <= ALLOWED[part]


def test_the_imports_are_seen():
    """The test above would pass on anything if the reading of imports found nothing."""
    assert {"data", "nn", "training"} <= set(imported_parts(PACKAGE / "pipelines" / "augment.py"))
    assert {"pipelines", "__init__"} <= set(imported_parts(PACKAGE / "cli.py"))
    assert "__init__" in set(imported_parts(PACKAGE / "pipelines" / "run_folder.py"))
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert parts == set(ALLOWED)


def loaded_after(code):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name.split(".")[0] for name in done.stdout.split()}


def test_package_alone_needs_torch_and_numpy_only():
    loaded = loaded_after(
        "import fastheads, fastheads.nn, fastheads.losses, fastheads.labels, fastheads.hierarchy\n"
        "assert fastheads.__version__ and fastheads.ops.topk_indices"
    )
    assert {"torch", "numpy"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_command_line_starts_light():
    """Nothing heavy before it is known what is to be done."""
    loaded = loaded_after("import fastheads.cli")
    assert loaded.isdisjoint({*HEAVY, "yaml"} - {"jsonargparse", "yaml"})


def test_augment_is_at_the_top():
    from fastheads.pipelines.own_network import augment

    assert fastheads.augment is augment

    from fastheads.pipelines.lesion import lesion

    assert fastheads.lesion is lesion
    with pytest.raises(AttributeError, match="nothing"):
        _ = fastheads.nothing
