"""Who wants to hear how a run goes on."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Listener(Protocol):
    """Is told on the host, between chunks; never from inside compiled code."""

    def started(self, what: str, steps: int) -> None:
        """A run begins: its name (branch, group) and how many steps it will take at most."""

    def advanced(self, what: str, done: int, shown: Mapping[str, float]) -> None:
        """A chunk is done: steps so far, and a few numbers of its last row."""

    def finished(self, what: str) -> None:
        """The run has ended."""

    def noted(self, message: str) -> None:
        """Something that the user should see: a divergence, a branch that did not start."""


class Silent:
    """A listener that says nothing.

    Example:
        >>> Silent().noted("no one hears this")
    """

    def started(self, what: str, steps: int) -> None: ...

    def advanced(self, what: str, done: int, shown: Mapping[str, float]) -> None: ...

    def finished(self, what: str) -> None: ...

    def noted(self, message: str) -> None: ...
