"""A folder of runs: the runs, suites, sweeps and ledgers in it."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:  # listing records needs no jax
    from aeoskit.record import Run

RecordKind = Literal["run", "suite", "sweep", "ledger"]
FILES: dict[RecordKind, str] = {
    "run": "pipeline.json",
    "suite": "suite.json",
    "sweep": "sweep.json",
    "ledger": "ledger.json",
}
"""The file by which a folder is known."""


class Record(msgspec.Struct, frozen=True):
    """A run, suite, sweep or ledger in a folder of its own.

    Args:
        folder: The folder.
        kind: Its kind.
        name: Its name.
        created: Local time, ISO 8601.
        status: Its status; "open" for a run that was not closed, or a sweep with jobs to run.
    """

    folder: str
    kind: RecordKind
    name: str
    created: str
    status: str


def kind_of(folder: str | os.PathLike[str]) -> RecordKind | None:
    """The kind of record in a folder; None if it has none.

    >>> kind_of("nowhere") is None
    True
    """
    return next((kind for kind, file in FILES.items() if (Path(folder) / file).is_file()), None)


def list_records(root: str | os.PathLike[str]) -> list[Record]:
    """The readable records in a folder, the oldest first; an empty list if there is no such folder.

    Args:
        root: The folder that holds their folders.

    Returns:
        A `Record` for each.

    >>> list_records("nowhere")
    []
    """
    from aeoskit.record import list_runs

    found = [Record(str(x.path), "run", x.name, x.created, x.status) for x in list_runs(root)]
    readers: dict[RecordKind, Callable[[Path], Record]]
    readers = {"suite": _suite, "sweep": _sweep, "ledger": _ledger}
    for kind, read in readers.items():
        for file in Path(root).glob(f"*/{FILES[kind]}"):
            # One edited record must not hide the others; showing it reports what is wrong.
            with contextlib.suppress(ValueError, OSError):
                found.append(read(file.parent))
    return sorted(found, key=lambda record: (record.created, record.folder))


def so_far(run: "Run") -> list[dict[str, Any]]:
    """The last step of each branch and lane of a run that may go on.

    Args:
        run: The run.

    Returns:
        For each its labels, `step`, `loss`, and `state`, the last one known; None where none is.
    """
    from aeoskit.record import lane_selection
    from aeoskit.trajectory import STATES

    metrics = run.metrics
    found = []
    for branch in map(str, metrics["branch"].values):
        for lane in run.lanes:
            part = metrics.sel(branch=branch, **lane_selection(metrics, lane))
            rows = part["loss"].dropna("step")
            if not rows.size:
                continue
            codes = part["edge_state"].dropna("step") if "edge_state" in part else rows[:0]
            found.append(
                {
                    "branch": branch,
                    **lane,
                    "step": int(rows["step"][-1]),
                    "loss": float(rows[-1]),
                    "state": STATES[int(codes[-1])] if codes.size else None,
                }
            )
    return found


class _Suite(msgspec.Struct):
    name: str
    status: str
    cases: dict[str, msgspec.Raw]


def _suite(folder: Path) -> Record:
    from aeoskit.record import list_runs

    read = msgspec.json.decode((folder / FILES["suite"]).read_bytes(), type=_Suite)
    created: Iterator[str] = (run.created for run in list_runs(folder))
    return Record(str(folder), "suite", read.name, next(created, ""), read.status)


def _sweep(folder: Path) -> Record:
    from aeoskit_experiments.sweeps import read_sweep, sweep_status

    read = read_sweep(folder)
    return Record(str(folder), "sweep", read.name, read.created, sweep_status(read.jobs))


def _ledger(folder: Path) -> Record:
    from aeoskit_experiments.ledger import read_ledger

    read = read_ledger(folder)
    return Record(str(folder), "ledger", f"ledger-{read.asked.size}", read.created, read.status)
