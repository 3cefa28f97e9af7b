"""Room for compiled programs."""

import gc
from pathlib import Path

import jax

MANY_MAPS = 20_000
"""Linux allows a process 65,530 pieces of mapped memory; a group may compile ten thousand more."""


def memory_maps() -> int:
    """How many pieces of memory this process has mapped; 0 where no one says.

    >>> memory_maps() >= 0
    True
    """
    try:
        return len(Path("/proc/self/maps").read_bytes().splitlines())
    except OSError:
        return 0


def make_room() -> bool:
    """Forgets compiled programs where there are so many that the next ones might not fit.

    On CPU each kernel keeps some memory mapped, and the compiler crashes where the system gives it
    no more: a sweep over twelve optimizers, a program for each, came there.

    Returns:
        Whether they were forgotten.

    >>> make_room() in (True, False)
    True
    """
    if memory_maps() < MANY_MAPS:
        return False
    jax.clear_caches()
    gc.collect()
    return True
