"""`reproduce`: it runs a ledger's tasks, judges claims as runs end, and keeps files complete."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from aeoskit.record import Run, read_run, write_atomically
from aeoskit_experiments._errors import UserError, unknown
from aeoskit_experiments.execution import Interrupt, Listener, SilentListener, attempt_in_worker
from aeoskit_experiments.jobs import JobResult, RunJob, Worker, WorkerDied, locked
from aeoskit_experiments.ledger._bounds import SIZES, mismatches, read_bounds, tables_of
from aeoskit_experiments.ledger._claim import CLAIMS, Claim, experiment_order
from aeoskit_experiments.ledger._ledger import (
    FILE,
    RUNS,
    Ledger,
    LedgerRequest,
    LedgerRun,
    Row,
    now,
    open_folder,
    read_ledger,
)
from aeoskit_experiments.ledger._markdown import markdown_page
from aeoskit_experiments.ledger._page import html_page
from aeoskit_experiments.ledger._pictures import draw_ratios, draw_suites
from aeoskit_experiments.ledger._plan import MakeSuite, Task, make_suite, make_tasks
from aeoskit_experiments.ledger._records import clear, record_of, state_of, stored_run
from aeoskit_experiments.ledger._rows import Judge

LOG = "worker.log"

Runner = Callable[[RunJob, Listener, Interrupt], JobResult]
"""A function that runs a job, and ends it early on the user's request."""


@runtime_checkable
class LedgerListener(Listener, Protocol):
    """A listener to the runs of a ledger and its verdicts."""

    def began(self, label: str, index: int, total: int) -> None:
        """A run begins: its number, counted from 1, and the total."""

    def ended(self, state: LedgerRun) -> None:
        """A run has ended, successfully or not."""

    def judged(self, row: Row) -> None:
        """A claim has a verdict."""


class SilentLedgerListener(SilentListener):
    """A listener to a ledger that does nothing."""

    def began(self, label: str, index: int, total: int) -> None: ...

    def ended(self, state: LedgerRun) -> None: ...

    def judged(self, row: Row) -> None: ...


@dataclasses.dataclass(frozen=True)
class LedgerOutcome:
    """The result of `reproduce`.

    Args:
        folder: The ledger's folder, with `ledger.json`, `ledger.md` and `ledger.html`.
        ledger: All of it.
        exit_code: 0 if nothing failed; 1 if some claim failed; 130 if the user stopped it.
    """

    folder: Path
    ledger: Ledger
    exit_code: int

    @property
    def summary(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return self.ledger.summary(self.folder)


def reproduce(
    *,
    size: str | None = None,
    only: Sequence[str] | None = None,
    seeds: int | None = None,
    grid: bool | None = None,
    root: str | os.PathLike[str] = "runs",
    folder: str | os.PathLike[str] | None = None,
    listener: LedgerListener | None = None,
    claims: Iterable[Claim] | None = None,
    bounds: Mapping[str, Any] | None = None,
    make: MakeSuite = make_suite,
    runner: Runner | None = None,
) -> LedgerOutcome:
    """Run what the claims need, judge them, and write the ledger.

    Each run runs once, for any number of claims, in a worker process: a crash loses only that run.
    The ledger's files are rewritten after each. A resumed ledger does not repeat runs that have
    ended.

    Args:
        size: "small" (the default: minutes on two cores) or "paper".
        only: The experiments, such as `["E1", "E7"]`; all if not given.
        seeds: Number of seeds of each run; 1 if not given.
        grid: Whether further settings (data sets, architectures, learning rates) are judged too.
        root: The folder in which to create the ledger's folder.
        folder: The ledger's own folder; an existing ledger is resumed, with this request added to
            its own.
        listener: Receives progress.
        claims: The claims; all registered ones if not given.
        bounds: The bounds; those in aeoskit's file if not given.
        make: Builds a suite of pipelines; the registered recipes if not given.
        runner: Runs a job; a worker process if not given.

    Returns:
        A `LedgerOutcome`.

    Raises:
        UserError: For bad input, before anything runs.
    """
    chosen = _claims(claims)
    given = _given(chosen, size, only, seeds, grid)
    if folder is not None and (Path(folder) / FILE).is_file():
        asked = read_ledger(folder).asked.merged(given)
    else:
        asked = LedgerRequest(**given)
    chosen = [
        item
        for item in chosen
        if asked.size in item.sizes and (not asked.only or item.experiment in asked.only)
    ]
    tables = read_bounds() if bounds is None else bounds
    _check_bounds(chosen, tables)
    judge = Judge(chosen, asked, tables)
    tasks = make_tasks(
        chosen, size=asked.size, seeds=asked.judged_seeds, grid=asked.grid, make=make
    )
    path, there = open_folder(asked.size, root, folder)
    with locked(path, "being written"):
        writer = _LedgerWriter(path, asked, judge, tasks, read_ledger(path) if there else None)
        listener = SilentLedgerListener() if listener is None else listener
        worker = Worker(log=path / LOG)
        return _run(writer, worker, runner or functools.partial(_run_in, worker), listener)


class _LedgerWriter:
    """The writer of a ledger."""

    def __init__(
        self,
        path: Path,
        asked: LedgerRequest,
        judge: Judge,
        tasks: list[Task],
        before: Ledger | None,
    ):
        self.path = path
        self.tasks = tasks
        self._judge = judge
        self._begun = time.perf_counter()
        self._before = 0.0 if before is None else before.seconds
        # All records are checked before the first run: a foreign record is refused here.
        found: dict[str, Run | None] = {}
        for task in tasks:
            # If a rewound run runs again, so do the runs that rewind it.
            again = task.rewinds is not None and found[task.rewinds] is None
            found[task.key] = None if again else stored_run(path, task)
        self.runs: dict[str, Run] = {key: run for key, run in found.items() if run is not None}
        self.states = {task.key: state_of(path, task, found[task.key]) for task in tasks}
        created = now() if before is None else before.created
        self.ledger = Ledger(created=created, updated=created, asked=asked)
        self.write("running")
        notes = () if before is None else (*before.notes, *_changed(before.rows, self.ledger.rows))
        self.ledger = msgspec.structs.replace(self.ledger, notes=tuple(dict.fromkeys(notes)))
        self.write("running")  # before a run that may be killed

    def note(self, task: Task, result: JobResult, seconds: float) -> LedgerRun:
        """Record the end of a task."""
        if result.status in ("finished", "diverged"):
            self.runs[task.key] = run = read_run(record_of(self.path, task))
            state = state_of(self.path, task, run)
        else:
            state = msgspec.structs.replace(
                self.states[task.key], status=result.status, error=result.error, seconds=seconds
            )
        self.states[task.key] = state
        return state

    def draw(self) -> None:
        """Draw the suites' cases together, and all ratios."""
        self.ledger = msgspec.structs.replace(
            self.ledger,
            pictures=draw_suites(self.path, self.tasks, self.runs),
            ratios=draw_ratios(self.path, self._judge.rows(self.states, self.runs)),
        )

    def write(self, status: Any) -> list[Row]:
        """Judge what can be judged, and rewrite the files; return the rows that got a verdict."""
        before = {(row.experiment, row.claim, row.setting): row.judged for row in self.ledger.rows}
        rows = tuple(self._judge.rows(self.states, self.runs))
        run = next(reversed(self.runs.values()), None)
        self.ledger = msgspec.structs.replace(
            self.ledger,
            status=status,
            updated=now(),
            seconds=self._before + time.perf_counter() - self._begun,
            environment=self.ledger.environment if run is None else dict(run.environment),
            works=tuple(self.states.values()),
            rows=rows,
        )
        text = msgspec.json.format(msgspec.json.encode(self.ledger), indent=2) + b"\n"
        self._put(FILE, text)
        self._put("ledger.md", markdown_page(self.ledger).encode())
        self._put("ledger.html", html_page(self.ledger, self.path).encode())
        return [
            row
            for row in rows
            if row.judged == len(row.seeds)
            and before.get((row.experiment, row.claim, row.setting), row.judged) < row.judged
        ]

    def _put(self, name: str, text: bytes) -> None:
        write_atomically(self.path / name, lambda temporary: temporary.write_bytes(text))


def _run(
    writer: _LedgerWriter, worker: Worker, runner: Runner, listener: LedgerListener
) -> LedgerOutcome:
    """Run the remaining tasks, one after the other."""
    left = [task for task in writer.tasks if writer.states[task.key].status == "waiting"]
    possible = sum(task.pipeline is not None for task in writer.tasks)
    stopped, at_once = False, True
    try:
        with Interrupt() as interrupt:
            for index, task in enumerate(left, start=possible - len(left) + 1):
                assert task.pipeline is not None
                listener.began(task.label, index, possible)
                place = clear(writer.path, task)
                begun = time.perf_counter()
                result = _run_task(task, writer, runner, place, listener, interrupt)
                state = writer.note(task, result, time.perf_counter() - begun)
                listener.ended(state)
                stopped = interrupt.requested or state.status == "interrupted"
                for row in writer.write("running"):
                    listener.judged(row)
                if stopped or interrupt.requested:  # which may have been set meanwhile
                    stopped = True
                    break
            at_once = False
    except KeyboardInterrupt:  # a second one, which does not wait
        stopped = True
    finally:
        worker.close(at_once=at_once)
    stopped = stopped and writer.ledger.waiting > 0
    writer.draw()
    writer.write("interrupted" if stopped else "finished")
    failed = any(row.verdict == "fail" for row in writer.ledger.rows)
    return LedgerOutcome(writer.path, writer.ledger, 130 if stopped else int(failed))


def _run_task(
    task: Task,
    writer: _LedgerWriter,
    runner: Runner,
    place: Path,
    listener: LedgerListener,
    interrupt: Interrupt,
) -> JobResult:
    """Run a task; it is refused if the run that it rewinds did not reach the step."""
    source = None if task.rewinds is None else writer.states[task.rewinds]
    if source is not None and source.status in ("failed", "refused"):
        error = f"{source.label}, which it rewinds, {source.status}"
        return JobResult(status="refused", error=error)
    try:
        pipeline = task.pipeline_on(writer.path / RUNS)
    except UserError as error:
        return JobResult(status="refused", error=str(error))
    job = RunJob(pipeline=pipeline.to_dict(), folder=str(place.absolute()))
    return runner(job, listener, interrupt)


def _run_in(worker: Worker, job: RunJob, listener: Listener, interrupt: Interrupt) -> JobResult:
    """Run a job in a worker process: a crash loses only that job."""
    try:
        return worker.call(
            attempt_in_worker,
            job,
            on_event=lambda name, *arguments: getattr(listener, name)(*arguments),
            interrupted=lambda: interrupt.requested,
        )
    except WorkerDied as error:
        if interrupt.requested:
            return JobResult(status="interrupted")
        return JobResult(status="failed", error=str(error))


def _claims(claims: Iterable[Claim] | None) -> list[Claim]:
    if claims is None:
        # The import fills the registry.
        import aeoskit_experiments.ledger.claims  # noqa: F401

        claims = CLAIMS.values()
    return sorted(claims, key=lambda item: experiment_order(item.experiment))


def _given(
    claims: Sequence[Claim],
    size: str | None,
    only: Sequence[str] | None,
    seeds: int | None,
    grid: bool | None,
) -> dict[str, Any]:
    """The request, checked."""
    given: dict[str, Any] = {}
    if size is not None:
        if size not in SIZES:
            raise unknown("size", size, SIZES)
        given["size"] = size
    if only is not None:
        known = list(dict.fromkeys(item.experiment for item in claims))
        given_names = [name.strip() for name in only if name.strip()]
        names = [name.upper() for name in given_names]
        for given_name, name in zip(given_names, names, strict=True):
            if name not in known:
                raise unknown("experiment", given_name, known)
        if not names:
            raise UserError("only is empty: name experiments, as in --only E1,E7, or leave it out")
        given["only"] = tuple(sorted({*names}, key=experiment_order))
    if seeds is not None:
        if seeds < 1:
            raise UserError(f"seeds is {seeds}: it must be at least 1")
        given["seeds"] = seeds
    if grid is not None:
        given["grid"] = grid
    return given


def _check_bounds(claims: Sequence[Claim], tables: Mapping[str, Any]) -> None:
    """Check that every claim to judge has bounds; others' bounds are not checked."""
    used: dict[str, set[str]] = {}
    for item in claims:
        names = tables_of(item, tables.get(item.experiment, {}))
        used.setdefault(item.experiment, set()).update(names)
    here = {name: {one: tables[name][one] for one in ones} for name, ones in used.items() if ones}
    for complaint in mismatches(claims, here):
        raise UserError(complaint.rstrip("."))


def _changed(before: Iterable[Row], after: Iterable[Row]) -> list[str]:
    """The bounds that have changed since their claim was first judged, in sentences."""
    judged = {
        (row.experiment, row.claim, row.setting): row.bounds
        for row in before
        if row.value is not None
    }
    return [
        f"The bounds of {row.experiment} {row.claim} ({row.setting}) were changed after it had "
        f"been judged: they were {_span(judged[key])}."
        for row in after
        if (key := (row.experiment, row.claim, row.setting)) in judged and judged[key] != row.bounds
    ]


def _span(bounds: tuple[float | None, float | None]) -> str:
    from aeoskit_experiments.ledger._words import bounds_words

    return bounds_words(bounds)
