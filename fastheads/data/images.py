"""Map-style data sets of pictures held in one array."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastheads.data.split import SPLITS
from fastheads.labels import LabelSpace, join_names
from fastheads.targets import SparseTargets


class Pictures(Dataset[tuple[Tensor, SparseTargets]]):
    """Map-style rows of an array of pictures, with the labels of each.

    Another process gets the name of a memory-mapped file, not the pictures.

    Attributes:
        images: ``[images, channels, size, size]``, uint8, usually memory-mapped.
        rows: ``[pictures]``, int64, the rows of ``images`` that belong to this data set.
        targets: the labels of each of the pictures.
    """

    def __init__(self, images: np.ndarray, rows: np.ndarray, targets: SparseTargets) -> None:
        self.images, self.rows, self.targets = images, np.asarray(rows, dtype=np.int64), targets

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, SparseTargets]:
        """A whole batch: uint8 ``[B, channels, size, size]`` and its targets."""
        picked = torch.as_tensor(rows, dtype=torch.int64)
        images = torch.from_numpy(self.images[self.rows[picked.numpy()]])
        return images, self.targets.select(picked)

    def __getstate__(self) -> dict[str, Any]:
        images, state = self.images, dict(self.__dict__)
        del state["images"]
        if isinstance(images, np.memmap) and isinstance(images.base, mmap.mmap):  # no view of one
            where = (str(images.filename), images.dtype.str, images.offset, images.shape)
            return {**state, "file": where}
        return {**state, "images": images[self.rows], "rows": np.arange(len(self.rows))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "file" in state:
            path, dtype, offset, shape = state.pop("file")
            state["images"] = np.memmap(path, dtype, "r", offset, shape)
        self.__dict__.update(state)


class ImageDataset(Pictures):
    """Pictures over a label space.

    Attributes:
        label_space: what the labels are called.
    """

    def __init__(
        self,
        images: np.ndarray,
        rows: np.ndarray,
        targets: SparseTargets,
        label_space: LabelSpace,
    ) -> None:
        super().__init__(images, rows, targets)
        self.label_space = label_space

    def subset(self, rows: np.ndarray) -> ImageDataset:
        """The pictures at ``rows`` (``[n]``, integers below ``len(self)``) as a data set."""
        targets = self.targets.select(torch.as_tensor(rows, dtype=torch.int64))
        return ImageDataset(self.images, self.rows[rows], targets, self.label_space)


@dataclass(frozen=True)
class Data:
    """Three data sets over one label space, and what was left out.

    Attributes:
        label_space: names and hierarchy of the labels.
        train: to learn from.
        holdout: to find confusions on; its drawings occur nowhere else.
        test: to be measured on; its drawings occur nowhere else.
        skipped: files that could not be read: path and reason.
        dropped: labels without enough pictures: name and how many there were.
        faces: names of the faces, for glyphs.
        face_of: ``[images]``, int64, the first face that draws each row of ``train.images``.
    """

    label_space: LabelSpace
    train: ImageDataset
    holdout: ImageDataset
    test: ImageDataset
    skipped: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    faces: tuple[str, ...] = ()
    face_of: np.ndarray | None = None

    @property
    def num_labels(self) -> int:
        return len(self.label_space)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(channels, height, width)`` of the pictures."""
        return tuple(self.train.images.shape[1:])

    def summary(self) -> str:
        """What there is, one line, and what was left out, by count and name, a line each."""
        lines = [
            f"{self.num_labels} labels; {len(self.train)} images to train, "
            f"{len(self.holdout)} held out, {len(self.test)} to test"
        ]
        if self.skipped:
            lines.append(
                f"{len(self.skipped)} unreadable files skipped: {join_names([*self.skipped])}"
            )
        if self.dropped:
            names = [f"{name} ({count})" for name, count in self.dropped.items()]
            lines.append(
                f"{len(self.dropped)} labels dropped for want of pictures: " + join_names(names)
            )
        return "\n".join(lines)


def divide(
    images: np.ndarray, targets: SparseTargets, split: np.ndarray, label_space: LabelSpace
) -> tuple[ImageDataset, ImageDataset, ImageDataset]:
    """The data set of each split, in the order of ``SPLITS``; rows without labels are left out."""
    labelled = targets.counts.numpy() > 0

    def part(name: str) -> ImageDataset:
        rows = np.flatnonzero(labelled & (split == SPLITS.index(name)))
        return ImageDataset(images, rows, targets.select(torch.from_numpy(rows)), label_space)

    return part("train"), part("holdout"), part("test")
