from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastheads.report.rows import CONCENTRATE
from fastheads.report.run import read_run

from . import concentrate_run
from .conftest import save_run


def test_reads_everything(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert run.metrics == json.loads((run_folder / "metrics.json").read_text())
    assert run.analysis == json.loads((run_folder / "analysis.json").read_text())
    pictures = run.pictures("sheet_0")
    assert pictures is not None and pictures.shape == (18, 32, 32)
    assert run.pictures(None) is None


@pytest.mark.parametrize("name", ["metrics.json", "analysis.json", "analysis.npz"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "noise"])
def test_names_the_file_that_is_missing_or_broken(run_folder: Path, name: str, damage: str) -> None:
    path = run_folder / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        content = {"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"\xff\x00\xfe" * 9}
        path.write_bytes(content[damage])
    with pytest.raises(ValueError, match=name) as caught:
        read_run(run_folder)
    assert "\n" not in str(caught.value)


def test_rejects_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder must be the folder of a finished run"):
        read_run(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop("base"), "row 'base'"),
        (lambda rows: rows["confusions"].pop("top1"), "'top1' with its 'mean' in the row 'conf"),
        (lambda rows: rows["base"]["top5"].update(mean=float("nan")), "'top5' with its 'mean'"),
        (lambda rows: rows["base"].update(macs="many"), "number 'macs' in the row 'base'"),
        (lambda rows: rows.update(retrained=3), "in the row 'retrained'"),
    ],
)
def test_rejects_incomplete_rows(run_folder: Path, change, message: str) -> None:
    rows = json.loads((run_folder / "metrics.json").read_text())
    change(rows)
    (run_folder / "metrics.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message):
        read_run(run_folder)


def test_rejects_objects_and_pictures_of_other_shapes(run_folder: Path) -> None:
    np.savez(run_folder / "analysis.npz", sheet_0=np.zeros((2, 4, 4)))
    run = read_run(run_folder)
    with pytest.raises(ValueError, match=r"'sheet_0' in analysis.npz must be uint8 \[n, H, W\]"):
        run.pictures("sheet_0")
    with pytest.raises(ValueError, match="must hold the pictures 'sheet_1'"):
        run.pictures("sheet_1")
    np.savez(run_folder / "analysis.npz", sheet_0=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"analysis.npz must be a readable .npz"):
        read_run(run_folder)


def test_rows_of_knowledge_concentration_need_mpvap_alone(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "run", concentrate_run.make_rows(), {"system": "concentrate"}, {})
    assert read_run(folder).system is CONCENTRATE
    rows = json.loads((folder / "metrics.json").read_text())
    for name in ("mpvap_per_label", "top1", "top5"):
        del rows["specialists"][name]
    (folder / "metrics.json").write_text(json.dumps({"specialists": rows["specialists"]}))
    assert list(read_run(folder).metrics) == ["specialists"]
    del rows["specialists"]["mpvap"]
    (folder / "metrics.json").write_text(json.dumps({"specialists": rows["specialists"]}))
    with pytest.raises(ValueError, match="must hold 'mpvap' with its 'mean' in the row 'special"):
        read_run(folder)
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"metrics.json must hold rows"):
        read_run(folder)


def test_rejects_an_unknown_system(run_folder: Path) -> None:
    (run_folder / "analysis.json").write_text('{"system": "other"}')
    with pytest.raises(ValueError, match="or 'lesion' or 'stream', got 'other'"):
        read_run(run_folder)
