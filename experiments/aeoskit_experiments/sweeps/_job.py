"""One job, where it runs: plain data in, an ordinary run's folder and plain data out."""

import os
import socket
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO, TypedDict

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import Pipeline
from aeoskit_experiments.sweeps._record import FILE, STOP, next_attempt

_QUIET_SECONDS = 5


class Task(TypedDict):
    """What a job needs to know: no objects, so that any engine can carry it.

    Attributes:
        pipeline: Its pipeline, as `Pipeline.to_dict` has it.
        sweep: The sweep's folder, absolute.
        name: What its run's folder is called, in the sweep's.
        log: Its log's file, relative to the sweep's folder.
    """

    pipeline: dict[str, Any]
    sweep: str
    name: str
    log: str


def run_job(task: Task) -> dict[str, Any]:
    """Run a job and say how it ended; only what ends the whole process is not caught.

    Args:
        task: What to do.

    Returns:
        `status`, with `folder`, `runs`, `seconds` and `error` as in `Job`, where there are any;
        "waiting" if the sweep was stopped before it began.
    """
    begun = time.perf_counter()
    sweep = Path(task["sweep"])
    if not (sweep / FILE).is_file():
        return _failed(
            f"{socket.gethostname()} does not see {sweep}: "
            "a sweep's folder must be on a filesystem that all of its workers share"
        )
    if (sweep / STOP).exists():
        return {"status": "waiting"}
    folder = next_attempt(sweep / task["name"])
    with open(sweep / task["log"], "a", buffering=1) as file:
        where = f"process {os.getpid()} of {socket.gethostname()}"
        print(time.strftime("%Y-%m-%d %H:%M:%S"), f"{folder.name}: {where}", file=file)
        try:
            found = _run(task["pipeline"], folder, _Log(file, sweep / STOP))
        except KeyboardInterrupt:
            found = {"status": "interrupted"}
        except UserError as error:
            found = _failed(str(error))
        except Exception as error:
            traceback.print_exc(file=file)
            found = _failed(one_line(error))
        if folder.exists():
            found["folder"] = folder.name
        print(f"{found['status']}: {found.get('error') or folder.name}", file=file)
    return {**found, "seconds": time.perf_counter() - begun}


def one_line(error: BaseException) -> str:
    r"""An exception in one line.

    >>> one_line(ValueError("no\nmore"))
    'ValueError: no'
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    return f"{name}: {lines[0].strip()}" if lines else name


def _failed(error: str) -> dict[str, Any]:
    return {"status": "failed", "error": error}


def _run(pipeline: Mapping[str, Any], folder: Path, listener: "_Log") -> dict[str, Any]:
    # Here, since they import jax: a worker is given its share of the machine before.
    from aeoskit.record import to_json_safe
    from aeoskit_experiments.execution import execute
    from aeoskit_experiments.execution._room import make_room

    make_room()  # The jobs before this one in the same process have left their programs.
    outcome = execute(Pipeline.from_dict(pipeline), folder=folder, listener=listener)
    return {"status": outcome.status, "runs": to_json_safe(outcome.summary)["runs"]}


class _Log:
    """A listener that writes a line every few seconds, and ends the run when the sweep is stopped.

    A file is what every engine can be told by, wherever its workers are.
    """

    def __init__(self, file: TextIO, stop: Path):
        self._file = file
        self._stop = stop
        self._told = 0.0

    def started(self, what: str, steps: int) -> None:
        print(f"{what}: {steps} steps", file=self._file)
        self._heed()

    def advanced(self, what: str, done: int, shown: Mapping[str, float]) -> None:
        if time.monotonic() - self._told > _QUIET_SECONDS:
            self._told = time.monotonic()
            said = "  ".join(f"{name} {value:.3g}" for name, value in shown.items())
            print(f"{what}: step {done}  {said}", file=self._file)
        self._heed()

    def finished(self, what: str) -> None:
        print(f"{what}: ended", file=self._file)

    def noted(self, message: str) -> None:
        print(message, file=self._file)

    def _heed(self) -> None:
        if self._stop.exists():
            raise KeyboardInterrupt
