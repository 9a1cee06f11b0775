"""What a training on a CPU asks of the system's allocator."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Lets this process use again what it frees, instead of giving it back to the system.

    glibc maps every block above 32 MiB by itself and unmaps it when it is freed, so a training
    step whose gradients are freed after each step (``zero_grad(set_to_none=True)``) waits for the
    system to clear their pages every time; ``bench/results/sc_sigmoid_loss.csv`` has steps with
    and without. To be called once, before the training. From then on the process holds what it
    needed at its peak; PyTorch's advice to preload jemalloc or tcmalloc has the same effect.

    Returns:
        Whether the allocator could be asked; ``False`` where it is not glibc's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    # No block is mapped by itself, and the end of the heap is never given back.
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
