"""A ledger: its request, the runs, a row for each claim; and its file."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.jobs import LOCK
from aeoskit_experiments.ledger._bounds import SIZES
from aeoskit_experiments.ledger._claim import REFERENCE, TRIAL_SEEDS, Verdict, experiment_order

FILE = "ledger.json"
RUNS = "runs"
FORMAT = 1

Status = Literal["waiting", "finished", "diverged", "interrupted", "refused", "failed"]
DONE = ("finished", "diverged")
"""A run that diverged counts as done: it would diverge again."""


class LedgerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request of a ledger.

    Args:
        size: "small" or "paper".
        seeds: Number of seeds of each run: 4, 5, …, after those of trials.
        grid: Whether further settings are judged as well.
        only: The experiments; empty for all.
    """

    size: str = "small"
    seeds: int = 1
    grid: bool = False
    only: tuple[str, ...] = ()

    def merged(self, other: dict[str, Any]) -> "LedgerRequest":
        """The union with the request of an existing ledger, which only grows.

        >>> LedgerRequest(only=("E1",)).merged({"only": ("E7",), "seeds": 3})
        LedgerRequest(size='small', seeds=3, grid=False, only=('E1', 'E7'))
        """
        size = other.get("size", self.size)
        if size != self.size:
            raise UserError(
                f"size is {size}, but the ledger there is of size {self.size}: "
                f"leave --size out, or take another --folder"
            )
        only = other.get("only", self.only)
        both = {*self.only, *only} if self.only and only else ()
        return LedgerRequest(
            size=size,
            seeds=max(self.seeds, other.get("seeds", 1)),
            grid=self.grid or other.get("grid", False),
            only=tuple(sorted(both, key=experiment_order)),
        )

    @property
    def judged_seeds(self) -> tuple[int, ...]:
        """The seeds on which claims are judged, which follow those of trials.

        >>> LedgerRequest(seeds=2).judged_seeds
        (4, 5)
        """
        first = max(TRIAL_SEEDS) + 1
        return tuple(range(first, first + self.seeds))

    @property
    def command(self) -> str:
        """The command line of the same request.

        >>> LedgerRequest(seeds=3, only=("E1", "E7")).command
        'aeoskit reproduce --size small --only E1,E7 --seeds 3'
        """
        words = ["aeoskit", "reproduce", "--size", self.size]
        words += ["--only", ",".join(self.only)] if self.only else []
        words += ["--seeds", str(self.seeds)] if self.seeds > 1 else []
        words += ["--grid"] if self.grid else []
        return " ".join(words)


class LedgerRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a ledger, and its status.

    Args:
        key: Its name.
        label: Its display name.
        setting: "reference" or the grid's.
        seed: Its seed.
        status: The status; "refused" if it cannot run here.
        error: The reason why it failed or was refused, in one line.
        seconds: Its duration.
        folder: Its record, relative to the ledger's folder; None if there is none.
        figure: Its figure, relative as well.
    """

    key: str
    label: str
    setting: str
    seed: int
    status: Status = "waiting"
    error: str = ""
    seconds: float | None = None
    folder: str | None = None
    figure: str | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A claim in one setting, judged.

    Args:
        experiment: "E7".
        claim: Its name within the experiment.
        says: The claim, in words.
        setting: "reference" or the grid's.
        value: The number; for several seeds their median; None if there is none.
        unit: Unit of the number.
        bounds: Low and high; None for no bound.
        bounds_reason: The reason for the bounds.
        verdict: "pass", "fail" or "unreachable".
        reason: An explanation of the verdict, where needed; empty otherwise.
        seeds: The seeds of the values.
        values: The number of each seed; None if it has none.
        alternative: What the number would be if the claim were false, in words.
        alternatives: That number of each seed, measured; None if it has none.
        spread: The smallest and the largest; None if there is none.
        judged: Number of seeds that have run.
        seconds: Total duration of the runs that it reads, over all seeds; other claims may read
            them too.
        works: The runs' names, without the seed.
        folder: The first run's record, relative to the ledger's folder.
        figure: The first run's figure, relative to the ledger's folder.
        ratio: Whether the number is a ratio to a threshold.
    """

    experiment: str
    claim: str
    says: str
    setting: str
    value: float | None
    unit: str
    bounds: tuple[float | None, float | None]
    bounds_reason: str
    verdict: Verdict
    reason: str
    seeds: tuple[int, ...]
    values: tuple[float | None, ...]
    alternative: str = ""
    alternatives: tuple[float | None, ...] = ()
    spread: tuple[float, float] | None
    seconds: float
    judged: int = 0
    works: tuple[str, ...] = ()
    folder: str | None = None
    figure: str | None = None
    ratio: bool = False


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a `ledger.json`.

    Args:
        format: Version of the file's format.
        status: The status; "running" also if its process died.
        created: Local time, ISO 8601.
        updated: Time of the last write.
        asked: The request.
        seconds: Total duration of all calls.
        environment: Machine and versions of the last run.
        works: All runs.
        rows: A row for each claim and setting.
        notes: Remarks on its history, such as a changed bound.
        pictures: Figures of a suite's cases together: the file, and the runs that it shows.
        ratios: The figure of all ratios to a threshold; None if there is none.
    """

    format: int = FORMAT
    status: Literal["running", "finished", "interrupted"] = "running"
    created: str
    updated: str
    asked: LedgerRequest
    seconds: float = 0.0
    environment: dict[str, Any] = {}
    works: tuple[LedgerRun, ...] = ()
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: dict[str, tuple[str, ...]] = {}
    ratios: str | None = None

    @property
    def experiments(self) -> dict[str, Verdict]:
        """The verdict of each experiment, from its claims in the reference setting."""
        return experiment_verdicts(self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows that passed, failed and were unreachable."""
        found = [row.verdict for row in self.rows]
        return {verdict: found.count(verdict) for verdict in ("pass", "fail", "unreachable")}

    @property
    def waiting(self) -> int:
        """The number of runs that have not ended."""
        return sum(run.status in ("waiting", "interrupted") for run in self.works)

    def summary(self, folder: str | os.PathLike[str]) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "rows": msgspec.to_builtins(self.rows),
            "size": self.asked.size,
            "seconds": self.seconds,
            "passed": sum(verdict == "pass" for verdict in self.experiments.values()),
            "experiments": self.experiments,
            "claims": self.counts,
            "seeds": list(self.asked.judged_seeds),
            "trial_seeds": list(TRIAL_SEEDS),
            "grid": self.asked.grid,
            "only": list(self.asked.only),
            "notes": list(self.notes),
            "status": self.status,
            "waiting": self.waiting,
            "folder": str(folder),
        }


def experiment_verdicts(rows: Sequence[Row]) -> dict[str, Verdict]:
    """The verdict of each experiment, from its rows in the reference setting.

    It passes if all of them do and fails if one does; otherwise it is unreachable.
    """
    found: dict[str, Verdict] = {}
    for name in sorted({row.experiment for row in rows}, key=experiment_order):
        verdicts = {
            row.verdict for row in rows if row.experiment == name and row.setting == REFERENCE
        }
        if "fail" in verdicts:
            found[name] = "fail"
        else:
            found[name] = "pass" if verdicts == {"pass"} else "unreachable"
    return found


def read_ledger(folder: str | os.PathLike[str]) -> Ledger:
    """Read a ledger, which may be unfinished.

    Args:
        folder: Its folder.

    Returns:
        The ledger.

    Raises:
        UserError: If there is none, or its file was changed by hand.

    >>> read_ledger("nowhere")
    Traceback (most recent call last):
      ...
    aeoskit_experiments._errors.UserError: there is no ledger in nowhere: give the folder that ...
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(
            f"there is no ledger in {folder}: give the folder that `aeoskit reproduce` printed"
        )
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ledger)
    except msgspec.DecodeError as error:
        raise UserError(f"{path} cannot be read ({error}): it was changed by hand") from None


def open_folder(
    size: str, root: str | os.PathLike[str], folder: str | os.PathLike[str] | None
) -> tuple[Path, bool]:
    """The ledger's folder, created if it does not exist.

    Args:
        size: Size of the ledger, part of the folder's name.
        root: The folder in which to create a new one.
        folder: The ledger's own folder: new, empty, or one with a ledger.

    Returns:
        The folder, and whether it has a ledger.

    Raises:
        UserError: If it cannot be created or holds something else.
    """
    assert size in SIZES
    stem = f"ledger-{size}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = Path(root) / stem if folder is None else Path(folder)
    while folder is None and path.exists():
        path = path.with_name(path.name + "-2")
    if (path / FILE).is_file():
        return path, True
    try:
        if path.exists() and (not path.is_dir() or {*os.listdir(path)} - {LOCK}):
            raise UserError(
                f"the folder {path} exists already and holds no ledger: choose another one"
            )
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the ledger cannot be stored in {path}: {error.strerror}") from error
    return path, False


def now() -> str:
    """Local time, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
