"""Ctrl-C as a request that takes effect between chunks."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """A context in which the first Ctrl-C only sets a flag; a second one interrupts at once.

    An exception inside a running compiled program loses the present chunk, and can crash the
    process at its exit. Outside of the main thread nothing changes.

    Example:
        >>> with Interrupt() as interrupt:
        ...     interrupt.requested
        False
    """

    def __init__(self):
        self.requested = False
        # Agreed by all processes. Not the request itself, which may arrive during the agreement.
        self.accepted = False
        self._before = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def raise_if_accepted(self) -> None:
        """Raise `KeyboardInterrupt` if the user's request was accepted."""
        if self.accepted:
            raise KeyboardInterrupt
