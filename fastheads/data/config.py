"""Which data to load, as one typed configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastheads.data.folder import load_folder
from fastheads.data.glyphs import load_glyphs
from fastheads.data.images import Data
from fastheads.data.open_images import load_open_images
from fastheads.data.table import load_table
from fastheads.labels import LabelSpace
from fastheads.ranges import check_seeds

# Of glyphs alone, with the values that some command has by default: whoever asks for another kind
# of data did not ask for these.
_GLYPHS_ONLY: dict[str, tuple[Any, ...]] = {
    "fonts": ("default",),
    "scripts": (None, ("Greek", "Cyrillic"), ("Latin",)),
    "limit_labels": (None, 400),
    "min_faces": (4,),
}


@dataclass(frozen=True)
class DataConfig:
    """Which images and labels to load.

    Attributes:
        kind: glyphs drawn from fonts, a folder with one folder a label, a table of image paths, or
            open_images: a folder with the official files of Open Images.
        path: the folder, or the .csv, .jsonl or .parquet table.
        fonts: default (what matplotlib brings), system (every font here), or a directory of fonts
            to add.
        scripts: keep only glyphs of these scripts, such as [Latin, Greek].
        limit_labels: keep only so many glyphs, in code point order.
        min_faces: a glyph is a label if at least so many faces draw it.
        path_column: the table's column of image paths.
        label_column: the table's column of labels.
        split_column: the table's column of train, holdout or test; by default images are split by
            the seed.
        separator: what stands between the labels of a row; by default a row has one label.
        size: height and width of the pictures in pixels.
        channels: 1 for gray, 3 for RGB pictures of files; glyphs are gray.
        seed: of the split into train, hold-out and test.
        cache_dir: where drawn or decoded pictures are kept; by default $FASTHEADS_CACHE or
            ~/.cache/fastheads.
    """

    kind: Literal["glyphs", "folder", "table", "open_images"] = "glyphs"
    path: Path | None = None
    fonts: str = "default"
    scripts: tuple[str, ...] | None = None
    limit_labels: int | None = None
    min_faces: int = 4
    path_column: str = "path"
    label_column: str = "labels"
    split_column: str | None = None
    separator: str | None = None
    size: int = 32
    channels: int = 1
    seed: int = 0
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.kind != "glyphs" and self.path is None:
            raise ValueError(f"path must be given for kind {self.kind!r}")
        if self.kind == "glyphs" and self.path is not None:
            raise ValueError(f"path must be absent for kind 'glyphs', got {str(self.path)!r}")
        for name, defaults in _GLYPHS_ONLY.items():
            if self.kind != "glyphs" and getattr(self, name) not in defaults:
                raise ValueError(
                    f"{name} must be absent for kind {self.kind!r}, got {getattr(self, name)!r}"
                )
        check_seeds(self, "seed")


def load_data(
    config: DataConfig, label_space: LabelSpace | None = None, progress: bool = True
) -> Data:
    """Loads what ``config`` describes.

    Args:
        config: see :class:`DataConfig`.
        label_space: the only labels that image files may have, such as those of an earlier
            run; ``None``: those that occur.
        progress: show a progress bar where pictures are drawn or decoded.

    Raises:
        ValueError: if something is missing, unknown or too little; the message says what.
    """
    common: dict[str, Any] = {
        "size": config.size,
        "seed": config.seed,
        "cache_dir": config.cache_dir,
    }
    if config.kind == "glyphs":
        return load_glyphs(
            fonts=config.fonts,
            min_faces=config.min_faces,
            scripts=config.scripts,
            limit_labels=config.limit_labels,
            progress=progress,
            **common,
        )
    common |= {"channels": config.channels, "label_space": label_space, "progress": progress}
    assert config.path is not None  # checked by DataConfig
    if config.kind == "folder":
        return load_folder(config.path, **common)
    if config.kind == "open_images":
        return load_open_images(config.path, **common)
    return load_table(
        config.path,
        path_column=config.path_column,
        label_column=config.label_column,
        split_column=config.split_column,
        separator=config.separator,
        **common,
    )
