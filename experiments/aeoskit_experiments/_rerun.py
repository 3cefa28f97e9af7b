"""A stored run again, and whether its numbers are the same bit for bit."""

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xarray as xr

from aeoskit.record import read_run
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.execution import Listener, Outcome, execute
from aeoskit_experiments.pipelines import Pipeline


def rerun(
    run: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> tuple[Outcome, dict[str, Any]]:
    """Run a stored run's pipeline again, into a new folder, and compare the measurements.

    Args:
        run: The stored run's folder.
        root: Where to make the new one; beside the stored one if None.
        folder: The new run's very folder.
        listener: Hears of the progress.

    Returns:
        What `execute` returned, and the comparison (see `compare`).

    Raises:
        UserError: If there is no such run or its pipeline cannot be read.
    """
    try:
        stored = read_run(run)
    except (ValueError, OSError) as error:
        raise UserError(" ".join(str(error).split())) from error
    pipeline = Pipeline.from_dict(msgspec.to_builtins(stored.pipeline))
    before = stored.metrics
    place = root if root is not None else stored.path.resolve().parent
    outcome = execute(pipeline, root=place, folder=folder, listener=listener)
    comparison = compare(before, read_run(outcome.folder).metrics)
    return outcome, {"of": str(Path(run)), **comparison}


def compare(before: xr.Dataset, after: xr.Dataset) -> dict[str, Any]:
    """Compare two runs' measurements, every bit of every value.

    Args:
        before: The metrics of one run.
        after: Those of the other.

    Returns:
        `identical`; `differs`, the names of what is different or there only once; `steps`, how
        many steps they share; and a `sentence` for people.

    >>> one = xr.Dataset({"loss": ("step", [1.0, np.nan])}, {"step": [0, 1]})
    >>> compare(one, one.copy(deep=True))["identical"]
    True
    """
    names = sorted({str(name) for name in [*before.variables, *after.variables]})
    differs = [name for name in names if not _same(before, after, name)]
    shared = np.intersect1d(before["step"].values, after["step"].values).size
    if not differs:
        sentence = "the numbers are bit for bit those of the stored run"
    else:
        sentence = f"not the numbers of the stored run: {', '.join(differs)} differ"
        if before["step"].size != after["step"].size:
            sentence += f" (it has {before['step'].size} steps, this one {after['step'].size})"
    return {
        "identical": not differs,
        "differs": differs,
        "steps": int(shared),
        "sentence": sentence,
    }


def _same(before: xr.Dataset, after: xr.Dataset, name: str) -> bool:
    if name not in before.variables or name not in after.variables:
        return False
    one, other = before[name].values, after[name].values
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return np.array_equal(one, other, equal_nan=np.issubdtype(one.dtype, np.inexact))
