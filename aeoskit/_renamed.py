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
        The function, which raises an `AttributeError`: "... is ... now".

    Example:
        >>> renamed("aeoskit.sharding", {"lie_like": "place_like"})("lie_like")
        Traceback (most recent call last):
        ...
        AttributeError: aeoskit.sharding.lie_like is place_like now
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        # `from module import name` hides the text of an AttributeError.
        frame = sys._getframe(1)
        # Between us and the caller are frames of the package, and of its type checks in tests.
        while frame.f_back is not None and _is_between(str(frame.f_globals.get("__name__"))):
            frame = frame.f_back
        importing = frame.f_globals.get("__name__") == "importlib._bootstrap"
        error = ImportError if importing else AttributeError
        raise error(f"{module}.{name} is {names[name]} now")

    return getattr_


def _is_between(module: str) -> bool:
    return module.partition(".")[0] in ("aeoskit", "jaxtyping", "beartype")
