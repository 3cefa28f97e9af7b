"""Old public names, which name the new one for one version."""

import sys
from collections.abc import Callable
from typing import Any


def renamed(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Makes the `__getattr__` of a module some of whose names have changed.

    Args:
        module: the module's `__name__`.
        names: from old names to new ones, with their module where that is another one.

    Returns:
        The function, which raises an `AttributeError`: "... was renamed to ...".

    Example:
        >>> renamed("aeoskit.sharding", {"lie_like": "place_like"})("lie_like")
        Traceback (most recent call last):
        ...
        AttributeError: aeoskit.sharding.lie_like was renamed to place_like
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        # `from module import name` hides the text of an AttributeError.
        frame, importing = sys._getframe(1), False
        while frame is not None and not importing:
            importing = frame.f_globals.get("__name__") == "importlib._bootstrap"
            frame = frame.f_back if frame.f_globals.get("__name__") == module else None
        error = ImportError if importing else AttributeError
        raise error(f"{module}.{name} was renamed to {names[name]}")

    return getattr_
