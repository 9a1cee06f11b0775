"""Stanford Dogs: 20,580 pictures of 120 breeds, in the layout of its official archives.

http://vision.stanford.edu/aditya86/ImageNetDogs/
Khosla, Jayadevaprakash, Yao and Fei-Fei, Novel dataset for fine-grained image categorization, 2011.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from fastheads.data.files import load_files
from fastheads.data.folder import files_below, folders
from fastheads.data.images import Data
from fastheads.data.split import hold_out
from fastheads.data.streamed import BASE_PARTS

LISTS = {"train": "train_list.mat", "test": "test_list.mat"}


def load_stanford_dogs(root: str | Path, seed: int = 0, **options: Any) -> Data:
    """Reads ``root/Images/n02085620-Chihuahua/n02085620_10074.jpg``; the label is ``Chihuahua``.

    Where ``root`` or ``root/lists`` holds the official ``train_list.mat`` and ``test_list.mat``,
    they divide the pictures (12,000 and 8,580), and one in ten of those to train is held out. Else
    the pictures are divided by ``seed``: 0.7 to train, 0.1 held out, 0.2 to test, as in section 8.1
    of the streaming paper (Huang, 2019), which holds nothing out.

    Args:
        root: the folder that the archives were unpacked in.
        seed: of the division, or of the pictures held out.
        **options: ``size``, ``channels``, ``label_space``, ``cache_dir``, ``progress`` of
            :func:`fastheads.data.files.load_files`.

    Raises:
        ValueError: if a folder or list is missing or not as described, or as ``load_files``.
    """
    root = Path(root).expanduser()
    images = root / "Images"
    if not images.is_dir():
        raise ValueError(
            f"path must hold the folder Images of Stanford Dogs, got none in {str(root)!r}"
        )
    lists = {split: _find(root, name) for split, name in LISTS.items()}
    if lacking := [LISTS[split] for split, path in lists.items() if path is None]:
        if len(lacking) < len(lists):
            raise ValueError(f"path must hold both lists or none, got no {lacking[0]}")
        paths = [file for folder in folders(images) for file in files_below(folder)]
        labels = [[_breed(file.relative_to(images).parts[0])] for file in paths]
        return load_files(paths, labels, seed=seed, parts=BASE_PARTS, **options)
    listed = {split: _read_list(path) for split, path in lists.items() if path is not None}
    names = [name for split in listed.values() for name in split]
    labels = [[_breed(name.partition("/")[0])] for name in names]
    splits = [split for split, own in listed.items() for _ in own]
    splits = hold_out(labels, splits, seed, BASE_PARTS[0])
    return load_files([images / name for name in names], labels, splits, seed=seed, **options)


def _find(root: Path, name: str) -> Path | None:
    return next((p for p in (root / name, root / "lists" / name) if p.is_file()), None)


def _read_list(path: Path) -> list[str]:
    """The cells of ``file_list``, such as ``n02085620-Chihuahua/n02085620_10074.jpg``."""
    try:
        cells = loadmat(path, variable_names=["file_list"], squeeze_me=True)["file_list"]
        return [str(cell) for cell in np.atleast_1d(cells)]
    except Exception as error:  # scipy raises whatever damage leads to
        raise ValueError(
            f"{path.name} must be a MATLAB file that holds file_list, "
            f"got {type(error).__name__}: {error}"
        ) from error


def _breed(folder: str) -> str:
    """``n02099601-golden_retriever`` to ``golden_retriever``."""
    synset, _, breed = folder.partition("-")
    if not (synset.startswith("n") and synset[1:].isdigit() and breed):
        raise ValueError(f"folders of Images must be called as n02085620-Chihuahua, got {folder!r}")
    return breed
