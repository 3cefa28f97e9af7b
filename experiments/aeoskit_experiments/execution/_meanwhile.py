"""Imports that a run needs at its end, beside the programs that it waits for."""

import contextlib
import importlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def imported_meanwhile(*names: str) -> Iterator[None]:
    """Imports modules in a thread of their own.

    The interpreter waits while XLA compiles and computes. Whoever needs one of them earlier imports
    it as ever, and waits; what cannot be imported is missed only there. At the end the thread is
    waited for.

    Args:
        names: dotted.
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
