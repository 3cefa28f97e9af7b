"""Memory maps for compiled programs."""

import gc
from pathlib import Path

import jax

MANY_MAPS = 20_000
"""Linux allows a process 65,530 memory maps; a group may add ten thousand."""


def memory_maps() -> int:
    """The number of memory maps of this process; 0 if the system does not report it.

    >>> memory_maps() >= 0
    True
    """
    try:
        return len(Path("/proc/self/maps").read_bytes().splitlines())
    except OSError:
        return 0


def limit_memory_maps() -> bool:
    """Drop compiled programs if there are so many that the next ones might not fit.

    On CPU each kernel keeps memory maps, and the compiler crashes at the system's limit: a sweep
    over twelve optimizers, with a program for each, reached it.

    Returns:
        True if they were dropped.

    >>> limit_memory_maps() in (True, False)
    True
    """
    if memory_maps() < MANY_MAPS:
        return False
    jax.clear_caches()
    gc.collect()
    return True
