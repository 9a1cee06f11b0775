"""The CPU operators with the instruction sets below the machine's own: some tests of each again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
SOME = {
    "test_csr_matmul.py": "hand or forward or any_shape or out_of_range",
    "test_gate.py": "hand or (_is_as and (shape1 or shape3))",
    "test_gate_norm.py": "hand or (_is_as and (shape1 or shape3))",
    "test_gated_residual.py": (
        "hand or to_the_bit or every_half or (accurate and (shape1 or shape4))"
    ),
    "test_gated_residual_in_place.py": "hand or (same_bits and (shape1 or shape4))",
    "test_gated_residual_scatter.py": "hand or (accurate and (shape1 or shape4))",
    "test_multilabel_margin.py": (
        "hand or large or special or many or (accurate and (shape1 or shape3 or shape4))"
    ),
    "test_sc_linear.py": "hand or ragged-7 or long-7 or large_batch or any_shape or test_in_place",
    "test_sc_sigmoid_loss.py": "hand or every_mode or dtypes or extreme or error_of or tail",
    "test_squeeze_excite.py": "(accurate and (33 or 67)) or every_16 or nan or float32",
    "test_topk_confusion.py": "test_top_equals or huge",
}


def test_no_operator_is_left_out():
    kernels = (FOLDER.parents[1] / "csrc" / "cpu").glob("*_avx2.cpp")
    assert {f"test_{path.stem.removesuffix('_avx2')}.py" for path in kernels} <= set(SOME)


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_with_lesser_instruction_sets(capability):
    chosen = " or ".join(f"({name} and ({some}))" for name, some in SOME.items())
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", chosen]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    run = subprocess.run(
        [*command, *(str(FOLDER / name) for name in SOME)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.findall(r"(test_\w+\.py)::.* PASSED", run.stdout)
    assert set(passed) == set(SOME), set(SOME) - set(passed)
