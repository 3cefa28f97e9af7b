"""The records of the runs in a ledger's folder, which alone determine what has run."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from aeoskit.record import Run, read_run
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.ledger._ledger import DONE, RUNS, LedgerRun
from aeoskit_experiments.ledger._plan import Task
from aeoskit_experiments.pipelines import Pipeline


def record_of(folder: Path, task: Task) -> Path:
    """The folder of a task's record."""
    return folder / RUNS / task.key


def stored_run(folder: Path, task: Task) -> Run | None:
    """The record of a task's run, if it has ended.

    Raises:
        UserError: If the record there is not that of the task.
    """
    try:
        run = read_run(record_of(folder, task))
    except ValueError:
        return None  # there is none, or it is incomplete
    if run.status not in DONE or task.pipeline is None:
        return None
    try:
        asked = task.pipeline_on(folder / RUNS).inherited()
    except UserError:
        return None  # The run that it rewinds no longer exists: both run again.
    if not same_request(run.pipeline, asked):
        raise UserError(
            f"{run.path} was made by another pipeline than the one requested now: "
            f"take a new --folder"
        )
    return run


def same_request(stored: Mapping[str, Any], pipeline: Pipeline) -> bool:
    """True if a record's pipeline is this one, apart from the loop mode, which a run decides.

    The path of the rewound record is ignored, since the ledger's folder may have been moved, and so
    is the figure, which changes no number.

    >>> from aeoskit_experiments.pipelines import pipe, train
    >>> ran = pipe(train(10)).to_dict()
    >>> ran["stages"][0]["defaults"]["mode"] = "scan"
    >>> same_request(ran, pipe(train(10))), same_request(ran, pipe(train(20)))
    (True, False)
    """
    asked, made = pipeline.to_dict(), msgspec.to_builtins(stored)
    for one in (asked, made):
        one["stages"] = [stage for stage in one.get("stages", ()) if stage.get("stage") != "plot"]
    if [stage["stage"] for stage in asked["stages"]] != [
        stage.get("stage") for stage in made.get("stages", ())
    ]:
        return False
    for one, other in zip(asked["stages"], made["stages"], strict=True):
        if one["stage"] == "rewind":
            one["options"].pop("run", None)
            other["options"].pop("run", None)
        if one["stage"] == "train" and {**one["defaults"], **one["options"]}["mode"] == "auto":
            for table in (one, other):
                table["options"].pop("mode", None)
                table["defaults"].pop("mode", None)
    return asked == made


def clear(folder: Path, task: Task) -> Path:
    """Prepare the place of a task's record: the files of an unfinished run are removed.

    Returns:
        The record's path, which does not exist.
    """
    path = record_of(folder, task)
    path.parent.mkdir(exist_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    return path


def state_of(folder: Path, task: Task, run: Run | None) -> LedgerRun:
    """The state of a task, from its record."""
    state = LedgerRun(
        key=task.key,
        label=task.label,
        setting=task.spec.setting,
        seed=task.seed,
        status="waiting" if task.pipeline is not None else "refused",
        error=task.refusal,
    )
    if run is None:
        return state
    summary = run.summary or {}
    figure = run.path / Path(str(summary.get("figure") or "-")).name
    return msgspec.structs.replace(
        state,
        status=run.status,
        seconds=summary.get("seconds"),
        folder=f"{RUNS}/{task.key}",
        figure=f"{RUNS}/{task.key}/{figure.name}" if figure.is_file() else None,
    )
