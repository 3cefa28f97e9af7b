"""Listeners to the progress of runs."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Listener(Protocol):
    """A listener, called on the host between chunks, never inside compiled code."""

    def started(self, what: str, steps: int) -> None:
        """A run begins: its name (branch, group) and its largest number of steps."""

    def advanced(self, what: str, done: int, shown: Mapping[str, float | str]) -> None:
        """A chunk has finished: steps so far, and a few numbers of its last row, or words."""

    def finished(self, what: str) -> None:
        """The run has ended."""

    def noted(self, message: str) -> None:
        """A message for the user: a divergence, a branch that did not start."""


class SilentListener:
    """A listener that does nothing.

    Example:
        >>> SilentListener().noted("discarded")
    """

    def started(self, what: str, steps: int) -> None: ...

    def advanced(self, what: str, done: int, shown: Mapping[str, float | str]) -> None: ...

    def finished(self, what: str) -> None: ...

    def noted(self, message: str) -> None: ...


def shown_text(shown: Mapping[str, float | str]) -> str:
    """The numbers and words of `advanced` on one line.

    >>> shown_text({"loss": 0.1234, "state": "arriving"})
    'loss 0.123  state arriving'
    """
    return "  ".join(
        f"{name} {value if isinstance(value, str) else format(value, '.3g')}"
        for name, value in shown.items()
    )
