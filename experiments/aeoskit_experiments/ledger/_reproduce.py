"""`reproduce`: it runs what a ledger needs, judges as runs end, and keeps the files whole."""

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
from aeoskit_experiments.execution import Interrupt, Listener, Silent, attempt_in_worker
from aeoskit_experiments.jobs import JobResult, RunJob, Worker, WorkerDied, locked
from aeoskit_experiments.ledger._bounds import SIZES, complaints, read_bounds
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
from aeoskit_experiments.ledger._plan import Make, Task, make_suite, make_tasks
from aeoskit_experiments.ledger._records import clear, record_of, state_of, stored_run
from aeoskit_experiments.ledger._rows import Judge

LOG = "worker.log"

Runner = Callable[[RunJob, Listener, Interrupt], JobResult]
"""Runs a job, and ends it early if the user wishes so."""


@runtime_checkable
class Witness(Listener, Protocol):
    """A listener to the runs of a ledger that hears of its verdicts too."""

    def began(self, label: str, index: int, total: int) -> None:
        """A run begins: which of how many, counted from 1."""

    def ended(self, state: LedgerRun) -> None:
        """A run has ended, one way or another."""

    def judged(self, row: Row) -> None:
        """A claim has a verdict."""


class SilentWitness(Silent):
    """A witness that prints nothing."""

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
        """As `--json` prints it."""
        return self.ledger.summary(self.folder)


def reproduce(
    *,
    size: str | None = None,
    only: Sequence[str] | None = None,
    seeds: int | None = None,
    grid: bool | None = None,
    root: str | os.PathLike[str] = "runs",
    folder: str | os.PathLike[str] | None = None,
    witness: Witness | None = None,
    claims: Iterable[Claim] | None = None,
    bounds: Mapping[str, Any] | None = None,
    make: Make = make_suite,
    runner: Runner | None = None,
) -> LedgerOutcome:
    """Runs what the claims need, judges them, and writes the ledger.

    Each run is made once, however many claims read it, in a worker process: one that crashes costs
    only itself. The ledger's files are written anew after each. What has ended does not run again
    when the ledger is resumed.

    Args:
        size: "small" (the default: minutes on two cores) or "paper".
        only: Some of the experiments, `["E1", "E7"]`; all if not given.
        seeds: With how many seeds each run is made; 1 if not given.
        grid: Whether further settings (data sets, architectures, learning rates) are judged too.
        root: Where to make the ledger's folder.
        folder: Its very folder; one with a ledger in it is resumed, and then holds what it held
            and this request.
        witness: Hears of the progress.
        claims: In place of all registered ones.
        bounds: In place of those in aeoskit's file.
        make: Makes a suite of pipelines, in place of the registered recipes.
        runner: Runs a job, in place of a worker process.

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
        chosen, size=asked.size, seeds=range(asked.seeds), grid=asked.grid, make=make
    )
    path, there = open_folder(asked.size, root, folder)
    with locked(path, "being written"):
        book = _Book(path, asked, judge, tasks, read_ledger(path) if there else None)
        witness = SilentWitness() if witness is None else witness
        worker = Worker(log=path / LOG)
        return _run(book, worker, runner or functools.partial(_run_in, worker), witness)


class _Book:
    """A ledger while it is written."""

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
        # All of them are looked at before the first one runs: a foreign record is refused here.
        found: dict[str, Run | None] = {}
        for task in tasks:
            # A past that will be run again is another one: so will what rewinds it.
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
        """Notes how a task ended."""
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
        """Judge what can be, and write the files anew; returns the rows that got a verdict."""
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


def _run(book: _Book, worker: Worker, runner: Runner, witness: Witness) -> LedgerOutcome:
    """Runs the tasks that are left, one after the other."""
    left = [task for task in book.tasks if book.states[task.key].status == "waiting"]
    possible = sum(task.pipeline is not None for task in book.tasks)
    stopped, at_once = False, True
    try:
        with Interrupt() as interrupt:
            for index, task in enumerate(left, start=possible - len(left) + 1):
                assert task.pipeline is not None
                witness.began(task.label, index, possible)
                place = clear(book.path, task)
                begun = time.perf_counter()
                result = _run_task(task, book, runner, place, witness, interrupt)
                state = book.note(task, result, time.perf_counter() - begun)
                witness.ended(state)
                stopped = interrupt.wished or state.status == "interrupted"
                for row in book.write("running"):
                    witness.judged(row)
                if stopped or interrupt.wished:  # which may have come meanwhile
                    stopped = True
                    break
            at_once = False
    except KeyboardInterrupt:  # a second one, which does not wait
        stopped = True
    finally:
        worker.close(at_once=at_once)
    stopped = stopped and book.ledger.waiting > 0
    book.draw()
    book.write("interrupted" if stopped else "finished")
    failed = any(row.verdict == "fail" for row in book.ledger.rows)
    return LedgerOutcome(book.path, book.ledger, 130 if stopped else int(failed))


def _run_task(
    task: Task, book: _Book, runner: Runner, place: Path, witness: Witness, interrupt: Interrupt
) -> JobResult:
    """Runs a task; one whose past did not get to where it begins is refused."""
    past = None if task.rewinds is None else book.states[task.rewinds]
    if past is not None and past.status in ("failed", "refused"):
        error = f"{past.label}, which it rewinds, {past.status}"
        return JobResult(status="refused", error=error)
    try:
        pipeline = task.pipeline_on(book.path / RUNS)
    except UserError as error:
        return JobResult(status="refused", error=str(error))
    job = RunJob(pipeline=pipeline.to_dict(), folder=str(place.absolute()))
    return runner(job, witness, interrupt)


def _run_in(worker: Worker, job: RunJob, listener: Listener, interrupt: Interrupt) -> JobResult:
    """Runs a job in a worker process: one that brings it down costs only itself."""
    try:
        return worker.call(
            attempt_in_worker,
            job,
            on_event=lambda name, *arguments: getattr(listener, name)(*arguments),
            interrupted=lambda: interrupt.wished,
        )
    except WorkerDied as error:
        if interrupt.wished:
            return JobResult(status="interrupted")
        return JobResult(status="failed", error=str(error))


def _claims(claims: Iterable[Claim] | None) -> list[Claim]:
    if claims is None:
        # Importing it fills the registry.
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
    """Every claim that will be judged has bounds; others' bounds are not looked at."""
    names = {item.key for item in claims}
    here = {
        experiment: {
            name: table for name, table in group.items() if f"{experiment}.{name}" in names
        }
        for experiment, group in tables.items()
    }
    for complaint in complaints(claims, here):
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
