"""The loop of a sweep: it submits jobs, records their results, and stops on Ctrl-C."""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from aeoskit_experiments.execution import Interrupt
from aeoskit_experiments.jobs import OpenExecutor, WorkerDied, one_line
from aeoskit_experiments.sweeps._job import SweepJob
from aeoskit_experiments.sweeps._record import (
    DONE,
    LOGS,
    Job,
    SweepWriter,
    job_name,
    next_attempt,
)

TICK = 1.0
"""Seconds between two polls of the started jobs and the user's request to stop."""

Progress = Callable[[str], None]


def drive(
    writer: SweepWriter,
    opened: OpenExecutor,
    function: Callable[[SweepJob], Mapping[str, Any]],
    progress: Progress,
) -> bool:
    """Run every job that is not done.

    After the first Ctrl-C no job begins, and running ones end after the present chunk; the second
    one ends them at once.

    Args:
        writer: The writer of the sweep, which keeps its file complete.
        opened: The open executor.
        function: The function of a job, `run_job`.
        progress: Called with a sentence about each job that has ended.

    Returns:
        True if the user stopped it, by Ctrl-C or by a file `STOP` in the sweep's folder.
    """
    driver = _Driver(writer, opened, function, progress)
    with Interrupt() as interrupt:
        try:
            driver.submit()
            while driver.waiting:
                driver.look()
                if interrupt.requested and not driver.stopping:
                    driver.stop()
        except KeyboardInterrupt:
            driver.end()
        except BaseException:
            opened.end()
            raise
        finally:
            writer.write()
    return driver.stopping or interrupt.requested or writer.stopped()


class _Driver:
    def __init__(
        self,
        writer: SweepWriter,
        opened: OpenExecutor,
        function: Callable[[SweepJob], Mapping[str, Any]],
        progress: Progress,
    ):
        self._writer = writer
        self._opened = opened
        self._function = function
        self._progress = progress
        self._indices: dict[Future[Any], int] = {}
        self.waiting: set[Future[Any]] = set()
        self.stopping = False

    def submit(self) -> None:
        """Submit the remaining jobs, after recording their folders on disk."""
        pipelines = [run.pipeline for run in self._writer.sweep.pipeline.singles()]
        jobs = [job for job in self._writer.jobs if job.status not in DONE]
        given = [self._begin(job, pipelines[job.index].to_dict()) for job in jobs]
        self._writer.write()
        for job, argument in zip(jobs, given, strict=True):
            try:
                future = self._opened.executor.submit(self._function, argument)
            except Exception as error:  # For example, an executor that accepts no more jobs.
                self._note(job.index, {"status": "failed", "error": one_line(error)})
                continue
            self._indices[future] = job.index
            self.waiting.add(future)

    def _begin(self, job: Job, pipeline: dict[str, Any]) -> SweepJob:
        attempts, name = job.attempts + 1, job_name(job.index, job.settings)
        log = f"{LOGS}/{name}.log" if attempts == 1 else f"{LOGS}/{name}-{attempts}.log"
        sweep = Path(self._writer.path).absolute()
        self._writer.note(
            job.index,
            status="waiting",
            folder=next_attempt(sweep / name).name,  # in case its process dies
            log=log,
            error=None,
            seconds=None,
            attempts=attempts,
            runs=[],
        )
        return SweepJob(pipeline=pipeline, folder=str(sweep / name), log=log)

    def look(self) -> None:
        """Wait briefly, and record the jobs that have ended and started."""
        for future in wait(self.waiting, timeout=TICK, return_when=FIRST_COMPLETED).done:
            self._note(self._indices[future], self._outcome(future))
            self.waiting.discard(future)  # only now, as Ctrl-C may come in between
        self._note_started()
        self._writer.write()

    def _note_started(self) -> None:
        started = self._writer.started_logs()
        jobs = self._writer.jobs
        for index in (self._indices[future] for future in self.waiting):
            if jobs[index].status == "waiting" and jobs[index].log in started:
                self._writer.note(index, status="running")

    def stop(self) -> None:
        """Submit no more jobs, and request running ones to end."""
        self.stopping = True
        self._note_started()
        jobs = self._writer.jobs
        self._writer.stop()
        for future in list(self.waiting):
            # Some executors would drop a running job, whose end has to be recorded.
            if jobs[self._indices[future]].status == "waiting" and future.cancel():
                self.waiting.discard(future)
        self._progress(
            f"stopping: {len(self.waiting)} jobs end after the present chunk "
            "(Ctrl-C again ends them at once)"
        )

    def end(self) -> None:
        """End running jobs at once."""
        self.stopping = True
        self._writer.stop()
        self._note_started()
        self._opened.end()
        jobs = self._writer.jobs
        for future in self.waiting:
            index = self._indices[future]
            found = self._outcome(future) if future.done() else {"status": "interrupted"}
            if found["status"] in DONE:
                self._note(index, found)
            elif jobs[index].status == "running":
                self._note(index, {"status": "interrupted"})

    def _outcome(self, future: Future[Any]) -> Mapping[str, Any]:
        """The result of a future that is done, or the reason why it has none."""
        if future.cancelled():
            if self.stopping:
                return {"status": "waiting"}
            return {"status": "failed", "error": "the executor dropped it: check its scheduler"}
        error = future.exception()
        if error is None:
            return future.result()
        why = str(error) if isinstance(error, WorkerDied) else one_line(error)
        return {"status": "failed", "error": why}

    def _note(self, index: int, found: Mapping[str, Any]) -> None:
        job = self._writer.note(index, **found)
        if job.folder is not None and not (self._writer.path / job.folder).exists():
            job = self._writer.note(index, folder=None)
        if job.status == "waiting":
            return
        left = sum(job.status in ("waiting", "running") for job in self._writer.jobs)
        took = "" if job.seconds is None else f" in {job.seconds:.1f} s"
        why = f": {job.error}" if job.error else ""
        self._progress(f"{job.label} {job.status}{took}{why} ({left} to go)")
