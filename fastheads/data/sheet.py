"""Contact sheets: pictures in rows, with their labels under them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from fontTools import unicodedata
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from fastheads.data.images import ImageDataset

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
TEXT = 13  # font size of the labels in pixels
GAP = 8


def contact_sheet(
    images: np.ndarray, labels: Sequence[Sequence[str]], columns: int = 16, side: int = 64
) -> Image.Image:
    """Lays out pictures with the names of their labels.

    Args:
        images: ``[n, 1 or 3, H, W]`` or ``[n, H, W]``, uint8.
        labels: names for each picture; what does not fit its column is cut.
        columns: pictures in a row.
        side: height and width of a picture on the sheet in pixels.

    Returns:
        An RGB image.
    """
    if len(images) != len(labels):
        raise ValueError(f"labels must be one a picture, got {len(labels)} for {len(images)}")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, max(1, len(images)))
    font = ImageFont.truetype(str(FONT), TEXT)
    width, height = side + GAP, side + TEXT + 2 * GAP
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, names) in enumerate(zip(images, labels, strict=True)):
        left, top = GAP + i % columns * width, GAP + i // columns * height
        sheet.paste(_to_pil(np.asarray(picture)).resize((side, side)), (left, top))
        text = _fitting(names, font, width - 4)
        at = (left + side // 2, top + side + 2)
        pen.text(at, text, fill="black", font=font, anchor="ma")
    return sheet


def write_sheet(dataset: ImageDataset, path: Path, count: int = 128, seed: int = 0) -> None:
    """Writes a contact sheet of pictures drawn at random, in the order of their first label."""
    path = Path(path)
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg", ".webp"}:
        raise ValueError(f"path must end in .png, .jpg or .webp, got {path.name!r}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    picked = np.random.default_rng(seed).permutation(len(dataset))[:count].tolist()
    images, targets = dataset.__getitems__(picked)
    rows = targets.tolist()
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    names = [[dataset.label_space.names[label] for label in rows[i]] for i in order]
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        contact_sheet(images.numpy()[order], names).save(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def printable(name: str) -> str:
    """``name`` if the sheet's font can draw it, else its code points."""
    if name and all(ord(c) in _covered() and unicodedata.category(c)[0] not in "MCZ" for c in name):
        return name
    if len(name) == 1:
        return f"U+{ord(name):04X}"
    return "".join(c if ord(c) in _covered() else f"U+{ord(c):04X}" for c in name)


@cache
def _covered() -> frozenset[int]:
    return frozenset(TTFont(FONT, lazy=True).getBestCmap())


def _fitting(names: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> str:
    """As many names as fit and how many more there are; a single long name is cut."""
    shown = [printable(name) for name in names]
    for count in range(len(shown), 0, -1):
        rest = f" +{len(shown) - count}" if count < len(shown) else ""
        text = " ".join(shown[:count]) + rest
        if font.getlength(text) <= width:
            return text
    text = shown[0] if shown else ""
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…" if shown else ""


def _to_pil(picture: np.ndarray) -> Image.Image:
    if picture.ndim == 3:
        picture = picture[0] if picture.shape[0] == 1 else picture.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(picture))
