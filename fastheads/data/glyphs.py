"""Characters as the outline fonts of this machine draw them: the embedded data set.

A label is a Unicode character, an image one distinct drawing. The annotation of an image is the set
of all characters that some face draws exactly so: no model can tell them apart, none has to.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import features
from rich.progress import Progress

from fastheads.data.cache import Entry, cached
from fastheads.data.fonts import Face, find_fonts, read_faces
from fastheads.data.images import Data, divide
from fastheads.data.split import MINIMUM, assign_splits
from fastheads.data.unicode import character_space, vertical
from fastheads.targets import SparseTargets

DRAW = Path(__file__).with_name("draw.py")
CHUNK = 4096  # characters drawn by one process


def load_glyphs(
    fonts: str | Path = "default",
    size: int = 32,
    min_faces: int = 4,
    seed: int = 0,
    scripts: Sequence[str] | None = None,
    limit_labels: int | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Data:
    """Draws, annotates and splits the glyphs of the fonts on this machine.

    Pictures are ``[1, size, size]`` uint8, ink 255 on 0. Identical pictures, within a face or
    across faces, are one image that carries every label drawn so; an image is in one split only.

    Args:
        fonts: ``default``, ``system`` or a directory, see :func:`fastheads.data.fonts.find_fonts`.
        size: height and width of the pictures in pixels.
        min_faces: a label is a character drawn by at least so many faces.
        seed: of the split.
        scripts: keeps labels of these scripts only (names of the level ``script``).
        limit_labels: keeps the first so many of the labels with enough drawings, by code point.
        cache_dir: where drawings are kept; see :func:`fastheads.data.cache.default_directory`.
        progress: show a progress bar while drawing.

    Raises:
        ValueError: if no label is left, or an argument is not as described.
    """
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")
    if min_faces < 1:
        raise ValueError(f"min_faces must be at least 1, got {min_faces}")
    if limit_labels is not None and limit_labels < 1:
        raise ValueError(f"limit_labels must be at least 1, got {limit_labels}")
    faces, skipped = read_faces(find_fonts(fonts))
    entry = drawings(faces, _wanted(faces, min_faces, scripts), size, cache_dir, progress)
    skipped.update(entry.meta["skipped"])
    image, face, codepoint = entry.table.T
    num_faces, num_drawings = distinct(codepoint, face), distinct(codepoint, image)
    drawn = np.array([c for c, n in num_faces.items() if n >= min_faces], dtype=np.int32)
    enough = np.array([num_drawings[c] >= sum(MINIMUM) for c in drawn.tolist()], dtype=bool)
    labels = drawn[enough][:limit_labels]
    targets = _annotate(image, codepoint, labels, len(entry.images))
    split, kept = assign_splits(targets, len(labels), seed)
    lost = [*drawn[~enough].tolist(), *labels[~kept].tolist()]
    dropped = {chr(c): num_drawings[c] for c in lost}
    if not kept.any():
        raise ValueError(
            f"glyphs must leave at least one label with {sum(MINIMUM)} distinct drawings, got none "
            f"from {len(faces)} faces (scripts={scripts}, min_faces={min_faces})"
        )
    label_space = character_space([chr(c) for c in labels[kept]])
    targets = _annotate(image, codepoint, labels[kept], len(entry.images))
    parts = divide(entry.images, targets, split, label_space)
    face_of = np.full(len(entry.images), len(faces))
    np.minimum.at(face_of, image, face)
    names = tuple(f.name for f in faces)
    return Data(label_space, *parts, skipped, dropped, names, face_of)


def drawings(
    faces: Sequence[Face],
    wanted: Sequence[Sequence[int]],
    size: int,
    cache_dir: Path | None,
    progress: bool,
) -> Entry:
    """Distinct drawings of the code points ``wanted`` of each face, from the cache or drawn.

    Returns:
        Images, and a table of (image, face, code point): a row for each character of each face.
    """

    def build(path: Path):
        skipped: dict[str, str] = {}
        known: dict[bytes, int] = {}
        table = []
        with path.open("wb") as file:
            for number, codepoint, picture in _draw_all(faces, wanted, size, skipped, progress):
                digest = hashlib.blake2b(picture, digest_size=16).digest()
                if digest not in known:
                    known[digest] = len(known)
                    file.write(picture)
                table.append((known[digest], number, codepoint))
        rows = np.array(table, dtype=np.int32).reshape(-1, 3)
        return (len(known), 1, size, size), rows, {"skipped": skipped}

    key = {
        "faces": [(face.digest, face.index) for face in faces],
        "characters": hashlib.sha256(json.dumps(wanted).encode()).hexdigest(),
        "size": size,
        "draw": hashlib.sha256(DRAW.read_bytes()).hexdigest(),
        "versions": [PIL.__version__, features.version("freetype2")],
    }
    return cached(cache_dir, key, build)


def _draw_all(
    faces: Sequence[Face],
    wanted: Sequence[Sequence[int]],
    size: int,
    skipped: dict[str, str],
    progress: bool,
) -> Iterator[tuple[int, int, bytes]]:
    """Yields (face, code point, picture) in order, without what is blank or .notdef."""
    jobs = [
        (number, codepoints[start : start + CHUNK])
        for number, codepoints in enumerate(wanted)
        for start in range(0, len(codepoints), CHUNK)
    ]
    blank = bytes(size * size)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        Progress(disable=not progress, transient=True) as bar,
    ):
        task = bar.add_task("drawing glyphs", total=sum(len(c) for _, c in jobs))
        results = pool.map(lambda job: _draw_face(faces[job[0]], job[1], size), jobs)
        for (number, codepoints), (pictures, error) in zip(jobs, results, strict=True):
            if error:
                skipped[str(faces[number].path)] = error
            notdef = pictures[: size * size]
            for i, codepoint in enumerate(codepoints, start=1):
                picture = pictures[i * size * size : (i + 1) * size * size]
                if picture and picture != blank and picture != notdef:
                    yield number, codepoint, picture
            bar.advance(task, len(codepoints))


def _draw_face(face: Face, codepoints: Sequence[int], size: int) -> tuple[bytes, str]:
    """The pictures one after another, or none and the reason."""
    request = {
        "path": str(face.path),
        "index": face.index,
        "size": size,
        "codepoints": list(codepoints),
    }
    # -P: the script's own folder must not stand before the standard library
    done = subprocess.run(
        [sys.executable, "-P", str(DRAW)], input=json.dumps(request).encode(), capture_output=True
    )
    if done.returncode == 0 and len(done.stdout) == (1 + len(codepoints)) * size * size:
        return done.stdout, ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return b"", lines[-1] if lines else f"drawing ended with status {done.returncode}"


def _wanted(
    faces: Sequence[Face], min_faces: int, scripts: Sequence[str] | None
) -> list[list[int]]:
    """For each face the code points that can become labels, as far as coverage tells."""
    covering = Counter(c for face in faces for c in face.codepoints)
    able = {c for c, count in covering.items() if count >= min_faces}
    if scripts is not None:
        above = {c: vertical(chr(c)) for c in able}
        known = sorted(set(above.values()))
        if unknown := sorted(set(scripts) - set(known)):
            raise ValueError(f"scripts must be among {', '.join(known)}; got {unknown[0]!r}")
        able = {c for c in able if above[c] in scripts}
    return [[c for c in face.codepoints if c in able] for face in faces]


def distinct(codepoint: np.ndarray, other: np.ndarray) -> dict[int, int]:
    """For each code point, ascending, how many values of ``other`` stand beside it."""
    pairs = np.unique(np.stack([codepoint, other]), axis=1)
    values, counts = np.unique(pairs[0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _annotate(
    image: np.ndarray, codepoint: np.ndarray, labels: np.ndarray, num_images: int
) -> SparseTargets:
    """For each image the labels that are drawn so."""
    label = np.searchsorted(labels, codepoint)
    known = np.isin(codepoint, labels)
    pairs = np.unique(image[known].astype(np.int64) * len(labels) + label[known])
    rows, indices = np.divmod(pairs, max(len(labels), 1))
    offsets = np.concatenate([[0], np.bincount(rows, minlength=num_images).cumsum()])
    return SparseTargets(torch.from_numpy(indices), torch.from_numpy(offsets))
