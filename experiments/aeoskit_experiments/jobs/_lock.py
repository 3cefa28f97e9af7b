"""A lock on a folder, so that it has one driver at a time."""

import contextlib
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
    import filelock  # here, since help needs none

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(folder / LOCK, timeout=0))
        except filelock.Timeout:
            raise UserError(
                f"{folder} is {use} by another process: wait for it, or end it first"
            ) from None
        except (OSError, NotImplementedError):
            pass  # A filesystem without locks.
        yield
