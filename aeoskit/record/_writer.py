"""The writer of a run's folder."""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ._files import encode_json, encode_nonfinite, read_json, to_json_safe, to_plain, write_json
from ._rows import check_measurements, encode_rows, read_rows

Status = Literal["finished", "interrupted", "diverged", "failed"]
FORMAT = 1


class RunWriter:
    """Writes one run: measurements as they come, checkpoints, and the columns at the close.

    Made by `create_run`. It holds no open file between two calls, so that one that is dropped
    (a killed run, a notebook) leaks nothing.

    Args:
        path: the run's folder, which is there.
        lanes: the swept values of each lane.
        created_parents: the parent folders that were made for it, which `discard` may remove.

    Example:
        >>> import tempfile
        >>> writer = create_run(tempfile.mkdtemp(), "try", pipeline={}, environment={})
        >>> writer.append("main", {"loss": [[0.5], [0.25]]}, [0, 1])
        >>> writer.close({}).joinpath("metrics.parquet").exists()
        True
    """

    path: Path
    lanes: list[dict[str, Any]]

    def __init__(self, path: Path, lanes: list[dict[str, Any]], created_parents: list[Path]):
        self.path = path
        self.lanes = lanes
        self._created_parents = created_parents
        self._ranks: dict[str, int] = {}
        self._closed = False
        self._running = path / "metrics.jsonl"
        self._running.touch()

    def append(
        self,
        branch: str,
        measurements: Mapping[str, Any],
        steps: Any,
        *,
        measured: Mapping[str, Any] | None = None,
        lane_offset: int = 0,
    ) -> None:
        """Appends a chunk of measurements and waits until it is on the disk.

        Args:
            branch: its name.
            measurements: name to array `(steps, lanes, *rest)`.
            steps: the step of each row, `(steps,)`.
            measured: name to a mask `(steps,)` or `(steps, lanes)` of where that name was measured
                (elsewhere nothing is written).
            lane_offset: the lane of the first column, for groups that run one after the other.

        Raises:
            ValueError: on shapes that do not fit; nothing of the chunk is written then.
        """
        self._refuse_closed()
        arrays, at, masks = check_measurements(measurements, steps, measured)
        for name, array in arrays.items():
            if array.shape[1] + lane_offset > len(self.lanes) or lane_offset < 0:
                raise ValueError(
                    f"the measurement {name!r} has {array.shape[1]} lanes from lane {lane_offset} "
                    f"on, but the run was created with {len(self.lanes)}: list all lanes then."
                )
            if self._ranks.setdefault(name, array.ndim) != array.ndim:
                raise ValueError(
                    f"the measurement {name!r} has {array.ndim - 2} indices here and had "
                    f"{self._ranks[name] - 2} before: give the two different names."
                )
        lines = encode_rows(branch, arrays, at, masks, lane_offset)
        with open(self._running, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                view = memoryview(lines)
                while view:
                    view = view[file.write(view) or 0 :]
                os.fsync(file.fileno())
            except BaseException:
                # Ctrl-C or a full disk: a torn line may only ever be the last one.
                file.truncate(size)
                raise

    def describe(self, name: str, **attributes: str) -> None:
        """Describes a measurement, in `run.json`; as attributes of its variable in the dataset.

        Args:
            name: that of the measurement.
            attributes: what to say of it, such as `cost`; replaces what was said before.

        Raises:
            ValueError: if the run is closed.
        """
        self._refuse_closed()
        about = read_json(self.path / "run.json", {})
        about.setdefault("variables", {}).setdefault(name, {}).update(attributes)
        write_json(self.path / "run.json", about)

    def mark_diverged(self, branch: str, lane: int | np.integer, step: int | np.integer) -> None:
        """Notes that a lane of a branch diverged at a step: `diverged_at` in the dataset."""
        self.append(branch, {"diverged_at": [[step]]}, [step], lane_offset=int(lane))

    def checkpoint(self, branch: str, step: int | np.integer, carry: Any) -> Path:
        """Saves the array leaves of a carry under `checkpoints/<branch>/<step>/`.

        Returns:
            that folder, which appears whole or not at all. See `load_checkpoint`.
        """
        from ._checkpoints import save_checkpoint

        self._refuse_closed()
        return save_checkpoint(self.path, branch, int(step), carry)

    def figure_path(self, name: str) -> Path:
        """The path, without suffix, at which a figure of this run belongs."""
        return self.path / name

    def close(self, summary: Mapping[str, Any], status: Status = "finished") -> Path:
        """Turns the running metrics into `metrics.parquet` and writes `summary.json`.

        The Parquet file has one row per branch, lane and step: columns `branch`, `lane`, `step`,
        one per swept name and one per measurement (a list where it is indexed), readable by
        `pandas.read_parquet`; null is not measured, floats are kept bit for bit as float64. The
        running metrics are removed only after it has been read back and found the same.

        Args:
            summary: the numbers that the user was shown.
            status: how the run ended.

        Returns:
            the run's folder.

        Raises:
            ValueError: if the status is none of the four, or the run is already closed.
        """
        self._refuse_closed()
        if status not in get_args(Status):
            raise ValueError(f"status is {status!r}, but must be one of {get_args(Status)}.")
        from ._table import build_table, write_table

        table = build_table(read_rows(self._running), self.lanes)
        write_table(self.path / "metrics.parquet", table)
        write_json(self.path / "summary.json", to_json_safe({**summary, "status": status}))
        self._running.unlink()
        self._closed = True
        return self.path

    def discard(self) -> None:
        """Removes the folder, and the parents that were made for it if nothing else is in them."""
        self._closed = True
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in self._created_parents:
            try:
                parent.rmdir()
            except OSError:
                return

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ValueError(f"the run {self.path.name} is closed: create a new one to write to.")


def create_run(
    root: str | os.PathLike[str],
    name: str,
    *,
    pipeline: Mapping[str, Any],
    environment: Mapping[str, Any],
    lanes: Sequence[Mapping[str, Any]] = ({},),
    folder: str | os.PathLike[str] | None = None,
) -> RunWriter:
    """Creates the folder of a run, `<root>/<name>-<time>-<hash of the pipeline>/`.

    Args:
        root: the folder of runs, made if it is not there.
        name: the recipe's name, or any other that can name a folder.
        pipeline: what was asked, as plain data.
        environment: see the function of that name.
        lanes: the swept values of each lane, `[{}]` if nothing is swept.
        folder: the run's own folder in place of the one under `root`.

    Returns:
        a `RunWriter` on the folder, with `pipeline.json`, `environment.json` and `run.json` (name,
        time, lanes) in it.

    Raises:
        ValueError: if the place is a file, is not writable, or `folder` exists; nothing is left
            behind then.

    Example:
        >>> import tempfile
        >>> writer = create_run(tempfile.mkdtemp(), "try", pipeline={"steps": 2}, environment={})
        >>> writer.append("main", {"loss": [[0.5], [0.25]]}, [0, 1])
        >>> folder = writer.close({"loss": 0.25})
        >>> sorted(file.name for file in folder.iterdir())
        ['environment.json', 'metrics.parquet', 'pipeline.json', 'run.json', 'summary.json']
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise ValueError(
            f"the run's name is {name!r}, but it names a folder: use letters, digits, '.', '_', "
            "'+' and '-' only, and begin with a letter or digit."
        )
    if not lanes:
        raise ValueError("lanes is empty: a run without a sweep has one lane, [{}].")
    digest = hashlib.sha256(encode_json(pipeline, sort=True)).hexdigest()[:8]
    now = time.localtime()
    target = Path(root) / f"{name}-{time.strftime('%Y%m%d-%H%M%S', now)}-{digest}"
    if folder is not None:
        target = Path(folder)
        if target.exists() or target.is_symlink():
            raise ValueError(
                f"the folder {target} exists already: choose another one or remove it first."
            )
    created_parents = _make_parents(target.parent)
    path = _make_folder(target, created_parents, unique=folder is None)
    values = [{key: to_plain(value) for key, value in lane.items()} for lane in lanes]
    about = {
        "format": FORMAT,
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z", now),
        "lanes": encode_nonfinite(values),
    }
    try:
        write_json(path / "environment.json", environment)
        write_json(path / "run.json", about)
        # Last, since it is what makes a folder a run.
        write_json(path / "pipeline.json", pipeline)
        return RunWriter(path, values, created_parents)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        _remove(created_parents)
        raise


def _make_parents(parent: Path) -> list[Path]:
    """Makes the missing parents; returns those made, the innermost first."""
    missing = []
    place = Path(os.path.abspath(parent))
    while not place.exists() and not place.is_symlink():
        missing.append(place)
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"runs cannot be stored in {parent}: {place} is a file, not a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(
            f"runs cannot be stored in {parent}: {place} is not writable; choose another folder."
        )
    created_parents: list[Path] = []
    for folder in reversed(missing):
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            _remove(created_parents)
            raise ValueError(f"runs cannot be stored in {parent}: {error.strerror}.") from error
        created_parents.insert(0, folder)
    return created_parents


def _make_folder(target: Path, created_parents: list[Path], *, unique: bool) -> Path:
    path, suffix = target, 1
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError as error:
            if not unique:
                raise ValueError(f"the folder {target} exists already: choose another.") from error
            suffix += 1
            path = target.with_name(f"{target.name}-{suffix}")
        except OSError as error:
            _remove(created_parents)
            raise ValueError(f"the run cannot be stored in {target}: {error.strerror}.") from error


def _remove(created_parents: list[Path]) -> None:
    for folder in created_parents:
        try:
            folder.rmdir()
        except OSError:
            return
