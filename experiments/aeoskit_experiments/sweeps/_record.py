"""A sweep on disk: `sweep.json`, always complete, beside the folders of its runs."""

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.jobs import LOCK, Engine, locked
from aeoskit_experiments.options import Scalar, spell
from aeoskit_experiments.pipelines import Pipeline

FILE = "sweep.json"
STOP = "STOP"
LOGS = "logs"
SUBMITTED = "slurm"
FORMAT = 1

Status = Literal["waiting", "running", "finished", "diverged", "failed", "interrupted"]
DONE = ("finished", "diverged")
"""A run that diverged counts as done: it would diverge again."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a sweep, and its status.

    Args:
        index: Its index, from 0.
        settings: The swept values, by name.
        status: Its status; "finished" and "diverged" are not run again.
        folder: Its run's folder, relative to the sweep's; the last one of several attempts; None
            before the first.
        log: Its log file, relative to the sweep's folder; None before it started.
        error: The reason why it failed, in one line.
        seconds: Its duration, on the machine where it ran.
        attempts: Number of submissions.
        runs: The numbers of its main run and branches, as in the run's own summary.
    """

    index: int
    settings: dict[str, Scalar]
    status: Status = "waiting"
    folder: str | None = None
    log: str | None = None
    error: str | None = None
    seconds: float | None = None
    attempts: int = 0
    runs: list[dict[str, Any]] = []

    @property
    def label(self) -> str:
        """Its name in messages.

        >>> Job(index=2, settings={"lr": 0.01, "batch": None}).label
        'job 2 (lr 0.01, batch none)'
        """
        values = ", ".join(f"{name} {spell(value)}" for name, value in self.settings.items())
        return f"job {self.index} ({values})" if values else f"job {self.index}"


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a `sweep.json`.

    Args:
        path: Its folder.
        name: The pipeline's name.
        created: Local time, ISO 8601.
        pipeline: The pipeline of the whole sweep, with its lists of values.
        engine: Its executor.
        jobs: Its runs, in the order of the values, the last list fastest.
    """

    path: Path
    name: str
    created: str
    pipeline: Pipeline
    engine: Engine
    jobs: tuple[Job, ...]


class _File(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    name: str
    created: str
    pipeline: dict[str, Any]
    engine: Engine
    jobs: tuple[Job, ...]


def read_sweep(folder: str | os.PathLike[str]) -> Sweep:
    """Read a sweep, which may be unfinished.

    Args:
        folder: The sweep's folder.

    Returns:
        The sweep.

    Raises:
        UserError: If there is no sweep, or its `sweep.json` was changed by hand.

    >>> read_sweep("nowhere")
    Traceback (most recent call last):
      ...
    aeoskit_experiments._errors.UserError: there is no sweep in nowhere: give the folder that ...
    """
    path = Path(folder)
    if not (path / FILE).is_file():
        raise UserError(
            f"there is no sweep in {path}: give the folder that `aeoskit sweep` printed"
        )
    try:
        read = msgspec.json.decode((path / FILE).read_bytes(), type=_File)
    except msgspec.DecodeError as error:
        raise UserError(f"{path / FILE} cannot be read ({error}): it was changed by hand") from None
    return Sweep(
        path=path,
        name=read.name,
        created=read.created,
        pipeline=Pipeline.from_dict(read.pipeline),
        engine=read.engine,
        jobs=read.jobs,
    )


def attempts_of(base: Path) -> Iterator[Path]:
    """The folders of a job's attempts, the first one's first: `base`, `base-2`, …"""
    path, attempt = base, 1
    while path.exists():
        yield path
        attempt += 1
        path = base.with_name(f"{base.name}-{attempt}")


def next_attempt(base: Path) -> Path:
    """The folder of a job's next attempt; none is used twice, even if an earlier one still runs."""
    taken = len(list(attempts_of(base)))
    return base if taken == 0 else base.with_name(f"{base.name}-{taken + 1}")


def job_name(index: int, settings: dict[str, Scalar]) -> str:
    """The name of a job's folder.

    >>> job_name(7, {"lr": 1e-3, "data.kind": "a/b"})
    '007-lr=0.001-data.kind=a_b'
    """
    values = "".join(f"-{name}={spell(value)}" for name, value in settings.items())
    return f"{index:03}" + re.sub(r"[^\w.+=-]", "_", values)[:80]


class SweepWriter:
    """The writer of a sweep's `sweep.json`.

    Args:
        sweep: The sweep so far: new, from `create_sweep`, or read.
        made: For a new one, the folders that were created for it, the innermost first.
    """

    def __init__(self, sweep: Sweep, made: Sequence[Path] | None = None):
        self.sweep = sweep
        self._made = made
        self._jobs = list(sweep.jobs)
        self._written: bytes | None = None

    @property
    def path(self) -> Path:
        """The sweep's folder."""
        return self.sweep.path

    @property
    def jobs(self) -> list[Job]:
        """All jobs in their present state."""
        return list(self._jobs)

    def note(self, index: int, **changes: Any) -> Job:
        """Update a job; `write` stores it on disk."""
        self._jobs[index] = msgspec.structs.replace(self._jobs[index], **changes)
        return self._jobs[index]

    def use(self, engine: Engine) -> None:
        """Set the executor from now on."""
        self.sweep = msgspec.structs.replace(self.sweep, engine=engine)

    def write(self) -> None:
        """Write `sweep.json` atomically, if anything changed."""
        from aeoskit.record import write_atomically  # here, since it imports jax

        file = _File(
            format=FORMAT,
            name=self.sweep.name,
            created=self.sweep.created,
            pipeline=self.sweep.pipeline.to_dict(),
            engine=self.sweep.engine,
            jobs=tuple(self._jobs),
        )
        text = msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"
        if text != self._written:
            write_atomically(self.path / FILE, lambda temporary: temporary.write_bytes(text))
            self._written = text

    def started_logs(self) -> set[str]:
        """The existing logs: a job has started if it has one."""
        return {f"{LOGS}/{name}" for name in os.listdir(self.path / LOGS)}

    def take_in(self) -> None:
        """Record jobs that finished unnoticed: on a cluster they outlive the submitter."""
        from aeoskit.record import read_run  # here, since it imports jax

        for job in self.jobs:
            if job.status in DONE:
                continue
            for path in attempts_of(self.path / job_name(job.index, job.settings)):
                with contextlib.suppress(ValueError):
                    summary = read_run(path).summary or {}
                    if summary.get("status") in DONE:
                        self.note(
                            job.index,
                            status=summary["status"],
                            folder=path.name,
                            error=None,
                            seconds=summary.get("seconds"),
                            runs=list(summary.get("runs", [])),
                        )

    def stop(self) -> None:
        """Request all running jobs, on any machine, to end after the present chunk."""
        (self.path / STOP).touch()

    def stopped(self) -> bool:
        """True if the jobs were requested to end."""
        return (self.path / STOP).exists()

    def discard(self) -> None:
        """Remove the folders of a new sweep of which nothing has run."""
        if self._made is None:
            return
        for name in (LOGS, SUBMITTED):
            shutil.rmtree(self.path / name, ignore_errors=True)
        (self.path / LOCK).unlink(missing_ok=True)
        for place in self._made:
            with contextlib.suppress(OSError):
                place.rmdir()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the sweep's folder, so that no other process runs it meanwhile."""
        with locked(self.path, "being run"):
            (self.path / STOP).unlink(missing_ok=True)
            (self.path / LOGS).mkdir(exist_ok=True)  # it may have been deleted
            yield


def create_sweep(
    pipeline: Pipeline,
    engine: Engine,
    *,
    root: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None,
) -> SweepWriter:
    """Create the folder of a new sweep, `<root>/<name>-sweep-<time>-<hash>/`.

    Args:
        pipeline: The pipeline, checked.
        engine: The executor.
        root: The folder of runs, created if it does not exist.
        folder: The sweep's own folder instead of one under `root`; empty, or not existing yet.

    Raises:
        UserError: If the folder cannot be created or holds something else.
    """
    digest = hashlib.sha256(msgspec.json.encode(pipeline)).hexdigest()[:8]
    now = time.localtime()
    stem = f"{pipeline.name}-sweep-{time.strftime('%Y%m%d-%H%M%S', now)}-{digest}"
    path = Path(root) / stem if folder is None else Path(folder)
    while folder is None and path.exists():
        path = path.with_name(path.name + "-2")
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(
                f"the folder {path} exists already and holds no sweep: choose another one"
            )
        absolute = path.absolute()
        made = [place for place in (absolute, *absolute.parents) if not place.exists()]
        (path / LOGS).mkdir(parents=True)
    except OSError as error:
        raise UserError(f"the sweep cannot be stored in {path}: {error.strerror}") from error
    jobs = tuple(
        Job(index=index, settings=run.values) for index, run in enumerate(pipeline.singles())
    )
    created = time.strftime("%Y-%m-%dT%H:%M:%S%z", now)
    sweep = Sweep(
        path=path, name=pipeline.name, created=created, pipeline=pipeline, engine=engine, jobs=jobs
    )
    return SweepWriter(sweep, made)
