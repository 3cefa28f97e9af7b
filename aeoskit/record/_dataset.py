"""The labeled arrays of a table of metrics, with a dimension per swept hyperparameter."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xarray as xr

from aeoskit.probes import CRITERIA

from ._lanes import ABSENT, label_values
from ._table import KEYS, column_names

DIVERGED = "diverged_at"
# As the CF conventions have it.
FLAGS = {"flag_values": list(range(len(CRITERIA))), "flag_meanings": " ".join(CRITERIA)}


def build_dataset(
    table: pa.Table,
    lanes: Sequence[Mapping[str, Any]],
    described: Mapping[str, Mapping[str, str]],
) -> xr.Dataset:
    """The labeled arrays of a run.

    Args:
        table: as `build_table` makes it.
        lanes: the swept values of each lane.
        described: attributes of some variables, by name.

    Returns:
        a dataset with dimensions `branch`, one per swept name (`lr`, `beta1`, ...), `step`, and
        `index` for indexed measurements. Lanes that are not a full grid are along one dimension
        `lane`, with the swept values as its coordinates; what does not vary is a scalar coordinate.
        Everything is float64 with NaN where nothing was measured, except `diverged_at`, an integer
        per branch and lane that is -1 where the lane did not diverge. Columns `…_criterion` have
        the attributes `flag_values` and `flag_meanings`.
    """
    names = [name for name in table.column_names if name not in KEYS]
    swept = column_names(lanes, {name for name in names if name in _measured_names(table, lanes)})
    measured = [name for name in names if name not in swept.values()]
    branches, at_branch = _codes(table["branch"].to_pylist())
    steps, at_step = np.unique(table["step"].to_numpy(), return_inverse=True)
    where = (at_branch, table["lane"].to_numpy(), at_step)
    shape = (len(branches), len(lanes), len(steps))
    dims, coords, order = _sweep_dims(lanes, swept)
    sizes = [len(coords[dim][1]) if dim in coords else len(lanes) for dim in dims]

    def place(array: np.ndarray) -> np.ndarray:
        array = np.take(array, order, axis=1)
        return array.reshape(array.shape[0], *sizes, *array.shape[2:])

    values = {name: _values(table[name].combine_chunks()) for name in measured}
    index = max((array.shape[1] for _, array in values.values() if array.ndim == 2), default=0)
    variables: dict[str, Any] = {}
    for name, (rows, array) in values.items():
        rest = list(array.shape[1:])
        if len(rest) == 1:
            rest = [index]
            array = np.pad(array, ((0, 0), (0, index - array.shape[1])), constant_values=np.nan)
        full = np.full((*shape, *rest), np.nan)
        full[tuple(axis[rows] for axis in where)] = array
        extra = ["index"] if len(rest) == 1 else [f"{name}_{axis}" for axis in range(len(rest))]
        flags = FLAGS if name.endswith("_criterion") else {}
        attributes = {**flags, **described.get(name, {})}
        variables[name] = (["branch", *dims, "step", *extra], place(full), attributes)

    diverged = np.full(shape[:2], -1, np.int64)
    if DIVERGED in variables:
        rows, array = values[DIVERGED]
        np.maximum.at(diverged, (where[0][rows], where[1][rows]), array.astype(np.int64))
    variables[DIVERGED] = (["branch", *dims], place(diverged))
    if index:
        coords["index"] = ("index", np.arange(index))
    return xr.Dataset(variables, {"branch": branches, "step": steps, **coords})


def _measured_names(table: pa.Table, lanes: Sequence[Mapping[str, Any]]) -> set[str]:
    # A swept name is renamed only if a measurement has its name; then both columns are there.
    swept = {name for lane in lanes for name in lane}
    available = set(table.column_names)
    return {name for name in available if name not in swept or f"swept_{name}" in available}


def _codes(labels: list[str]) -> tuple[list[str], np.ndarray]:
    known = {label: place for place, label in enumerate(dict.fromkeys(labels))}
    return list(known), np.array([known[label] for label in labels], np.int64)


def _sweep_dims(
    lanes: Sequence[Mapping[str, Any]], swept: Mapping[str, str]
) -> tuple[list[str], dict[str, Any], np.ndarray]:
    """Dimensions, coordinates, and the order in which the lanes fill the grid."""
    values = {name: [lane.get(name, ABSENT) for lane in lanes] for name in swept}
    unique = {name: list(dict.fromkeys(map(_hashable, of))) for name, of in values.items()}
    varied = [name for name in swept if len(unique[name]) > 1]
    coords = {
        swept[name]: ((), _labels(values[name][:1])[0]) for name in swept if name not in varied
    }
    if len(lanes) == 1:
        return [], coords, np.arange(1)
    sizes = [len(unique[name]) for name in varied]
    places = [[unique[name].index(_hashable(value)) for value in values[name]] for name in varied]
    if varied and math.prod(sizes) == len(lanes):
        flat = np.ravel_multi_index(tuple(np.array(place) for place in places), sizes)
        if len(set(flat.tolist())) == len(lanes):
            axes = {swept[name]: (swept[name], _labels(unique[name])) for name in varied}
            return [swept[name] for name in varied], {**coords, **axes}, np.argsort(flat)
    along = {swept[name]: ("lane", _labels(values[name])) for name in varied}
    coords |= {"lane": ("lane", np.arange(len(lanes))), **along}
    return ["lane"], coords, np.arange(len(lanes))


def _hashable(value: Any) -> Any:
    is_plain = value is ABSENT or isinstance(value, int | float | str | None)
    return value if is_plain else str(value)


def _labels(values: Sequence[Any]) -> np.ndarray:
    labels = label_values(values)
    if any(isinstance(label, str) for label in labels):
        return np.array(["" if label is None else label for label in labels])
    return np.array([np.nan if label is None else label for label in labels], float)


def _values(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """The rows at which a column has a value, and those values as one float64 array."""
    valid = column.is_valid()
    rows = np.flatnonzero(valid.to_numpy(zero_copy_only=False))
    column = column.filter(valid)
    shape = [len(column)]
    inner = column
    while pa.types.is_list(inner.type):
        lengths = inner.value_lengths().to_numpy(zero_copy_only=False)
        if len(lengths) and (lengths != lengths[0]).any():
            return rows, _ragged(column.to_pylist())
        shape.append(int(lengths[0]) if len(lengths) else 0)
        inner = inner.flatten()
    if pa.types.is_boolean(inner.type):
        inner = inner.cast(pa.int8())
    array = inner.to_numpy(zero_copy_only=False).astype(np.float64)
    return rows, array.reshape(shape)


def _ragged(values: list[Any]) -> np.ndarray:
    arrays = [np.asarray(value, np.float64) for value in values]
    rest = np.max([array.shape for array in arrays], axis=0)
    full = np.full((len(arrays), *rest), np.nan)
    for place, array in zip(full, arrays, strict=True):
        place[tuple(slice(size) for size in array.shape)] = array
    return full
