"""What a whole run asks of the system's allocator."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Lets this process use again what it frees, as PyTorch does where jemalloc is preloaded.

    glibc maps every block above 32 MiB by itself and unmaps it when it is freed, so that
    the next one waits for cleared pages. Large results of fastheads do not (``fastheads.memory``);
    the gradients and temporaries of its peers do. It cannot be undone: from then on the process
    holds what it needed at its peak.

    Returns:
        Whether the allocator could be asked; ``False`` where it is not glibc's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    # No block is mapped by itself, and the end of the heap is never given back.
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
