"""Fonts on this machine and the characters that they cover."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from fontTools import unicodedata
from fontTools.ttLib import TTCollection, TTFont
from matplotlib import font_manager

SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}


@dataclass(frozen=True)
class Face:
    """One drawing style of one font file.

    Attributes:
        name: family and style, such as ``DejaVu Sans Bold``.
        path: the font file.
        index: which face of a collection file.
        digest: hash of the file's content.
        codepoints: what the face covers, ascending; no spaces, controls, format characters,
            private or unassigned code points.
    """

    name: str
    path: Path
    index: int
    digest: str
    codepoints: tuple[int, ...]


def find_fonts(fonts: str | Path = "default") -> list[Path]:
    """Lists font files, each once, in a stable order.

    Args:
        fonts: ``default``: the text faces that matplotlib brings; ``system``: these and every font
            on this machine; else a directory, whose fonts (at any depth) are added to the default.
    """
    bundled = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    text = [p for p in bundled.glob("*.ttf") if p.name.startswith(("DejaVu", "STIXGeneral"))]
    paths = sorted(path for path in text if "Display" not in path.name)
    if fonts == "default":
        return paths
    if fonts == "system":
        return paths + sorted({Path(p).resolve() for p in font_manager.findSystemFonts()})
    directory = Path(fonts).expanduser()
    if not directory.is_dir():
        raise ValueError(f"fonts must be 'default', 'system' or a directory, got {str(fonts)!r}")
    more = sorted(p for p in directory.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not more:
        raise ValueError(f"fonts must be a directory that holds font files, got {str(fonts)!r}")
    return paths + more


def read_faces(paths: list[Path]) -> tuple[list[Face], dict[str, str]]:
    """Reads names and coverage; files of the same content count once.

    Returns:
        The faces, and for each file that cannot be read its path and the reason.
    """
    faces: list[Face] = []
    skipped: dict[str, str] = {}
    seen = set()
    for path in paths:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest not in seen:
                faces += _read_file(path, digest)
            seen.add(digest)
        except Exception as error:  # fontTools raises whatever a damaged table leads to
            skipped[str(path)] = f"{type(error).__name__}: {error}"
    return faces, skipped


def _read_file(path: Path, digest: str) -> list[Face]:
    collection = path.suffix.lower() in {".ttc", ".otc"}
    fonts = TTCollection(path, lazy=True).fonts if collection else [TTFont(path, lazy=True)]
    faces = []
    for index, font in enumerate(fonts):
        name = font["name"].getBestFullName() or path.stem
        if "LastResort" in name.replace(" ", ""):  # its drawings name the block, no character
            continue
        covered = font.getBestCmap() or {}
        visible = tuple(sorted(c for c in covered if _is_visible(c)))
        faces.append(Face(name, path, index, digest, visible))
    return faces


def _is_visible(codepoint: int) -> bool:
    return unicodedata.category(chr(codepoint))[0] not in "CZ"
