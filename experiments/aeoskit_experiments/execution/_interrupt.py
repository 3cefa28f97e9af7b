"""Ctrl-C as a wish that is granted between chunks."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """While it is entered, the first Ctrl-C only sets a flag; a second one interrupts at once.

    An exception that breaks into a running compiled program tears the chunk at hand, and has been
    seen to crash the process at its exit. Outside of the main thread nothing is changed.

    Example:
        >>> with Interrupt() as interrupt:
        ...     interrupt.wished
        False
    """

    def __init__(self):
        self.wished = False
        # By all processes. Not the wish itself, which may come while they agree and would be lost.
        self.granted = False
        self._before = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._wish)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _wish(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.wished:
            raise KeyboardInterrupt
        self.wished = True

    def grant(self) -> None:
        """Raises `KeyboardInterrupt` if the user's wish was granted."""
        if self.granted:
            raise KeyboardInterrupt
