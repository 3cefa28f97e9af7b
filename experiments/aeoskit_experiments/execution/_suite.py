"""A suite: several pipelines, one after the other, and one figure of them all."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import xarray as xr

from aeoskit.record import read_run, to_json_safe, write_atomically
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import Choice, Pipeline, Plot, Store

from ._draw import named
from ._execute import EXIT_CODES, Outcome, execute
from ._listener import Listener, SilentListener
from ._names import case_name
from ._processes import broadcast_from_leader, is_leader
from ._room import limit_memory_maps


@dataclasses.dataclass(frozen=True)
class SuiteOutcome:
    """The result of `execute_suite`.

    Args:
        folder: the suite's folder; each case has its run's folder in it.
        outcomes: the outcome of each case, by name.
        summary: the numbers of all cases: what the command line prints and `--json` gives.
        figures: the files of the common figures.
        status: "finished"; "interrupted": later cases did not run; "diverged": at least one did.
        exit_code: as for a run.
        leads: whether this process wrote the records.
    """

    folder: Path
    outcomes: dict[str, Outcome]
    summary: dict[str, Any]
    figures: list[Path]
    status: str
    exit_code: int
    leads: bool = True


def execute_suite(
    suite: Mapping[str, Pipeline],
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> SuiteOutcome:
    """Run pipelines one after the other, each with its own record, in one folder.

    Args:
        suite: name of a case to its pipeline.
        name: the first part of the folder's name.
        root: the folder of runs, instead of the pipelines' own.
        folder: the suite's own folder, which must not exist yet.
        listener: receives progress on the host.

    Returns:
        A `SuiteOutcome`.

    Raises:
        UserError: for bad input in any case, before any work; nothing is left behind.
    """
    begun = time.perf_counter()
    for pipeline in suite.values():
        pipeline.experiment()
    _check_data(suite)
    place = _place(suite, name, root, folder)
    if why := broadcast_from_leader(_record_conflict(place) if is_leader() else ""):
        raise UserError(why)
    outcomes: dict[str, Outcome] = {}
    stopped = False
    with _listed(place, name, outcomes) as write:
        for case, pipeline in suite.items():
            if outcomes:
                limit_memory_maps()
            heard = listener if listener is None else _CaseListener(listener, case)
            try:
                outcomes[case] = execute(pipeline, folder=place / case, listener=heard)
            except KeyboardInterrupt:  # before the first row of this case
                if not outcomes:
                    raise
                stopped = True
            if stopped or outcomes[case].status == "interrupted":
                break
            write("running")
    found = _statuses(outcomes) | ({"interrupted"} if stopped else set())
    status = next((word for word in ("interrupted", "diverged") if word in found), "finished")
    leads = all(outcome.leads for outcome in outcomes.values())
    if not leads:
        return SuiteOutcome(
            place, outcomes, {"status": status}, [], status, EXIT_CODES[status], leads=False
        )
    summary = _summary(place, name, outcomes, status)
    kinds = {(pipeline.declared().plot or Plot()).kind for pipeline in suite.values()}
    rows = summary["rows"] if "beta2" in kinds else None
    figures = _drawn(outcomes, rows, place / name, listener)
    summary |= {
        "seconds": time.perf_counter() - begun,
        "figure": str(figures[0]) if figures else None,
    }
    _write(place, summary)
    return SuiteOutcome(place, outcomes, summary, figures, status, EXIT_CODES[status])


@contextlib.contextmanager
def _listed(
    place: Path, name: str, outcomes: Mapping[str, Outcome]
) -> Iterator[Callable[[str], None]]:
    """Keep the suite's file while its cases run, so that one that is killed is in lists, too.

    If nothing was kept of any case, neither is the file.

    Args:
        place: the suite's folder.
        name: the suite's name.
        outcomes: the outcomes so far.

    Yields:
        A function that writes the file with a status.
    """

    def write(status: str) -> None:
        if is_leader():
            _write(place, _summary(place, name, outcomes, status))

    made = [folder for folder in (place, *place.parents) if not folder.exists()]
    if is_leader():
        try:
            place.mkdir(parents=True, exist_ok=True)
            write("running")
        except OSError as error:
            raise UserError(f"the suite cannot be stored in {place}: {error.strerror}") from error
    try:
        yield write
    except BaseException:
        if is_leader() and any(file.name != "suite.json" for file in place.iterdir()):
            write("failed")
        elif is_leader():
            (place / "suite.json").unlink()
            with contextlib.suppress(OSError):  # one that others use by now
                for folder in made:
                    folder.rmdir()
        raise


def _summary(
    place: Path, name: str, outcomes: Mapping[str, Outcome], status: str
) -> dict[str, Any]:
    rows = [
        {"case": case, **row}
        for case, outcome in outcomes.items()
        for row in outcome.summary.get("rows", ())
    ]
    said = [note for outcome in outcomes.values() for note in outcome.summary.get("warnings", ())]
    return {
        "name": name,
        "runs": [
            {"case": case, **row}
            for case, outcome in outcomes.items()
            for row in outcome.summary["runs"]
        ],
        "rows": rows,
        "cases": {case: outcome.summary for case, outcome in outcomes.items()},
        "warnings": [*dict.fromkeys(said)],
        "status": status,
        "folder": str(place),
    }


def _write(place: Path, summary: Mapping[str, Any]) -> None:
    text = msgspec.json.format(msgspec.json.encode(to_json_safe(summary)), indent=2) + b"\n"
    write_atomically(place / "suite.json", lambda temporary: temporary.write_bytes(text))


def _place(
    suite: Mapping[str, Pipeline],
    name: str,
    root: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str] | None,
) -> Path:
    """The suite's folder, which does not exist yet."""
    if folder is not None:
        return Path(folder)
    first = next(iter(suite.values())).declared().store or Store()
    above = Path(first.root if root is None else root)
    plan = above / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    found, further = plan, 1
    while found.exists():
        further += 1
        found = plan.with_name(f"{plan.name}-{further}")
    return found


def _check_data(suite: Mapping[str, Pipeline]) -> None:
    """Build each data set once if the cases differ in their data: none may fail late."""
    different: list[Choice] = []
    for pipeline in suite.values():
        for group in pipeline.inherited().groups():
            data = group.pipeline.declared().data
            if data is not None and data not in different:
                different.append(data)
    if len(different) < 2:
        return  # the first case will report it
    for data in different:
        try:
            data.build()
        except UserError:
            raise
        except ValueError as error:
            raise UserError(" ".join(str(error).split())) from error


def _record_conflict(place: Path) -> str:
    """The reason why the cases' records cannot be created there; empty if they can."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return ""
    return f"the folder {place} exists already: choose another one or remove it first."


class _CaseListener(SilentListener):
    """A listener that adds the case to the names of runs."""

    def __init__(self, listener: Listener, case: str):
        self._listener, self._case = listener, case

    def started(self, what: str, steps: int) -> None:
        self._listener.started(f"{self._case}: {what}", steps)

    def advanced(self, what: str, done: int, shown: Mapping[str, float | str]) -> None:
        self._listener.advanced(f"{self._case}: {what}", done, shown)

    def finished(self, what: str) -> None:
        self._listener.finished(f"{self._case}: {what}")

    def noted(self, message: str) -> None:
        self._listener.noted(f"{self._case}: {message}")


def _drawn(
    outcomes: Mapping[str, Outcome],
    rows: list[dict[str, Any]] | None,
    path: Path,
    listener: Listener | None,
) -> list[Path]:
    """The figure's files, of the rows if there are any; a suite without one is better than none."""
    from aeoskit.figures import beta2_figure, cases_figure, save

    try:
        figure = cases_figure(_records(outcomes)) if rows is None else beta2_figure(named(rows))
    except Exception as error:
        if listener is not None:
            listener.noted(f"no figure was drawn: {type(error).__name__}: {error}")
        return []
    return save(figure, path)


def _statuses(outcomes: Mapping[str, Outcome]) -> set[str]:
    return {outcome.status for outcome in outcomes.values()}


def _records(outcomes: Mapping[str, Outcome]) -> dict[str, xr.Dataset]:
    """The cases' metrics, by display name."""
    return {case_name(case): read_run(outcome.folder).metrics for case, outcome in outcomes.items()}
