"""A stored run repeated, and its numbers compared bit for bit."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xarray as xr

from aeoskit.record import read_run
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.execution import Listener, Outcome, execute
from aeoskit_experiments.parts import Code, changed_since
from aeoskit_experiments.pipelines import Pipeline

_WHOLE = ("finished", "diverged")
_SETTINGS = ("python", "platform", "backend", "devices", "x64", "default_matmul_precision")


def rerun(
    run: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
    placed: Callable[[Pipeline], Pipeline] | None = None,
    allow_code: bool | Callable[[str, Code], bool] = False,
) -> tuple[Outcome, dict[str, Any]]:
    """Run a stored run's pipeline again, into a new folder, and compare the measurements.

    If a run was cut off (interrupted, killed, failed), only the stored steps are compared.

    Args:
        run: The stored run's folder.
        root: Where to make the new one; beside the stored one if None.
        folder: The new run's own folder.
        listener: Receives progress.
        placed: Puts the pipeline on other devices; None for those of the stored one.
        allow_code: Whether users' own parts may run even if they have not run here before, or a
            function that decides for each.

    Returns:
        What `execute` returned, and the comparison (see `compare`), with `of`, the stored run, and
        `environment`, how the stored run's differs where that may change numbers; where the numbers
        differ, `sentence` states it.

    Raises:
        UserError: If there is no such run, its pipeline cannot be read, or it has code that may not
            run.
    """
    try:
        stored = read_run(run)
    except (ValueError, OSError) as error:
        raise UserError(" ".join(str(error).split())) from error
    stored_pipeline = msgspec.to_builtins(stored.pipeline)
    pipeline = Pipeline.from_dict(stored_pipeline, allow_code=allow_code)
    pipeline = pipeline if placed is None else placed(pipeline)
    if listener is not None:
        for name in changed_since(pipeline.code()):
            listener.noted(f"{name} has changed since: the run's own copy is used.")
    before = stored.metrics
    place = root if root is not None else stored.path.resolve().parent
    outcome = execute(pipeline, root=place, folder=folder, listener=listener)
    again = read_run(outcome.folder)
    comparison = compare(
        before,
        again.metrics,
        before_cut=stored.status not in _WHOLE,
        after_cut=again.status not in _WHOLE,
    )
    changed = environment_changes(stored.environment, again.environment)
    if changed and not comparison["identical"]:
        comparison["sentence"] += f"; the environment differs too: {', '.join(changed)}"
    return outcome, {"of": str(Path(run)), **comparison, "environment": changed}


def compare(
    before: xr.Dataset, after: xr.Dataset, *, before_cut: bool = False, after_cut: bool = False
) -> dict[str, Any]:
    """Compare two runs' measurements, every bit of every value.

    Args:
        before: The metrics of one run.
        after: Those of the other.
        before_cut: Whether the first was cut off: then only the steps that it has are compared.
        after_cut: Whether the second was cut off.

    Returns:
        `identical`; `differs`, the names of the variables that differ or that only one of them has;
        `steps`, the number of steps that they share; and a `sentence` to print.

    >>> one = xr.Dataset({"loss": ("step", [1.0, np.nan])}, {"step": [0, 1]})
    >>> compare(one, one.copy(deep=True))["identical"]
    True
    >>> longer = xr.Dataset({"loss": ("step", [1.0, 0.5])}, {"step": [0, 2]})
    >>> compare(one.isel(step=[0]), longer, before_cut=True)["sentence"]
    'the numbers are bit for bit those of the stored run on the 1 stored steps'
    """
    sizes = before["step"].size, after["step"].size
    cut_before, cut_after = before, after
    if before_cut:
        cut_after = _where_stored(after, before)
    if after_cut:
        cut_before = _where_stored(before, after)
    before, after = cut_before, cut_after
    names = sorted({str(name) for name in [*before.variables, *after.variables]})
    differs = [name for name in names if not _same(before, after, name)]
    shared = int(np.intersect1d(before["step"].values, after["step"].values).size)
    what = "stored" if before_cut and not after_cut else "shared"
    cut = f" on the {shared} {what} steps" if before_cut or after_cut else ""
    if not differs:
        sentence = f"the numbers are bit for bit those of the stored run{cut}"
    else:
        sentence = f"not the numbers of the stored run{cut}: {', '.join(differs)} differ"
        if not cut and sizes[0] != sizes[1]:
            sentence += f" (it has {sizes[0]} steps, this one {sizes[1]})"
    return {"identical": not differs, "differs": differs, "steps": shared, "sentence": sentence}


def environment_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The differences between two environments that may change numbers, in words.

    >>> environment_changes({"versions": {"jax": "1"}}, {"versions": {"jax": "2"}})
    ['jax was 1, now 2']
    """
    changed = []
    for group in ("versions", "variables", "data"):
        # Older records have no environment variables and no data.
        one, other = before.get(group), after.get(group)
        if one is not None and other is not None:
            names = sorted({*one, *other})
            changed += [(name, one.get(name), other.get(name)) for name in names]
    for name in _SETTINGS:
        if name in before and name in after:
            changed.append((name, before[name], after[name]))
    return [f"{name} was {_say(a)}, now {_say(b)}" for name, a, b in changed if a != b]


def _say(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "not set" if value is None else str(value)


def _where_stored(dataset: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
    """The part of a dataset whose rows (branch, lane, step) are in another one."""
    places = {
        name: [label for label in other[name].values if label in dataset[name].values]
        for name in ("branch", "step")
        if name in dataset.dims and name in other.dims
    }
    dataset, other = dataset.sel(places), other.sel(places)
    lanes = other["diverged_at"].dims if "diverged_at" in other else ("branch",)
    rows = xr.DataArray(False)
    for name in other.data_vars:
        array = other[name]
        if "step" in array.dims:
            rest = [dim for dim in array.dims if dim not in (*lanes, "step")]
            rows = rows | array.notnull().any(rest)
    kept = {}
    for name, array in dataset.data_vars.items():
        if "step" in array.dims:
            array = array.where(rows)
            if name not in other and not array.notnull().any():
                continue  # it was first measured later
        elif name == "diverged_at" and name in other:
            # Lanes that diverged in these rows; a later divergence is not in the shorter record.
            array = array.where(other[name] >= 0, -1)
        kept[name] = array
    return xr.Dataset(kept, dataset.coords)


def _same(before: xr.Dataset, after: xr.Dataset, name: str) -> bool:
    if name not in before.variables or name not in after.variables:
        return False
    one, other = before[name].values, after[name].values
    text = one.dtype.kind == other.dtype.kind == "U"  # whose width is that of the longest
    if one.shape != other.shape or (one.dtype != other.dtype and not text):
        return False
    return np.array_equal(one, other, equal_nan=np.issubdtype(one.dtype, np.inexact))
