"""Progress on stderr: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any


class Progress:
    """A listener of `execute`; a context, so that the bar is gone when something is raised.

    Args:
        quiet: Whether only notes (a divergence, say) are told.
    """

    def __init__(self, *, quiet: bool = False):
        self._quiet = quiet
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._steps: dict[str, int] = {}
        self._told = 0.0
        self._untold: dict[str, str] = {}

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is KeyboardInterrupt:  # of one that `execute` turned into a record, it tells
            print("stopped", file=sys.stderr)

    def started(self, what: str, steps: int) -> None:
        """A run begins."""
        self._steps[what] = steps
        self._untold.pop(what, None)
        if self._quiet:
            return
        if not sys.stderr.isatty():
            print(f"{what}: {steps} steps", file=sys.stderr, flush=True)
            self._told = time.monotonic()
            return
        if self._bar is None:
            self._bar = _make_bar()
            self._bar.start()
        self._tasks[what] = self._bar.add_task(what, total=steps, shown="compiling")

    def advanced(self, what: str, done: int, shown: Mapping[str, float]) -> None:
        """A chunk is done."""
        said = "  ".join(f"{name} {value:.3g}" for name, value in shown.items())
        if what in self._tasks:
            self._bar.update(self._tasks[what], completed=done, shown=said)
        elif not self._quiet:
            # In a log file, a line every few seconds says that it lives.
            self._untold[what] = f"{what}: step {done}/{self._steps[what]}  {said}"
            if time.monotonic() - self._told > 5:
                self._tell(what)

    def finished(self, what: str) -> None:
        """The run has ended, perhaps before its last step."""
        if what in self._tasks:
            self._bar.stop_task(self._tasks[what])
        elif what in self._untold:
            self._tell(what)

    def _tell(self, what: str) -> None:
        self._told = time.monotonic()
        print(self._untold.pop(what), file=sys.stderr, flush=True)

    def noted(self, message: str) -> None:
        """Something that the user should see."""
        if self._bar is not None:
            self._bar.console.print(message, highlight=False, markup=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def said(self, message: str, style: str = "") -> None:
        """A line that stays, unless it is to be quiet."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(message, highlight=False, markup=False, style=style)
        elif sys.stderr.isatty():
            _console().print(message, highlight=False, markup=False, style=style)
        else:
            print(message, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Forget the runs so far; their bars go."""
        for task in self._tasks.values():
            self._bar.remove_task(task)
        self._tasks.clear()
        self._untold.clear()


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _make_bar() -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}", markup=False),
        TimeElapsedColumn(),
        console=_console(),
        # What is printed to stdout during the bar must not be taken over by it.
        redirect_stdout=False,
    )
