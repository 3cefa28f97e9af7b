"""aeoskit: neural network training at the adaptive edge of stability, measured in JAX.

What a user's own training code needs is here (`_public.py` has the list), loaded when a first name
is asked for, so that `import aeoskit`, and each room by itself, costs what it uses.
`aeoskit.record` and `aeoskit.figures` are imported by name, and come with `aeoskit[experiments]`.
"""

import typing as _typing
from importlib.metadata import version as _version

__version__ = _version("aeoskit")

if _typing.TYPE_CHECKING:
    from ._public import *  # noqa: F403 (the list stands once)
else:

    def _load() -> None:
        from . import _public

        globals().update({name: it for name, it in vars(_public).items() if name[0] != "_"})

    def __getattr__(name: str) -> object:
        if name[0] != "_":
            _load()
            if name in globals():
                return globals()[name]
            _refuse_moved(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def _refuse_moved(name: str) -> None:
        """For one version, names the room of what stood here."""
        rooms = ("linalg", "objective", "optimizers", "probes", "stability", "trajectory")
        # A room that is being imported is asked for here first.
        for room in rooms if {*rooms} <= globals().keys() else ():
            if hasattr(globals()[room], name):
                from ._renamed import renamed

                renamed(__name__, {name: f"{__name__}.{room}.{name}"})(name)

    def __dir__() -> list[str]:
        _load()
        return sorted(globals())
