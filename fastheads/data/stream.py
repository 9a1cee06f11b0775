"""Which base data and streamed pictures to load, as one typed configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastheads.data.composed import load_composed
from fastheads.data.folder import load_folder
from fastheads.data.mixed import load_mixed
from fastheads.data.stanford_dogs import load_stanford_dogs
from fastheads.data.streamed import BASE_PARTS, StreamData
from fastheads.ranges import check_seeds

__all__ = ["StreamData", "StreamDataConfig", "load_stream"]


@dataclass(frozen=True)
class StreamDataConfig:
    """Which base pictures, of one label each, and which streamed pictures to load.

    Attributes:
        kind: composed_glyphs, letters and marks, then the characters composed of them;
            stanford_dogs, the official folder, then mixed breeds; or folder_and_table, a folder
            with one folder a label, then pictures of several of these labels.
        path: the folder of the base pictures.
        table: the streamed pictures: a .csv, .jsonl or .parquet table, or a folder with one folder
            a kind, called by its labels, such as pug+beagle.
        fonts: default (what matplotlib brings), system (every font here), or a directory of fonts
            to add.
        scripts: keep only composed glyphs of these scripts, such as [Latin, Greek].
        limit_labels: so many base labels of glyphs, components first, then other letters; null,
            all.
        limit_kinds: keep only so many composed glyphs, evenly over their code points; null, all.
        min_faces: a glyph is a label or a kind if at least so many faces draw it.
        path_column: the table's column of image paths.
        label_column: the table's column of labels.
        kind_column: the table's column of what a row's kind is called; by default its labels.
        separator: what stands between labels.
        size: height and width of the pictures in pixels; by default 32 for glyphs, 300 for files.
        least: streamed files less wide or high in pixels are discarded; by default 5/6 of size,
            250 of 300.
        channels: 1 for gray, 3 for RGB pictures of files; glyphs are gray.
        seed: of the splits.
        cache_dir: where drawn or decoded pictures are kept; by default $FASTHEADS_CACHE or
            ~/.cache/fastheads.
    """

    kind: Literal["composed_glyphs", "stanford_dogs", "folder_and_table"] = "composed_glyphs"
    path: Path | None = None
    table: Path | None = None
    fonts: str = "default"
    scripts: tuple[str, ...] | None = None
    limit_labels: int | None = 400
    limit_kinds: int | None = 150
    min_faces: int = 4
    path_column: str = "path"
    label_column: str = "labels"
    kind_column: str | None = None
    separator: str = "+"
    size: int | None = None
    least: int | None = None
    channels: int = 3
    seed: int = 0
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        for name in ("path", "table"):
            given = getattr(self, name)
            if self.kind != "composed_glyphs" and given is None:
                raise ValueError(f"{name} must be given for kind {self.kind!r}")
            if self.kind == "composed_glyphs" and given is not None:
                raise ValueError(
                    f"{name} must be absent for kind 'composed_glyphs', got {str(given)!r}"
                )
        for name in ("fonts", "scripts", "limit_labels", "limit_kinds", "min_faces"):
            given = getattr(self, name)
            if self.kind != "composed_glyphs" and given != getattr(StreamDataConfig, name):
                raise ValueError(f"{name} must be absent for kind {self.kind!r}, got {given!r}")
        check_seeds(self, "seed")


def load_stream(config: StreamDataConfig, progress: bool = True) -> StreamData:
    """Loads what ``config`` describes.

    Args:
        config: see :class:`StreamDataConfig`.
        progress: show a progress bar where pictures are drawn or decoded.

    Raises:
        ValueError: if something is missing, unknown or too little; the message says what.
    """
    common: dict[str, Any] = {
        "seed": config.seed,
        "cache_dir": config.cache_dir,
        "progress": progress,
    }
    if config.kind == "composed_glyphs":
        return load_composed(
            fonts=config.fonts,
            size=32 if config.size is None else config.size,
            min_faces=config.min_faces,
            scripts=config.scripts,
            limit_labels=config.limit_labels,
            limit_kinds=config.limit_kinds,
            **common,
        )
    assert config.path is not None and config.table is not None  # checked by StreamDataConfig
    size = 300 if config.size is None else config.size
    if config.kind == "stanford_dogs":
        base = load_stanford_dogs(config.path, size=size, channels=config.channels, **common)
    else:
        base = load_folder(
            config.path, size=size, channels=config.channels, parts=BASE_PARTS, **common
        )
    return load_mixed(
        base,
        config.table,
        path_column=config.path_column,
        label_column=config.label_column,
        kind_column=config.kind_column,
        separator=config.separator,
        least=size * 5 // 6 if config.least is None else config.least,
        **common,
    )
