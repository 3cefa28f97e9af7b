"""A sweep: each combination of a pipeline's values is an ordinary run, on any executor."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import msgspec

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.jobs import EXECUTORS, Engine, open_executor
from aeoskit_experiments.parts import Code, check_shareable, check_trusted, trust_stored
from aeoskit_experiments.pipelines import Pipeline, Store
from aeoskit_experiments.sweeps._drive import Progress, drive
from aeoskit_experiments.sweeps._job import run_job
from aeoskit_experiments.sweeps._record import (
    DONE,
    FILE,
    LOGS,
    SUBMITTED,
    Job,
    Sweep,
    SweepWriter,
    create_sweep,
    read_sweep,
)


@dataclasses.dataclass(frozen=True)
class SweepOutcome:
    """The result of `sweep`.

    Args:
        folder: The sweep's folder.
        summary: The object that the command line prints and `--json` gives: `name`, `status`,
            `folder`, `seconds`, `jobs` (each as a `Job`, without its numbers) and `runs` (the
            numbers of each job's runs, with `job`, `status` and the swept values).
        status: "finished", "failed" (a job did), "interrupted" or "diverged" (every run).
        exit_code: 0; 1 if a job failed or every run diverged; 130 if the user stopped it.
    """

    folder: Path
    summary: dict[str, Any]
    status: str
    exit_code: int


def sweep(
    pipeline: Pipeline,
    *,
    executor: Executor | str = "processes",
    workers: int | None = None,
    address: str | None = None,
    slurm: Mapping[str, int | str] | None = None,
    root: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> SweepOutcome:
    """Run every combination of a pipeline's values as a separate run.

    `execute` trains the values of hyperparameters side by side in one program on one machine; this
    makes each combination a job, so that they can be spread over machines. A job that fails is
    reported and the rest continues.

    Args:
        pipeline: A value of `pipe`, or of a recipe; its lists of values are the sweep.
        executor: "processes", "dask" or "submitit", or your own executor, which stays open. Its
            workers must see the sweep's folder.
        workers: For "processes", their number (if None one per GPU, or one per core); for
            "submitit", the number of jobs that SLURM runs at a time.
        address: For "dask", the address of its scheduler.
        slurm: For "submitit", the request to SLURM: `time` in minutes, `partition`, ….
        root: The folder of runs, instead of the pipeline's own.
        folder: The sweep's own folder. If it has this sweep already, the sweep is resumed: finished
            jobs do not run again.
        progress: Called with a sentence about each job that has ended.

    Returns:
        A `SweepOutcome`; the folder has `sweep.json`, logs, and each job's run.

    Raises:
        UserError: For bad input, before any work; nothing is left behind.

    Example:
        >>> from aeoskit_experiments.recipes import make_recipe
        >>> sweep(make_recipe("adam-edge"), executor="dusk")
        Traceback (most recent call last):
          ...
        aeoskit_experiments._errors.UserError: unknown executor 'dusk': did you mean 'dask'? ...
    """
    engine, brought = _engine(executor, workers, address, slurm)
    pipeline = pipeline.inherited()
    pipeline.experiment()  # The whole is checked before anything is created.
    check_trusted(pipeline.code())
    check_shareable(pipeline.code())
    store = pipeline.declared().store or Store()
    place = folder if folder is not None else (store.folder if root is None else None)
    if place is not None and (Path(place) / FILE).exists():
        stored = read_sweep(place)
        if stored.pipeline != pipeline:
            raise UserError(
                f"{place} holds another sweep: choose a new folder, or show that sweep with "
                f"`aeoskit sweep --resume {place}`"
            )
        writer = SweepWriter(stored)
    else:
        writer = create_sweep(
            pipeline, engine, root=root if root is not None else store.root, folder=place
        )
    return _run(writer, engine, brought, progress)


def resume_sweep(
    folder: str | os.PathLike[str],
    *,
    executor: Executor | str | None = None,
    workers: int | None = None,
    address: str | None = None,
    slurm: Mapping[str, int | str] | None = None,
    progress: Progress | None = None,
    allow_code: bool | Callable[[str, Code], bool] = False,
) -> SweepOutcome:
    """Run the jobs of a stored sweep that failed or did not finish; if none is left, summarize it.

    Args:
        folder: The sweep's folder.
        executor: As in `sweep`; if None, the previous one, with the same settings.
        workers: As in `sweep`.
        address: As in `sweep`.
        slurm: As in `sweep`.
        progress: As in `sweep`.
        allow_code: Whether users' own parts may run even if they have not run here before, or a
            function that decides for each.

    Returns:
        A `SweepOutcome`.

    Raises:
        UserError: If there is no such sweep, the executor is not available, or it has code that may
            not run.
    """
    stored = read_sweep(folder)
    trust_stored(stored.pipeline.code(), allow=allow_code)
    if executor is not None:
        engine, brought = _engine(executor, workers, address, slurm)
    else:
        if stored.engine.name not in EXECUTORS:
            raise UserError(
                f"{folder} ran on the caller's own executor, {stored.engine.name}: "
                f"name one of {', '.join(EXECUTORS)}"
            )
        given = {"workers": workers, "address": address, "slurm": slurm and dict(slurm)}
        changes = {name: value for name, value in given.items() if value is not None}
        engine, brought = msgspec.structs.replace(stored.engine, **changes), None
        engine.check()
    return _run(SweepWriter(stored), engine, brought, progress)


def _engine(
    executor: Executor | str,
    workers: int | None,
    address: str | None,
    slurm: Mapping[str, int | str] | None,
) -> tuple[Engine, Executor | None]:
    if isinstance(executor, Executor):
        return Engine(name=type(executor).__name__), executor
    engine = Engine(name=executor, workers=workers, address=address, slurm=dict(slurm or {}))
    engine.check()
    return engine, None


def _run(
    writer: SweepWriter, engine: Engine, brought: Executor | None, progress: Progress | None
) -> SweepOutcome:
    begun = time.perf_counter()
    report = progress or (lambda sentence: None)
    stopped = False
    with writer.lock():
        writer.take_in()
        left = [job for job in writer.jobs if job.status not in DONE]
        if left:
            report(f"{len(left)} of {len(writer.jobs)} jobs to run, in {writer.path}")
            with contextlib.ExitStack() as stack:
                try:
                    executor = stack.enter_context(
                        open_executor(
                            engine,
                            brought,
                            logs=writer.path / LOGS,
                            submitted=writer.path / SUBMITTED,
                            jobs=len(left),
                        )
                    )
                except BaseException:
                    writer.discard()
                    raise
                writer.use(engine)
                stopped = drive(writer, executor, run_job, report)
        writer.write()
    return _outcome(writer, stopped, time.perf_counter() - begun)


def _outcome(writer: SweepWriter, stopped: bool, seconds: float) -> SweepOutcome:
    sweep = msgspec.structs.replace(writer.sweep, jobs=tuple(writer.jobs))
    status = sweep_status(sweep.jobs)
    if status not in DONE:
        status = "interrupted" if stopped else "failed"
    summary = {**sweep_summary(sweep), "status": status, "seconds": seconds}
    code = {"finished": 0, "failed": 1, "diverged": 1, "interrupted": 130}[status]
    return SweepOutcome(writer.path, summary, status, code)


def sweep_status(jobs: Iterable[Job]) -> str:
    """The status of a sweep: "finished", "diverged" (every job), "interrupted", "open" or "failed".

    Args:
        jobs: Its jobs; if some have not ended, it is open.

    Returns:
        The status.

    >>> sweep_status([Job(index=0, settings={}, status="finished"), Job(index=1, settings={})])
    'open'
    """
    found = {job.status for job in jobs}
    if found <= set(DONE):
        return "diverged" if found == {"diverged"} else "finished"
    for status, signs in (("interrupted", {"interrupted"}), ("open", {"waiting", "running"})):
        if found & signs:
            return status
    return "failed"


def sweep_summary(sweep: Sweep) -> dict[str, Any]:
    """The numbers of a sweep as they are now: what `aeoskit sweep` prints.

    Args:
        sweep: The value of `read_sweep`.

    Returns:
        Its name, status, folder, `jobs`, and `runs`, a row for each run with its job's status.
    """
    singles = sweep.pipeline.singles()
    return {
        "name": sweep.name,
        "status": sweep_status(sweep.jobs),
        "folder": str(sweep.path),
        "jobs": [
            {key: value for key, value in msgspec.to_builtins(job).items() if key != "runs"}
            for job in sweep.jobs
        ],
        "runs": [
            {"job": job.index, "status": job.status, **job.settings, **row}
            for job in sweep.jobs
            for row in job.runs or [_unmeasured(singles[job.index].pipeline)]
        ],
    }


def _unmeasured(pipeline: Pipeline) -> dict[str, Any]:
    """A run's row before it has numbers."""
    optimizer = pipeline.declared().optimizer
    assert optimizer is not None  # ensured by Pipeline.experiment
    name = optimizer.settings.get("transform") or optimizer.variant
    return {"branch": "main", "optimizer": name}
