"""Composed characters that stream in after their components: é after e and the acute accent.

A base label is a letter, mark or symbol of which characters are composed (Unicode's full canonical
decomposition), or another letter; a kind is a composed character, which carries its components'
labels. Characters that most faces draw alike (A, Alpha, Cyrillic A) are one label or one kind.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from fontTools import unicodedata
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from fastheads.data.cache import Entry
from fastheads.data.fonts import Face, find_fonts, read_faces
from fastheads.data.glyphs import distinct, drawings
from fastheads.data.images import Data, divide
from fastheads.data.split import MINIMUM, assign_splits
from fastheads.data.streamed import BASE_PARTS, StreamData, stream_data
from fastheads.data.unicode import character_space, components, vertical
from fastheads.targets import SparseTargets


def load_composed(
    fonts: str | Path = "default",
    size: int = 32,
    min_faces: int = 4,
    seed: int = 0,
    scripts: Sequence[str] | None = None,
    limit_labels: int | None = 400,
    limit_kinds: int | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> StreamData:
    """Draws base labels and composed characters with the fonts on this machine.

    Pictures are ``[1, size, size]`` uint8, ink 255 on 0, no two the same. A picture that stands for
    two labels or kinds, in whatever faces, is left out: base pictures have one label each, and no
    streamed picture is one that the base data holds.

    Args:
        fonts: ``default``, ``system`` or a directory, see :func:`fastheads.data.fonts.find_fonts`.
        size: height and width of the pictures in pixels.
        min_faces: a label or a kind is a character drawn by at least so many faces.
        seed: of the splits: 0.7, 0.1 and 0.2 of the base pictures, 0.8 and 0.2 of the streamed.
        scripts: keeps kinds of these scripts only (names of the level ``script``).
        limit_labels: so many base labels: components first, those of most kinds first, then other
            letters and digits of the components' scripts, those of most faces first.
        limit_kinds: keeps so many kinds, evenly over their code points.
        cache_dir: where drawings are kept; see :func:`fastheads.data.cache.default_directory`.
        progress: show a progress bar while drawing.

    Raises:
        ValueError: if no label or no kind is left, or an argument is not as described.
    """
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")
    if min_faces < 1:
        raise ValueError(f"min_faces must be at least 1, got {min_faces}")
    if limit_labels is not None and limit_labels < 2:
        raise ValueError(f"limit_labels must be at least 2, got {limit_labels}")
    faces, skipped = read_faces(find_fonts(fonts))
    parts_of, others = _characters(faces, min_faces, scripts)
    parts = sorted({part for row in parts_of.values() for part in row})
    order = [*parts, *sorted(parts_of), *others]  # what names its look-alikes comes first
    known = set(order)
    wanted = [[c for c in face.codepoints if c in known] for face in faces]
    entry = drawings(faces, wanted, size, cache_dir, progress)
    skipped.update(entry.meta["skipped"])
    num_faces = distinct(entry.table[:, 2], entry.table[:, 1])
    leader = look_alikes(entry.table, [c for c in order if num_faces.get(c, 0) >= min_faces])
    kinds = {
        c: {leader[part] for part in row}
        for c, row in parts_of.items()
        if leader.get(c) == c and all(part in leader for part in row)
    }
    uses = Counter(label for row in kinds.values() for label in row)
    ranked = sorted(uses, key=lambda c: (-uses[c], c))
    more = {leader[c] for c in others if c in leader}.intersection(others)
    ranked += sorted(more, key=lambda c: (-num_faces[c], c))
    owner = _owners(entry.table, leader, {*ranked[:limit_labels], *kinds}, len(entry.images))

    base = _base(entry, owner, sorted(ranked[:limit_labels]), faces, skipped, seed)

    number = {ord(name): i for i, name in enumerate(base.label_space.names)}
    there = [c for c in sorted(kinds) if kinds[c] <= number.keys()]
    rows = np.flatnonzero(np.isin(owner, there))
    without = [c for c in sorted(kinds) if kinds[c] & set(map(ord, base.dropped))]
    return stream_data(
        base,
        entry.images,
        rows,
        np.searchsorted(there, owner[rows]),
        {chr(c): [number[label] for label in kinds[c]] for c in there},
        seed,
        limit_kinds,
        dropped={chr(c): int((owner == c).sum()) for c in without},
    )


def _characters(
    faces: Sequence[Face], min_faces: int, scripts: Sequence[str] | None
) -> tuple[dict[int, tuple[int, ...]], list[int]]:
    """Composed characters with their components, and further letters and digits of their scripts.

    All of them as far as ``min_faces`` faces cover them; ascending.
    """
    covering = Counter(c for face in faces for c in face.codepoints)
    able = sorted(c for c, count in covering.items() if count >= min_faces)
    parts_of = {c: components(c) for c in able}
    parts_of = {
        c: row
        for c, row in parts_of.items()
        if len(row) > 1 and all(covering[p] >= min_faces for p in row)
    }
    if scripts is not None:
        above = {c: vertical(chr(c)) for c in parts_of}
        names = sorted(set(above.values()))
        if unknown := sorted(set(scripts) - set(names)):
            raise ValueError(f"scripts must be among {', '.join(names)}; got {unknown[0]!r}")
        parts_of = {c: row for c, row in parts_of.items() if above[c] in scripts}
    parts = {part for row in parts_of.values() for part in row}
    near = {vertical(chr(part)) for part in parts}
    others = [
        c
        for c in able
        if c not in parts
        and unicodedata.category(chr(c))[0] in "LN"
        and unicodedata.normalize("NFKD", chr(c)) == chr(c)
        and vertical(chr(c)) in near
    ]
    return parts_of, others


def look_alikes(table: np.ndarray, characters: Sequence[int]) -> dict[int, int]:
    """Puts characters together that at least half of the faces with both draw identically.

    Args:
        table: ``[rows, 3]``, image, face and code point, as :func:`drawings` gives it.
        characters: code points; the first of a group stands for it.

    Returns:
        For each of ``characters`` the one that stands for its group.
    """
    place = {c: i for i, c in enumerate(characters)}
    faces: dict[int, set[int]] = defaultdict(set)
    same_picture: dict[tuple[int, int], list[int]] = defaultdict(list)
    for image, face, codepoint in table.tolist():
        if codepoint in place:
            faces[codepoint].add(face)
            same_picture[image, face].append(codepoint)
    agreeing = Counter(p for group in same_picture.values() for p in combinations(sorted(group), 2))
    pairs = [
        (place[a], place[b])
        for (a, b), count in agreeing.items()
        if 2 * count >= len(faces[a] & faces[b])
    ]
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(pairs)), ends), shape=(len(place), len(place)))
    group = connected_components(graph, directed=False)[1].tolist()
    first: dict[int, int] = {}
    for character, g in zip(characters, group, strict=True):
        first.setdefault(g, character)
    return {character: first[g] for character, g in zip(characters, group, strict=True)}


def _owners(
    table: np.ndarray, leader: Mapping[int, int], chosen: Collection[int], num_images: int
) -> np.ndarray:
    """``[images]``: the one of ``chosen`` that is drawn so; -1 for none or for several."""
    leads = np.array([leader.get(c, -1) for c in table[:, 2].tolist()], dtype=np.int64)
    known = np.isin(leads, [*chosen])
    pairs = np.unique(np.stack([table[known, 0], leads[known]]), axis=1)
    owner = np.full(num_images, -1)
    owner[pairs[0]] = pairs[1]
    owner[np.bincount(pairs[0], minlength=num_images) > 1] = -1
    return owner


def _base(
    entry: Entry,
    owner: np.ndarray,
    characters: Sequence[int],
    faces: Sequence[Face],
    skipped: dict[str, str],
    seed: int,
) -> Data:
    """The drawings of ``characters``, ascending, as far as they have enough for every split."""
    labels = np.array(characters, dtype=np.int64)
    targets = _one_label(owner, labels)
    split, kept = assign_splits(targets, len(labels), seed, BASE_PARTS)
    if not kept.any():
        raise ValueError(
            f"glyphs must leave at least one label with {sum(MINIMUM)} distinct drawings, "
            f"got none from {len(faces)} faces"
        )
    counts = np.bincount(targets.indices, minlength=len(labels))
    dropped = {chr(c): int(counts[i]) for i, c in enumerate(labels) if not kept[i]}
    label_space = character_space([chr(c) for c in labels[kept]])
    parts = divide(entry.images, _one_label(owner, labels[kept]), split, label_space)
    image, face, _ = entry.table.T
    face_of = np.full(len(entry.images), len(faces))
    np.minimum.at(face_of, image, face)
    names = tuple(face.name for face in faces)
    return Data(label_space, *parts, skipped, dropped, names, face_of)


def _one_label(owner: np.ndarray, labels: np.ndarray) -> SparseTargets:
    """For each image its owner as an index into ``labels``; nothing for what is no label."""
    known = np.isin(owner, labels)
    offsets = np.concatenate([[0], known.cumsum()])
    return SparseTargets(
        torch.from_numpy(np.searchsorted(labels, owner[known])), torch.from_numpy(offsets)
    )
