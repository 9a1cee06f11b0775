"""Folders of images, as torchvision's ImageFolder lays them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastheads.data.files import SPLIT_OF, load_files
from fastheads.data.images import Data
from fastheads.data.split import SPLITS


def load_folder(root: str | Path, **options: Any) -> Data:
    """Reads ``root/label/image`` or ``root/{train,holdout,test}/label/image``.

    Each file below a label's folder, at any depth, is an image of this label. ``val``, ``valid``
    or ``validation`` may stand for ``holdout``.

    Args:
        root: the folder.
        **options: ``size``, ``channels``, ``seed``, ``label_space``, ``cache_dir``, ``progress`` of
            :func:`fastheads.data.files.load_files`.

    Raises:
        ValueError: if the folder or a label's folder is missing or empty, or as ``load_files``.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"path must be a folder of images, got {str(root)!r}")
    top = folders(root)
    if not top:
        raise ValueError(f"path must hold one folder a label, got none in {str(root)!r}")
    names = {folder.name for folder in top}
    divided = "train" in names and names <= set(SPLIT_OF)
    if divided and {SPLIT_OF[name] for name in names} != set(range(len(SPLITS))):
        raise ValueError(
            f"path must hold all of {', '.join(SPLITS)} where it holds one of them, "
            f"got {', '.join(sorted(names))} in {str(root)!r}"
        )
    paths: list[Path] = []
    labels: list[list[str]] = []
    splits: list[str] = []
    for split in top if divided else [root]:
        for folder in folders(split):
            files = files_below(folder)
            if not files:
                raise ValueError(f"label {folder.name!r} must have images, got an empty {folder}")
            paths += files
            labels += [[folder.name]] * len(files)
            splits += [split.name] * len(files)
    return load_files(paths, labels, splits if divided else None, **options)


def folders(folder: Path) -> list[Path]:
    """The folders in ``folder`` that are not hidden, by name."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")


def files_below(folder: Path) -> list[Path]:
    """The files below ``folder``, at any depth, that are not hidden, by path."""
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name[0] != "."]
