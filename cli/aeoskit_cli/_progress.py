"""Progress on stderr: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from aeoskit_experiments.execution import shown_text


class Progress:
    """A listener of `execute`, and a context that removes the bar if something is raised.

    Args:
        quiet: Whether only notes (about a divergence, for example) are printed.
    """

    def __init__(self, *, quiet: bool = False):
        self._quiet = quiet
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._steps: dict[str, int] = {}
        self._last_report = 0.0
        self._pending: dict[str, str] = {}

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
        if kind is KeyboardInterrupt:  # `execute` reports one that it turned into a record
            print("stopped", file=sys.stderr)

    def started(self, what: str, steps: int) -> None:
        """A run begins."""
        self._steps[what] = steps
        self._pending.pop(what, None)
        if self._quiet:
            return
        if not sys.stderr.isatty():
            print(f"{what}: {steps} steps", file=sys.stderr, flush=True)
            self._last_report = time.monotonic()
            return
        if self._bar is None:
            self._bar = _make_bar()
            self._bar.start()
        self._tasks[what] = self._bar.add_task(what, total=steps, shown="compiling")

    def advanced(self, what: str, done: int, shown: Mapping[str, float | str]) -> None:
        """A chunk has finished."""
        numbers = shown_text(shown)
        if what in self._tasks:
            self._bar.update(self._tasks[what], completed=done, shown=numbers)
        elif not self._quiet:
            # In a log file, a line every few seconds shows that it is alive.
            self._pending[what] = f"{what}: step {done}/{self._steps[what]}  {numbers}"
            if time.monotonic() - self._last_report > 5:
                self._report(what)

    def finished(self, what: str) -> None:
        """The run has ended, perhaps before its last step."""
        if what in self._tasks:
            self._bar.stop_task(self._tasks[what])
        elif what in self._pending:
            self._report(what)

    def _report(self, what: str) -> None:
        self._last_report = time.monotonic()
        print(self._pending.pop(what), file=sys.stderr, flush=True)

    def noted(self, message: str) -> None:
        """A message for the user."""
        if self._bar is not None:
            self._bar.console.print(message, highlight=False, markup=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def print_line(self, message: str, style: str = "") -> None:
        """Print a permanent line, unless quiet."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(message, highlight=False, markup=False, style=style)
        elif sys.stderr.isatty():
            _console().print(message, highlight=False, markup=False, style=style)
        else:
            print(message, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the bars of the runs so far."""
        for task in self._tasks.values():
            self._bar.remove_task(task)
        self._tasks.clear()
        self._pending.clear()


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
        # The bar must not capture output to stdout.
        redirect_stdout=False,
    )
