"""The rooms that need more than `pip install aeoskit` brings."""

import contextlib
import importlib.util
from collections.abc import Iterator


@contextlib.contextmanager
def extra_needed(room: str, *modules: str) -> Iterator[None]:
    """Check, before a room's imports, that the modules that it needs are installed.

    Raises:
        ImportError: If one is not, in one sentence that names the extra.
    """
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    if absent:
        raise ImportError(
            f"{room} needs {', '.join(absent)}, not installed here: "
            "pip install 'aeoskit[experiments]'",
            name=room,
        )
    yield
