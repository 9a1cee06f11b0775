"""One stem everywhere: whoever knows an operator's name knows the paths of all its parts."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import flop_registry

import fastheads.ops

ROOT = Path(__file__).parents[2]
LIBRARY = (ROOT / "csrc" / "library.cpp").read_text()


def operators() -> dict[str, list[str]]:
    """Stem, named in a comment above its schemas, to operator names."""
    stems: dict[str, list[str]] = {}
    for comment, name in re.findall(r'^ +// (\w+)$|m\.def\(\s*"(\w+)\(', LIBRARY, re.MULTILINE):
        if comment:
            stems[comment] = []
        else:
            stems[list(stems)[-1]].append(name)
    return stems


def test_every_schema_is_under_a_stem():
    names = [name for stem in operators().values() for name in stem]
    assert len(names) == LIBRARY.count("m.def(") and names
    for name in names:
        assert hasattr(torch.ops.fastheads, name)


@pytest.mark.parametrize("stem", operators())
def test_every_part_of_an_operator_is_there(stem):
    parts = {
        f"csrc/{stem}.h": "check_{}",
        f"fastheads/ops/{stem}.py": "def {}(",
        f"tests/ops/test_{stem}*.py": "{}(",
        f"bench/bench_{stem}.py": "{}",
    }
    for path, mention in parts.items():
        text = "".join(part.read_text() for part in ROOT.glob(path))
        for name in operators()[stem]:
            if not name.endswith("_backward"):
                assert mention.format(name.rstrip("_")) in text or mention.format(name) in text
    for device, suffix in (("cpu", "cpp"), ("cuda", "cu")):
        main = ROOT / "csrc" / device / f"{stem}.{suffix}"
        assert main.exists()
        text = "".join(path.read_text() for path in main.parent.glob(f"{stem}*.{suffix}"))
        for name in operators()[stem]:
            assert f'm.impl("{name}"' in text


@pytest.mark.parametrize("stem", operators())
def test_every_operator_has_a_formula_of_its_work(stem):
    for name in operators()[stem]:
        assert getattr(torch.ops.fastheads, name) in flop_registry, name


@pytest.mark.parametrize("stem", operators())
def test_every_operator_is_public_with_reference_fake_and_docs(stem):
    source = (ROOT / "fastheads" / "ops" / f"{stem}.py").read_text()
    for name in operators()[stem]:
        assert f'register_fake("fastheads::{name}")' in source
        if name.endswith("_backward"):
            continue
        function = getattr(fastheads.ops, name)
        assert name in fastheads.ops.__all__ and "Args:" in function.__doc__
        assert f"{name.rstrip('_')}_reference" in fastheads.ops.__all__
