"""A lock on a folder, so that only one process works in it at a time."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from aeoskit_experiments._errors import UserError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path, use: str) -> Iterator[None]:
    """Hold the lock of a folder, which is released when this process ends, for any reason.

    Args:
        folder: A folder that exists.
        use: The holder's use of it, for the error: "being run".

    Raises:
        UserError: If another process holds the lock.
    """
    # Not filelock: before version 4 it takes a filesystem without locks for a locked folder.
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder} is {use} by another process: wait for it, or stop it first"
            ) from None
        except OSError:
            pass  # A filesystem without locks.
        yield
