"""Old public names, which work for one version."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str], stacklevel: int = 2) -> Callable[[str], Any]:
    """Make the `__getattr__` of a module with renamed names: an old name warns.

    New names have their module where that is another one.

    >>> renamed("math", {"squareroot": "sqrt"})("cuberoot")
    Traceback (most recent call last):
    AttributeError: module 'math' has no attribute 'cuberoot'
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{name} is called {names[name]} now", DeprecationWarning, stacklevel=stacklevel
        )
        home, _, new = names[name].rpartition(".")
        return getattr(importlib.import_module(home or module), new)

    return getattr_
