"""The loop of a sweep: it submits jobs, notes what comes back, and stops on Ctrl-C."""

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
"""Seconds between two looks at which jobs have started, and whether the user wants to stop."""

Progress = Callable[[str], None]


def drive(
    writer: SweepWriter,
    opened: OpenExecutor,
    function: Callable[[SweepJob], Mapping[str, Any]],
    progress: Progress,
) -> bool:
    """Runs every job that is not done.

    After the first Ctrl-C no job begins, and those that run end after the chunk at hand; the second
    one ends them at once.

    Args:
        writer: The sweep, which is kept whole on the disk.
        opened: Where jobs are submitted.
        function: What a job does, `run_job`.
        progress: Gets a sentence about each job that has ended.

    Returns:
        Whether the user stopped it, by Ctrl-C or by a file `STOP` in the sweep's folder.
    """
    driver = _Driver(writer, opened, function, progress)
    with Interrupt() as interrupt:
        try:
            driver.submit()
            while driver.waiting:
                driver.look()
                if interrupt.wished and not driver.stopping:
                    driver.stop()
        except KeyboardInterrupt:
            driver.end()
        except BaseException:
            opened.end()
            raise
        finally:
            writer.write()
    return driver.stopping or interrupt.wished or writer.stopped()


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
        """Submits what is not done, after noting on the disk where each of it will be."""
        pipelines = [run.pipeline for run in self._writer.sweep.pipeline.singles()]
        jobs = [job for job in self._writer.jobs if job.status not in DONE]
        given = [self._begin(job, pipelines[job.index].to_dict()) for job in jobs]
        self._writer.write()
        for job, argument in zip(jobs, given, strict=True):
            try:
                future = self._opened.executor.submit(self._function, argument)
            except Exception as error:  # An executor that takes no more, say.
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
        """Waits a little, and notes what has ended and what has started."""
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
        """Submits no more, and asks what runs to end."""
        self.stopping = True
        self._note_started()
        jobs = self._writer.jobs
        self._writer.stop()
        for future in list(self.waiting):
            # Some engines would let go of a job that runs, whose end is to be seen.
            if jobs[self._indices[future]].status == "waiting" and future.cancel():
                self.waiting.discard(future)
        self._progress(
            f"stopping: {len(self.waiting)} jobs end after the chunk at hand "
            "(Ctrl-C again ends them at once)"
        )

    def end(self) -> None:
        """Ends what runs, at once."""
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
        """The result of a future that is done, or why it has none."""
        if future.cancelled():
            if self.stopping:
                return {"status": "waiting"}
            return {"status": "failed", "error": "the executor gave it up: does its scheduler run?"}
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
