"""Child Python processes: their import path, and their end with the parent's."""

import contextlib
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

# Variable with the descriptor whose other end only the parent holds.
_LIFELINE = "AEOSKIT_PARENT"


def start_python(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str | None] | None = None,
    descriptors: Sequence[int] = (),
    **options: Any,
) -> subprocess.Popen[Any]:
    """Start a child that runs this Python and imports nothing from the working directory.

    It imports what this process can import, and ends with this process if it calls `watch_parent`.

    Args:
        arguments: The arguments of `python`.
        environment: Variables that differ from those of this process; None removes one.
        descriptors: File descriptors that the child inherits in addition to the standard ones.
        **options: Options of `subprocess.Popen`.

    Returns:
        The child.

    Example:
        >>> start_python(["-c", "import msgspec"]).wait()
        0
    """
    lifeline = _lifeline(os.getpid())
    variables = {**os.environ, **(environment or {})}
    variables |= {"PYTHONPATH": _import_path(), _LIFELINE: str(lifeline)}
    return subprocess.Popen(
        [sys.executable, "-P", *arguments],
        env={name: value for name, value in variables.items() if value is not None},
        pass_fds=(lifeline, *descriptors),
        **options,
    )


def watch_parent() -> None:
    """End this process as soon as the one that started it has ended, for any reason.

    It has no effect outside of a child of `start_python`.
    """
    descriptor = os.environ.pop(_LIFELINE, None)
    if descriptor is not None:
        threading.Thread(target=_end_with, args=(int(descriptor),), daemon=True).start()


def _end_with(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.read(descriptor, 1)  # Nothing is ever written: it returns when the parent has ended.
        os._exit(1)


@functools.cache
def _lifeline(process: int) -> int:
    """The end of a pipe for children; the other end closes with this process."""
    del process  # A forked process has another pipe.
    ours, _ = os.pipe()
    return ours


def _import_path() -> str:
    """The import path of this process.

    Python may have put the working directory there itself; it is used only if the user named it.
    """
    here = os.path.realpath(os.curdir)
    named = _absolute(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(
        path for path in _absolute(sys.path) if path in named or os.path.realpath(path) != here
    )


def _absolute(paths: Sequence[str]) -> list[str]:
    return [os.path.abspath(path) for path in paths if path]
