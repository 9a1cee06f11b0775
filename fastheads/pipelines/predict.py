"""The best labels of image files, by the network of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fastheads.data.files import decode
from fastheads.models import HeadedNetwork
from fastheads.nn import topk_logits
from fastheads.ops import topk_indices
from fastheads.pipelines.network_file import is_softmax, load_network

Ink = Literal["auto", "light", "dark"]
_INVERT: dict[Ink, bool | None] = {"auto": None, "light": False, "dark": True}


def predict(
    images: Sequence[Path], run: Path, top: int = 5, ink: Ink = "auto"
) -> dict[Path, list[tuple[str, float]]]:
    """The best labels of each image, best first, with their probabilities.

    Args:
        images: image files.
        run: folder of a finished run.
        top: labels an image.
        ink: of gray networks: ``light`` on dark as the glyphs are, ``dark`` on light, or decided
            for each image by its border.

    Raises:
        ValueError: if the run is not finished or an image cannot be read.
    """
    network, label_space, image_shape, normalize = load_network(run)
    if not 1 <= top <= len(label_space):
        raise ValueError(f"top must be 1 to {len(label_space)}, got {top}")
    batch = torch.stack([read_image(Path(path), image_shape, ink) for path in images])
    with torch.no_grad():
        logits = network(normalize(batch))
    scores = logits.softmax(1) if is_softmax(run) else logits.sigmoid()
    best = topk_indices(scores, top)
    return {
        Path(path): [(label_space.names[label], float(row[label])) for label in labels]
        for path, row, labels in zip(images, scores, best.tolist(), strict=True)
    }


@torch.no_grad()
def predict_verticals(
    images: Sequence[Path], run: Path, top: int = 5, ink: Ink = "auto"
) -> dict[Path, dict[str, list[tuple[str, float]]]]:
    """The best labels of each vertical for each image, the most certain vertical first.

    Arguments and errors are those of :func:`predict`; the run must have trained a student over
    verticals, and a vertical of fewer than ``top`` labels gives all it has.
    """
    network, label_space, image_shape, normalize = load_network(run)
    if not isinstance(network, HeadedNetwork):
        raise ValueError(f"run must have a student over verticals, got {run} without verticals")
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    verticals = json.loads((run / "network.json").read_text(encoding="utf-8"))["student"]["names"]
    batch = torch.stack([read_image(Path(path), image_shape, ink) for path in images])
    features = network.features(normalize(batch))
    logits, labels = topk_logits(network.head, features, top, per_group=True)
    found: dict[Path, dict[str, list[tuple[str, float]]]] = {}
    for path, rows, scores in zip(images, labels.tolist(), logits.sigmoid(), strict=True):
        order = scores[:, 0].argsort(descending=True, stable=True).tolist()
        found[Path(path)] = {
            verticals[g]: [
                (label_space.names[label], float(score))
                for label, score in zip(rows[g], scores[g], strict=True)
                if label >= 0
            ]
            for g in order
        }
    return found


def read_image(path: Path, image_shape: tuple[int, ...], ink: Ink) -> Tensor:
    """One picture as the network takes it: uint8 ``[channels, size, size]``."""
    channels, size, _ = image_shape
    try:
        # The border of the padding is black: what was around the ink is decided before padding.
        image = decode(path, size, channels, invert=_INVERT[ink] if channels == 1 else False)
    except Exception as error:  # Pillow raises whatever damage leads to
        raise ValueError(f"image must be a readable picture, got {path}: {error}") from None
    return torch.from_numpy(image.copy())  # Pillow gives it for reading only
