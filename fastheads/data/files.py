"""Image files with labels, decoded once into a memory-mapped array."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from rich.progress import Progress

from fastheads.data.cache import Entry, cached
from fastheads.data.fit_size import fit_size
from fastheads.data.images import Data, divide
from fastheads.data.split import MINIMUM, SPLITS, assign_splits
from fastheads.labels import LabelSpace, join_names
from fastheads.targets import SparseTargets

PARTS = (0.15, 0.15)  # of the images for hold-out and test where no split is given
MODES = {1: "L", 3: "RGB"}
SPLIT_OF = {name: number for number, name in enumerate(SPLITS)} | dict.fromkeys(
    ("val", "valid", "validation"), SPLITS.index("holdout")
)


def load_files(
    paths: Sequence[Path],
    labels: Sequence[Sequence[str]],
    splits: Sequence[str] | None = None,
    size: int = 32,
    channels: int = 3,
    seed: int = 0,
    label_space: LabelSpace | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
    parts: tuple[float, float] = PARTS,
) -> Data:
    """Reads image files into data sets; unreadable ones are skipped and named.

    Args:
        paths: one image file a row.
        labels: the names of each row's labels.
        splits: ``train``, ``holdout`` (or ``val``) or ``test`` for each row; ``None``: by ``seed``,
            the rest, ``parts``, and at least 2, 1 and 1 images of every label.
        size: pictures become ``size`` by ``size`` pixels: aspect kept, the rest black.
        channels: 1 for gray, 3 for RGB.
        seed: of the split.
        label_space: the only labels that may occur; ``None``: those that occur, sorted.
        cache_dir: where decoded pictures are kept.
        progress: show a progress bar while decoding.
        parts: of the images for hold-out and test.

    Raises:
        ValueError: if no image can be read, or a label is unknown or has too few images.
    """
    entry = decode_all(paths, size, channels, cache_dir, progress)
    if not len(entry.images):
        raise ValueError(f"images must be readable, got none that is among {len(paths)} files")
    read = entry.table[:, 0]
    if label_space is None:
        label_space = LabelSpace(tuple(sorted({name for row in labels for name in row})))
    rows = [[label_space.index(name) for name in labels[i]] for i in read]
    targets = SparseTargets.from_lists(rows)
    mentioned = {label_space.index(name) for row in labels for name in row}
    if splits is None:
        split, kept = assign_splits(targets, len(label_space), seed, parts)
    else:
        split = np.array([_split_number(splits[i]) for i in read], dtype=np.int8)
        if empty := [name for i, name in enumerate(SPLITS) if i not in split]:
            raise ValueError(f"split {empty[0]!r} must have readable images, got none")
        kept = np.zeros(len(label_space), dtype=bool)
        kept[[label for row, s in zip(rows, split, strict=True) if s == 0 for label in row]] = True
    if lacking := sorted(label for label in mentioned if not kept[label]):
        need = f"{sum(MINIMUM)} readable images" if splits is None else "a readable training image"
        names = join_names([label_space.names[label] for label in lacking])
        raise ValueError(f"every label must have at least {need}, which these lack: {names}")
    return Data(label_space, *divide(entry.images, targets, split, label_space), entry.meta)


def _split_number(name: str) -> int:
    if name not in SPLIT_OF:
        raise ValueError(f"split must be one of {', '.join(SPLIT_OF)}, got {name!r}")
    return SPLIT_OF[name]


def decode_all(
    paths: Sequence[Path],
    size: int,
    channels: int,
    cache_dir: Path | None,
    progress: bool,
    least: int | None = None,
) -> Entry:
    """Images that can be read, a table of the row of ``paths`` of each, and why others cannot."""
    if channels not in MODES:
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")

    def build(target: Path) -> tuple[tuple[int, ...], np.ndarray, dict[str, Any]]:
        skipped: dict[str, str] = {}
        read = []
        with (
            target.open("wb") as file,
            ThreadPoolExecutor(os.cpu_count()) as pool,
            Progress(disable=not progress, transient=True) as bar,
        ):
            task = bar.add_task("decoding images", total=len(paths))
            # In slices: map alone would hold every decoded picture ahead of the writer.
            for start in range(0, len(paths), 1024):
                slice_ = paths[start : start + 1024]
                pictures = pool.map(lambda path: _try_decode(path, size, channels, least), slice_)
                for i, picture in enumerate(pictures, start=start):
                    if isinstance(picture, str):
                        skipped[str(paths[i])] = picture
                    else:
                        file.write(picture.tobytes())
                        read.append([i])
                bar.advance(task, len(slice_))
        rows = np.array(read, dtype=np.int32).reshape(-1, 1)
        return (len(read), channels, size, size), rows, skipped

    files = [[str(path.absolute()), *_state(path)] for path in paths]
    key = {"files": files, "size": size, "channels": channels, "least": least}
    return cached(cache_dir, key, build)


def _state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change; zeros for a file that is not there."""
    try:
        state = path.stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def _try_decode(path: Path, size: int, channels: int, least: int | None) -> np.ndarray | str:
    try:
        return decode(path, size, channels, least=least)
    except Exception as error:  # Pillow raises whatever damage leads to, SyntaxError included
        return f"{type(error).__name__}: {error}"


def decode(
    path: Path, size: int, channels: int, invert: bool | None = False, least: int | None = None
) -> np.ndarray:
    """Reads one picture, the first frame of an animation.

    Args:
        path: the image file.
        size: height and width of the result.
        channels: 1 for gray, 3 for RGB.
        invert: swap dark and light; ``None``: if the picture's border is light.
        least: how many pixels wide and high a picture must be, and small ones are not scaled up,
            see :func:`fastheads.data.fit_size.fit_size`; ``None``: all are scaled to ``size``.

    Returns:
        ``[channels, size, size]``, uint8: aspect kept, centred, the rest black.
    """
    with Image.open(path) as image:
        if least is None:
            image.draft(None, (2 * size, 2 * size))  # JPEG: decodes no more detail than is needed
        picture: Image.Image = ImageOps.exif_transpose(image)
        if picture.mode.startswith("I"):  # 16 bits; convert would clip them
            picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
        picture = picture.convert(MODES[channels])
        if invert or (invert is None and _has_light_border(picture)):
            picture = ImageOps.invert(picture)
        if least is None:
            picture = ImageOps.pad(picture, (size, size), Image.Resampling.BICUBIC)
        else:
            picture = fit_size(picture, size, least)
    return np.asarray(picture).reshape(size, size, channels).transpose(2, 0, 1)


def _has_light_border(picture: Image.Image) -> bool:
    pixels = np.asarray(picture.convert("L"))
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return bool(np.concatenate(edges).mean() > 127)
