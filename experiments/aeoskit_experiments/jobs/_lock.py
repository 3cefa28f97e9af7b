"""A lock on a folder, so that it has one driver at a time."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from aeoskit_experiments._errors import UserError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path, use: str) -> Iterator[None]:
    """Holds the lock of a folder, which ends with this process, however that ends.

    Args:
        folder: A folder that exists.
        use: What the holder does with it, for the error: "being run".

    Raises:
        UserError: If another process holds the lock.
    """
    # Not filelock: before its version 4 a filesystem without locks looks like one that is locked.
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder} is {use} by another process: wait for it, or end it first"
            ) from None
        except OSError:
            pass  # A filesystem without locks.
        yield
