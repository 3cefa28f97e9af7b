"""One job of a sweep, in its process: plain data in; a run's folder and plain data out."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import msgspec

from aeoskit_experiments.execution import attempt, shown_text
from aeoskit_experiments.jobs import RunJob
from aeoskit_experiments.sweeps._record import FILE, STOP, next_attempt

_QUIET_SECONDS = 5


class SweepJob(RunJob, frozen=True, kw_only=True):
    """The argument of a job of a sweep.

    Args:
        pipeline: The value of `Pipeline.to_dict`.
        folder: The absolute path of its run's first attempt, in the sweep's folder.
        log: Its log file, relative to the sweep's folder.
    """

    log: str

    @property
    def sweep(self) -> Path:
        """The sweep's folder."""
        return Path(self.folder).parent

    @property
    def name(self) -> str:
        """The name of the folder of its run's first attempt."""
        return Path(self.folder).name


def run_job(job: SweepJob) -> dict[str, Any]:
    """Run a job and report how it ended; only exceptions that end the process are not caught.

    Args:
        job: The job.

    Returns:
        `status`, with `folder`, `runs`, `seconds` and `error` as in `Job`, if there are any;
        "waiting" if the sweep was stopped before it began.
    """
    begun = time.perf_counter()
    if not (job.sweep / FILE).is_file():
        return {
            "status": "failed",
            "error": f"{socket.gethostname()} does not see {job.sweep}: "
            "a sweep's folder must be on a filesystem that all of its workers share",
        }
    if (job.sweep / STOP).exists():
        return {"status": "waiting"}
    folder = next_attempt(Path(job.folder))
    with open(job.sweep / job.log, "a", buffering=1) as file:
        where = f"process {os.getpid()} of {socket.gethostname()}"
        print(time.strftime("%Y-%m-%d %H:%M:%S"), f"{folder.name}: {where}", file=file)
        run = msgspec.structs.replace(job, folder=str(folder))
        result = attempt(run, LogListener(file, job.sweep / STOP), log=file)
        # A job that cannot run counts as failed.
        status = "failed" if result.status == "refused" else result.status
        print(f"{status}: {result.error or folder.name}", file=file)
    found: dict[str, Any] = {"status": status, "error": result.error, "runs": result.runs}
    found |= {"folder": folder.name if folder.exists() else None}
    found |= {"seconds": time.perf_counter() - begun}
    return {name: value for name, value in found.items() if value}


class LogListener:
    """A listener that logs a line every few seconds, and ends the run when the sweep is stopped.

    A file stops it, since every executor shares files with its workers.

    Args:
        log: The log file.
        stop: The file that stops it.
    """

    def __init__(self, log: TextIO, stop: Path):
        self._log = log
        self._stop = stop
        self._logged = 0.0

    def started(self, what: str, steps: int) -> None:
        print(f"{what}: {steps} steps", file=self._log)
        self._end_if_stopped()

    def advanced(self, what: str, done: int, shown: Mapping[str, float | str]) -> None:
        if time.monotonic() - self._logged > _QUIET_SECONDS:
            self._logged = time.monotonic()
            print(f"{what}: step {done}  {shown_text(shown)}", file=self._log)
        self._end_if_stopped()

    def finished(self, what: str) -> None:
        print(f"{what}: ended", file=self._log)

    def noted(self, message: str) -> None:
        print(message, file=self._log)

    def _end_if_stopped(self) -> None:
        if self._stop.exists():
            raise KeyboardInterrupt
