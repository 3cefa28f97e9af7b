"""What runs the jobs of a ledger: a worker process, or this one."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from aeoskit_experiments.execution import Interrupt, Listener, attempt, attempt_in_worker
from aeoskit_experiments.jobs import JobResult, RunJob, Worker, WorkerDied


@runtime_checkable
class Runner(Protocol):
    """What runs the jobs of a ledger."""

    def run(self, job: RunJob, listener: Listener, interrupt: Interrupt) -> JobResult:
        """Runs one job."""
        ...

    def close(self, *, at_once: bool = False) -> None:
        """Ends whatever was started for the jobs; the one at hand may be cut off if `at_once`."""
        ...


class InProcessRunner:
    """Runs jobs in this process, for tests and debuggers."""

    def run(self, job: RunJob, listener: Listener, interrupt: Interrupt) -> JobResult:
        """Runs one job."""
        del interrupt  # The run has its own.
        return attempt(job, listener)

    def close(self, *, at_once: bool = False) -> None:
        """Does nothing."""


class WorkerRunner:
    """Runs jobs in a worker process: one that brings it down costs only itself.

    Args:
        log: The file for what the worker prints.
    """

    def __init__(self, log: Path):
        self._worker = Worker(log=log)

    def run(self, job: RunJob, listener: Listener, interrupt: Interrupt) -> JobResult:
        """Runs one job."""
        try:
            return self._worker.call(
                attempt_in_worker,
                job,
                on_event=lambda name, *arguments: getattr(listener, name)(*arguments),
                interrupted=lambda: interrupt.wished,
            )
        except WorkerDied as error:
            if interrupt.wished:
                return JobResult(status="interrupted")
            return JobResult(status="failed", error=str(error))

    def close(self, *, at_once: bool = False) -> None:
        """Ends the worker."""
        self._worker.close(at_once=at_once)
