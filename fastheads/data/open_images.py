"""Open Images, versions 4 to 7, in the layout of its official files.

https://storage.googleapis.com/openimages/web/download_v7.html
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from fastheads.data.files import PARTS, load_files
from fastheads.data.images import Data
from fastheads.data.split import hold_out
from fastheads.labels import LabelSpace, join_names

# Folder of the pictures, how files of labels begin after a version, and the split.
SPLITS = (
    ("train", ("train",), "train"),
    ("validation", ("validation", "val"), "holdout"),
    ("test", ("test",), "test"),
)
# The verticals of paper 002, section 4.2, by nodes of the hierarchy; a node below another wins.
VERTICALS = {
    "Food": "food",
    "Drink": "food",
    "Animal": "organism",
    "Plant": "organism",
    "Person": "organism",
    "Vehicle": "mode of transport",
}
MADE, OTHERS = "man made objects", "others"

Rows = dict[str, list[str]]  # picture to the MIDs of its labels


def load_open_images(
    root: str | Path, seed: int = 0, label_space: LabelSpace | None = None, **options: Any
) -> Data:
    """Reads the pictures that are there, with the image-level labels that people verified.

    ``root`` or ``root/annotations`` holds the official files: ``*train-annotations-human-
    imagelabels*.csv``, the same of ``validation`` (or ``val``) and ``test``,
    ``*class-descriptions*.csv`` and, if there is one, ``*hierarchy*.json``; ``root`` or
    ``root/images`` holds ``train/ID.jpg``, ``validation/ID.jpg`` and ``test/ID.jpg``. Annotated
    pictures that are not there are left out.

    A label is what a picture to train from is annotated with, at confidence 1. What people found to
    be absent (confidence 0) is not used: like everything that was not asked, it counts as absent.
    A name that stands for several MIDs is told apart by them.

    With a hierarchy, ``label_space.parents`` has the labels directly above each label
    (``Subcategory``; a ``Part`` is no kind of its whole), and the level ``vertical`` the five
    verticals of paper 002: food, organism, mode of transport, man made objects (the rest of the
    hierarchy) and others (what the hierarchy does not have).

    Args:
        root: the folder.
        seed: of the pictures held out, 15 percent of those to train, where none are to validate.
        label_space: the only labels that may be used; ``None``: those that occur.
        **options: ``size``, ``channels``, ``cache_dir``, ``progress`` of
            :func:`fastheads.data.files.load_files`.

    Raises:
        ValueError: if a file is missing or not as described, nothing is annotated, or as
            ``load_files``.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"path must be the folder of Open Images, got {str(root)!r}")
    names = _names(_need(root, ["*class-descriptions*.csv"], "class descriptions"))
    paths: list[Path] = []
    mids: list[list[str]] = []
    splits: list[str] = []
    for folder, prefixes, split in SPLITS:
        pictures = _pictures(root, folder)
        if not pictures:
            continue
        patterns = [f"*{prefix}-annotations-human-imagelabels*.csv" for prefix in prefixes]
        rows = _annotations(_need(root, patterns, f"labels of {folder}"), pictures)
        paths += [pictures[name] for name in sorted(rows)]
        mids += [rows[name] for name in sorted(rows)]
        splits += [split] * len(rows)
    if "train" not in splits:
        raise ValueError(f"path must hold annotated pictures to train, got none in {str(root)!r}")
    if "holdout" not in splits:
        splits = hold_out(mids, splits, seed, PARTS[0])
    counts = Counter(mid for row in mids for mid in row)
    known = set(
        mid for row, split in zip(mids, splits, strict=True) if split == "train" for mid in row
    )
    if unnamed := sorted(known - names.keys()):
        raise ValueError(f"class descriptions must name every label, not {join_names(unnamed)}")
    kept = [i for i, row in enumerate(mids) if not known.isdisjoint(row)]
    data = load_files(
        [paths[i] for i in kept],
        [[names[mid] for mid in mids[i] if mid in known] for i in kept],
        [splits[i] for i in kept],
        seed=seed,
        label_space=label_space or _label_space(root, names, known),
        **options,
    )
    lost = {names.get(mid, mid): counts[mid] for mid in sorted(counts.keys() - known)}
    return replace(data, dropped=lost)


def _find(root: Path, patterns: Iterable[str]) -> list[Path]:
    folders = (root, root / "annotations")
    return sorted({p for folder in folders for pattern in patterns for p in folder.glob(pattern)})


def _need(root: Path, patterns: list[str], what: str) -> list[Path]:
    found = _find(root, patterns)
    if not found:
        raise ValueError(
            f"path must hold the {what}, {' or '.join(patterns)}, got none in {str(root)!r}"
        )
    return found


def _pictures(root: Path, split: str) -> dict[str, Path]:
    """ID of each picture that is there, and its file."""
    folders = (root / split, root / "images" / split)
    return {p.stem: p for folder in folders if folder.is_dir() for p in folder.glob("*.jpg")}


def _names(paths: list[Path]) -> dict[str, str]:
    """A distinct name for each MID."""
    names: dict[str, str] = {}
    for path in paths:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # Some versions have a header, under several names; every MID begins with a slash.
            rows = (row for row in csv.reader(file) if len(row) > 1 and row[0].startswith("/"))
            names |= {mid: name.strip() or mid for mid, name, *_ in rows}
    counts = Counter(names.values())
    return {mid: name if counts[name] == 1 else f"{name} ({mid})" for mid, name in names.items()}


def _annotations(paths: list[Path], pictures: dict[str, Path]) -> Rows:
    """The positive labels of the pictures, read in blocks: the largest file has 57 million rows."""
    there = pa.array(list(pictures), pa.string())
    columns = {"ImageID": pa.string(), "LabelName": pa.string(), "Confidence": pa.float32()}
    rows: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        wanted = arrow_csv.ConvertOptions(include_columns=list(columns), column_types=columns)
        try:
            for block in arrow_csv.open_csv(path, convert_options=wanted):
                positive = pc.equal(block["Confidence"], 1)
                block = block.filter(pc.and_(positive, pc.is_in(block["ImageID"], there)))
                pairs = zip(
                    block["ImageID"].to_pylist(), block["LabelName"].to_pylist(), strict=True
                )
                for name, mid in pairs:
                    rows[name].add(mid)
        except pa.ArrowException as error:
            raise ValueError(
                f"{path.name} must have the columns {', '.join(columns)}: {error}"
            ) from error
    return {name: sorted(row) for name, row in rows.items()}


def _label_space(root: Path, names: dict[str, str], known: set[str]) -> LabelSpace:
    """The labels by name, and what the hierarchy says of them, if there is one."""
    order = sorted(known, key=lambda mid: names[mid])
    called = tuple(names[mid] for mid in order)
    found = _find(root, ["*hierarchy*.json"])
    if not found:
        return LabelSpace(called)
    parents: dict[str, list[str]] = defaultdict(list)
    vertical: dict[str, str] = {}
    try:
        _walk(json.loads(found[0].read_text(encoding="utf-8")), MADE, names, parents, vertical)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{found[0].name} must be a tree of LabelName, Subcategory and Part, got {error!r}"
        ) from error

    def labels_above(mid: str) -> set[str]:
        """Those directly above; nodes that are no labels are passed by."""
        above = [{each} if each in known else labels_above(each) for each in parents[mid]]
        return set().union(*above)

    above = {mid: labels_above(mid) for mid in order}
    return LabelSpace(
        called,
        {"vertical": tuple(vertical.get(mid, OTHERS) for mid in order)},
        {names[mid]: tuple(sorted(names[a] for a in above[mid])) for mid in order if above[mid]},
    )


def _walk(
    node: dict[str, Any],
    inherited: str,
    names: dict[str, str],
    parents: dict[str, list[str]],
    vertical: dict[str, str],
) -> None:
    """Gathers the parents and the vertical of every node; a node may be in several places."""
    mid = node["LabelName"]
    own = VERTICALS.get(names.get(mid, ""), inherited)
    if vertical.get(mid, MADE) == MADE:  # a vertical of its own before the rest
        vertical[mid] = own
    for kind in ("Subcategory", "Part"):
        for child in node.get(kind, []):
            if kind == "Subcategory":
                parents[child["LabelName"]].append(mid)
            _walk(child, own, names, parents, vertical)
