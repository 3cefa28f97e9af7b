"""A supervisor for each of a run's processes, which reports how it ended.

If jax's runtime is the first to notice that another process has died, it ends this one without
raising in Python. So a child does the work, and the parent, which has no devices, reports.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.jobs._child import start_python

LOST = 3
"""The exit code of a process that lost another one."""

GRACE = 10
"""Seconds that a process has to end after SIGTERM."""

# Variable with the file to which a supervised process writes the path of its record.
_MEMBER = "AEOSKIT_MEMBER"


class ProcessLost(UserError):
    """Another process of the run has ended, so this one cannot continue."""


def lost_sentence(folder: Path | None, why: str) -> str:
    """The error of a process that has ended before the run has.

    >>> lost_sentence(Path("runs/a"), "connection reset")[:44]
    'another process of the run ended (connection'
    """
    record = "no record was started" if folder is None else f"the record, {folder}, ends with the "
    record += "" if folder is None else "last whole chunk"
    return (
        f"another process of the run ended ({why}): {record}; see that process's messages, and "
        "start all of them again"
    )


def is_member() -> bool:
    """True if this process is supervised.

    >>> is_member()
    False
    """
    return _MEMBER in os.environ


def report_record(folder: Path) -> None:
    """Report the path of the record to the supervisor, if there is one."""
    if is_member():
        Path(os.environ[_MEMBER]).write_text(str(folder))


def reserve_stdout() -> None:
    """Reserve standard output for Python: output of C libraries goes to stderr.

    `--json` promises one object there, and gloo prints its connections.
    """
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding)


def supervise(arguments: Sequence[str]) -> tuple[int, str | None]:
    """Run a command line in a child process and report how it ends.

    Args:
        arguments: The arguments of `aeoskit`.

    Returns:
        The exit code, and a sentence if the child was ended by a signal.
    """
    with tempfile.TemporaryDirectory(prefix="aeoskit-") as place:
        record = Path(place) / "record"
        children: list[subprocess.Popen] = []
        # Ctrl-C reaches the child from the terminal; a scheduler's signals are forwarded. Handlers
        # are functions, which a child does not inherit, set before it starts, so that none is
        # missed.
        before = {
            signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: _end(children)),
        }
        try:
            children.append(
                start_python(["-m", "aeoskit_cli", *arguments], environment={_MEMBER: str(record)})
            )
            code = children[0].wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        folder = Path(record.read_text()) if record.exists() else None
    if code >= 0:
        return code, None
    if code == -signal.SIGABRT:
        return LOST, lost_sentence(folder, "jax's runtime ended this one at once")
    name = signal.Signals(-code).name
    where = "" if folder is None else f"; the record, {folder}, ends with the last whole chunk"
    return 128 - code, f"this process of the run was ended by {name}{where}"


def _end(children: list[subprocess.Popen]) -> None:
    """End the child, by force if it ignores the signal."""
    for child in children:
        child.terminate()
        kill = threading.Timer(GRACE, child.kill)
        kill.daemon = True
        kill.start()


def exit_at_once(code: int) -> Any:
    """End this process, which has lost another one: an orderly exit would wait for that one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
