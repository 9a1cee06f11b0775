"""Pictures and labels that a service is sent: checked, and in the form that training takes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastheads.labels import LabelSpace
from fastheads.targets import SparseTargets


def checked_pictures(
    images: Tensor | np.ndarray, shape: tuple[int, ...], name: str = "images"
) -> Tensor:
    """The pictures as a tensor on the CPU; arrays are copied.

    Raises:
        ValueError: unless they are uint8 ``[N, *shape]``.
    """
    # A copy may be written to, and has no negative strides, which tensors cannot have.
    batch = images.cpu() if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    if batch.dtype != torch.uint8 or tuple(batch.shape[1:]) != shape or batch.ndim != 4:
        wanted = ", ".join(map(str, shape))
        raise ValueError(
            f"{name} must be uint8 [N, {wanted}], got {batch.dtype} {list(batch.shape)}"
        )
    return batch


def targets_of(
    labels: Sequence[Sequence[str]], pictures: int, label_space: LabelSpace
) -> SparseTargets:
    """The targets of ``pictures`` pictures from the names of their labels.

    Raises:
        ValueError: if a name is unknown (the message has those close to it), or a picture has none.
    """
    if len(labels) != pictures:
        raise ValueError(
            f"labels must hold the names for each of the {pictures} pictures, got {len(labels)}"
        )
    known = {name: number for number, name in enumerate(label_space.names)}
    rows = []
    for picture, names in enumerate(labels):
        if isinstance(names, str) or not len(names):
            given = f"the string {names!r}" if isinstance(names, str) else "none"
            raise ValueError(
                "labels must hold a list of at least one name for each picture, "
                f"got {given} for picture {picture}"
            )
        for name in names:
            if name not in known:
                raise ValueError(
                    f"labels must be among the {len(known)} known ones, got {name!r} for picture "
                    f"{picture}{_close(str(name), label_space)}"
                )
        rows.append([known[name] for name in names])
    return SparseTargets.from_lists(rows)


def _close(name: str, label_space: LabelSpace) -> str:
    """The known labels that look most like ``name``, for a message."""
    folded = {known.casefold(): known for known in label_space.names}
    found = difflib.get_close_matches(name.casefold(), folded, n=3)
    names = ", ".join(repr(folded[each]) for each in found)
    return f"; close to it: {names}" if names else ""
