"""How much is held at a time by what goes through many labels in chunks."""

from __future__ import annotations

import torch

_BYTES = {"cpu": 64 << 20}
_BYTES_OF_OTHERS = 256 << 20


def scratch_on(device: torch.device, given: int | None) -> int:
    """The bytes of ``scratch_bytes``: those given, or by default 64 MB on a CPU, else 256 MB.

    Raises:
        ValueError: if less than 1 is given.
    """
    if given is None:
        return _BYTES.get(device.type, _BYTES_OF_OTHERS)
    if given < 1:
        raise ValueError(f"scratch_bytes must be None or at least 1, got {given}")
    return given
