"""Tables of images: CSV, JSON lines or Parquet, with one or many labels a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, json, parquet

from fastheads.data.files import load_files
from fastheads.data.images import Data
from fastheads.labels import join_names


def load_table(
    path: str | Path,
    path_column: str = "path",
    label_column: str = "labels",
    split_column: str | None = None,
    separator: str | None = None,
    **options: Any,
) -> Data:
    """Reads images that a table lists.

    Args:
        path: a ``.csv``, ``.jsonl`` or ``.parquet`` file.
        path_column: image files; relative ones are relative to the table's folder.
        label_column: names of labels: text, or a list of text (JSON lines, Parquet).
        split_column: ``train``, ``holdout`` (or ``val``) or ``test``; ``None``: split by seed.
        separator: what stands between labels in a text; ``None``: the whole text is one label.
        **options: ``size``, ``channels``, ``seed``, ``label_space``, ``cache_dir``, ``progress`` of
            :func:`fastheads.data.files.load_files`.

    Raises:
        ValueError: if the table or a column is missing or empty, a row has no label, or as
            ``load_files``.
    """
    files, labels, splits = read_rows(path, path_column, label_column, separator, split_column)
    return load_files(files, labels, splits, **options)


def read_rows(
    path: str | Path,
    path_column: str,
    label_column: str,
    separator: str | None,
    other_column: str | None,
) -> tuple[list[Path], list[list[str]], list[str] | None]:
    """Image file, labels and, where ``other_column`` is named, its text, of each row of a table."""
    path = Path(path).expanduser()
    columns = [path_column, label_column] + ([other_column] if other_column else [])
    table = _read(path, columns)
    if lacking := [name for name in columns if name not in table.column_names]:
        raise ValueError(
            f"column {lacking[0]!r} must be in {path.name}, "
            f"which has {join_names(table.column_names, limit=20)}"
        )
    if twice := [name for name in columns if table.column_names.count(name) > 1]:
        raise ValueError(
            f"column {twice[0]!r} must be in {path.name} once, "
            f"which has {join_names(table.column_names, limit=20)}"
        )
    if not table.num_rows:
        raise ValueError(f"path must be a table with rows, got an empty {path.name}")
    labels = []
    for number, cell in enumerate(table[label_column].to_pylist(), start=1):
        row = _labels(cell, separator)
        if not row:
            raise ValueError(f"row {number} of {path.name} must have a label, got {cell!r}")
        labels.append(row)
    files = []
    for number, cell in enumerate(table[path_column].to_pylist(), start=1):
        if not cell:
            raise ValueError(f"row {number} of {path.name} must name an image, got {cell!r}")
        files.append(path.parent / str(cell))
    other = [str(cell) for cell in table[other_column].to_pylist()] if other_column else None
    return files, labels, other


def _read(path: Path, columns: list[str]) -> pa.Table:
    if not path.is_file():
        raise ValueError(f"path must be a table of images, got no file {str(path)!r}")
    try:
        if path.suffix == ".csv":
            # As text: a label such as 007 is no number.
            as_text = csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
            return csv.read_csv(path, convert_options=as_text)
        if path.suffix in {".jsonl", ".ndjson"}:
            return json.read_json(path)
        if path.suffix == ".parquet":
            return parquet.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(f"path must be a readable table, got {path.name}: {error}") from error
    raise ValueError(f"path must end in .csv, .jsonl or .parquet, got {path.name!r}")


def _labels(cell: Any, separator: str | None) -> list[str]:
    if cell is None:
        return []
    if isinstance(cell, str):
        cell = cell.split(separator) if separator else [cell]
    elif not isinstance(cell, list):
        cell = [cell]
    if any(isinstance(each, dict | list) for each in cell):
        return []  # no names
    return [name for name in (str(each).strip() for each in cell if each is not None) if name]
