"""Imports that a run needs at its end, made while it waits for compiled programs."""

import contextlib
import importlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def imported_meanwhile(*names: str) -> Iterator[None]:
    """Import modules in a separate thread.

    The interpreter is idle while XLA compiles and computes. An ordinary import of one of them waits
    for the thread; a module that cannot be imported raises only there. At the end the thread is
    joined.

    Args:
        names: dotted names of the modules.
    """
    thread = threading.Thread(target=_imported, args=names, name="imports")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _imported(*names: str) -> None:
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
