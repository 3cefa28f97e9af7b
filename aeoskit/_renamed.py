"""Old public names, which name the new one for one version."""

import opcode
import sys
from collections.abc import Callable
from typing import Any


def renamed(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Makes the `__getattr__` of a module some of whose names have changed.

    Args:
        module: the module's `__name__`.
        names: from old names to new ones, with their module where that is another one.

    Returns:
        The function, which raises an `AttributeError`, in `from ... import` an `ImportError`:
        "... is ... now".

    Example:
        >>> renamed("aeoskit.sharding", {"lie_like": "place_like"})("lie_like")
        Traceback (most recent call last):
        ...
        AttributeError: aeoskit.sharding.lie_like is place_like now
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        frame = sys._getframe(1)
        # Between us and the caller are frames of the package, and of its type checks in tests.
        while frame.f_back is not None and _is_between(str(frame.f_globals.get("__name__"))):
            frame = frame.f_back
        # `from module import name` hides the text of an AttributeError.
        importing = frame.f_code.co_code[frame.f_lasti] == opcode.opmap["IMPORT_FROM"]
        error = ImportError if importing else AttributeError
        raise error(f"{module}.{name} is {names[name]} now")

    return getattr_


def _is_between(module: str) -> bool:
    return module.partition(".")[0] in ("aeoskit", "jaxtyping", "beartype")
