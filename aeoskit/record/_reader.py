"""The reader of runs, whole or cut off."""

import contextlib
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._files import read_json
from ._rows import read_rows

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Run:
    """A run that was read from its folder.

    Attributes:
        path: the run's folder.
        name: what the run was called.
        created: local time, ISO 8601.
        pipeline: what was asked.
        environment: where it ran.
        lanes: the swept values of each lane.
        summary: the numbers that the user was shown; None if the run was not closed.
        status: finished, interrupted, diverged, failed, or "open" if it was not closed.
        variables: what is said of measurements, by name: attributes of the dataset's variables.

    Example:
        >>> import tempfile
        >>> from aeoskit.record import create_run
        >>> writer = create_run(tempfile.mkdtemp(), "try", pipeline={}, environment={})
        >>> run = read_run(writer.path)
        >>> run.name, run.status
        ('try', 'open')
    """

    path: Path
    name: str
    created: str
    pipeline: Mapping[str, Any]
    environment: Mapping[str, Any]
    lanes: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any] | None
    status: str
    variables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def metrics(self) -> "xr.Dataset":
        """The measurements as labeled arrays; dimensions as in `build_dataset`.

        Read at the first use: from the columns of a closed run, otherwise from the running
        metrics, whose last line is dropped if it is torn.
        """
        # pyarrow and xarray take a second to import, and listing runs needs neither.
        import pyarrow.parquet as pq

        from ._dataset import build_dataset
        from ._table import build_table

        closed, running = self.path / "metrics.parquet", self.path / "metrics.jsonl"
        if closed.exists():
            table = pq.read_table(closed)
        else:
            table = build_table(read_rows(running) if running.exists() else [], self.lanes)
        return build_dataset(table, self.lanes, self.variables)


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads a run's folder.

    Args:
        path: the folder that `create_run` made.

    Returns:
        a `Run`; its `metrics` are read when they are first asked for.

    Raises:
        ValueError: if there is no run at `path`, with the nearest names of runs beside.

    Example:
        >>> read_run("runs/not-there")
        Traceback (most recent call last):
          ...
        ValueError: there is no run at runs/not-there: ...
    """
    path = Path(path)
    if not (path / "pipeline.json").is_file():
        why = "the folder is not a run's" if path.is_dir() else "the path does not exist"
        raise ValueError(f"there is no run at {path}: {why}{_nearest(path)}.")
    about = read_json(path / "run.json", {})
    summary = read_json(path / "summary.json", None)
    return Run(
        path=path,
        name=about.get("name", path.name),
        created=about.get("created", ""),
        pipeline=read_json(path / "pipeline.json", {}),
        environment=read_json(path / "environment.json", {}),
        lanes=tuple(about.get("lanes", [{}])),
        summary=summary,
        status="open" if summary is None else summary.get("status", "finished"),
        variables=about.get("variables", {}),
    )


def list_runs(root: str | os.PathLike[str]) -> list[Run]:
    """The readable runs in a folder, the oldest first; an empty list if there is no such folder.

    Args:
        root: the folder that holds the runs' folders.

    Returns:
        a `Run` for each.

    Example:
        >>> list_runs("nowhere")
        []
    """
    root = Path(root)
    if not root.is_dir():
        return []
    runs = []
    for path in root.glob("*/pipeline.json"):
        # One edited run must not hide the others; `read_run` reports what is wrong.
        with contextlib.suppress(ValueError):
            runs.append(read_run(path.parent))
    return sorted(runs, key=lambda run: (run.created, run.path.name))


def _nearest(path: Path) -> str:
    names = [run.parent.name for run in path.parent.glob("*/pipeline.json")]
    inside = [run.parent.name for run in path.glob("*/pipeline.json")]
    if inside:
        return f"; runs in it: {', '.join(sorted(inside)[-3:])}"
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.3)
    return f"; the nearest are {', '.join(near)}" if near else "; look for it in the runs' folder"
