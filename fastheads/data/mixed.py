"""Streamed pictures of image files that carry several known labels: mixed breeds, for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastheads.data.files import decode_all
from fastheads.data.folder import files_below, folders
from fastheads.data.images import Data
from fastheads.data.streamed import StreamData, stream_data
from fastheads.data.table import read_rows
from fastheads.labels import LabelSpace


def load_mixed(
    base: Data,
    path: str | Path,
    path_column: str = "path",
    label_column: str = "labels",
    kind_column: str | None = None,
    separator: str = "+",
    least: int = 250,
    seed: int = 0,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> StreamData:
    """Reads pictures that carry labels of ``base``, from a table or a folder.

    Pictures become as large as those of ``base`` by :func:`fastheads.data.fit_size.fit_size`; what
    it refuses and what cannot be read is skipped and named.

    Args:
        base: pictures of one label each; it names the labels that may occur.
        path: a ``.csv``, ``.jsonl`` or ``.parquet`` table, or a folder that holds one folder a
            kind, called by its labels, such as ``pug+beagle``, whose files are its images.
        path_column: image files; relative ones are relative to the table's folder.
        label_column: names of labels: text, or a list of text (JSON lines, Parquet).
        kind_column: what each row's kind is called, such as ``puggle``; ``None``: by its labels.
        separator: what stands between the labels of a text or of a folder's name.
        least: how wide and high a picture must be in pixels.
        seed: of the division into train and test.
        cache_dir: where decoded pictures are kept.
        progress: show a progress bar while decoding.

    Raises:
        ValueError: if a label is unknown, a row has none, two rows of a kind differ in labels, the
            table is missing or not as described, or no kind has enough pictures.
    """
    path = Path(path).expanduser()
    kinds: Sequence[str] | None
    if path.is_dir():
        files, labels, kinds = *_read_folders(path, separator), None
        places = [f"folder {file.relative_to(path).parts[0]!r}" for file in files]
    else:
        files, labels, kinds = read_rows(path, path_column, label_column, separator, kind_column)
        places = [f"row {number} of {path.name}" for number in range(1, len(files) + 1)]
    rows = [_known(row, base.label_space, place) for row, place in zip(labels, places, strict=True)]
    if kinds is None:
        kinds = [separator.join(base.label_space.names[label] for label in row) for row in rows]
    labels_of: dict[str, list[int]] = {}
    for kind, row, place in zip(kinds, rows, places, strict=True):
        if labels_of.setdefault(kind, row) != row:
            raise ValueError(f"{place} must have the labels of the rows before of kind {kind!r}")
    channels, size, _ = base.image_shape
    entry = decode_all(files, size, channels, cache_dir, progress, least)
    if not len(entry.images):
        raise ValueError(
            f"streamed images must be readable, got none that is among {len(files)} files "
            f"({next(iter(entry.meta.values()), 'no file')})"
        )
    names = sorted(labels_of)
    number = {kind: i for i, kind in enumerate(names)}
    return stream_data(
        base,
        entry.images,
        np.arange(len(entry.images)),
        np.array([number[kinds[i]] for i in entry.table[:, 0]]),
        {kind: labels_of[kind] for kind in names},
        seed,
        skipped=entry.meta,
    )


def _read_folders(root: Path, separator: str) -> tuple[list[Path], list[list[str]]]:
    """The files below each folder, and the labels that its name is made of."""
    files: list[Path] = []
    labels: list[list[str]] = []
    if not (top := folders(root)):
        raise ValueError(f"path must hold one folder a kind, got none in {str(root)!r}")
    for folder in top:
        names = [name.strip() for name in folder.name.split(separator) if name.strip()]
        if not names:
            raise ValueError(f"folder {folder.name!r} must be called by its labels, got none")
        own = files_below(folder)
        files += own
        labels += [names] * len(own)
    return files, labels


def _known(names: Sequence[str], label_space: LabelSpace, place: str) -> list[int]:
    """The labels called ``names``, each once, ascending."""
    try:
        return sorted({label_space.index(name) for name in names})
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
