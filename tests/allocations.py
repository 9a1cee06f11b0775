"""What a call allocates, for tests of memory."""

from collections.abc import Callable
from typing import Any

import torch

import fastheads


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that is allocated beyond what was there, by every allocation and release."""
    fastheads.empty_cache()  # what is used again would not be seen
    with torch.profiler.profile(profile_memory=True) as profile:
        kept = call()
    del kept
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
