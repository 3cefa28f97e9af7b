"""The closed metrics: an Arrow table, written as Parquet, that plain pandas can read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ._files import write_atomically
from ._lanes import ABSENT, label_values
from ._rows import Row

KEYS = ("branch", "lane", "step")


def column_names(lanes: Sequence[Mapping[str, Any]], taken: set[str]) -> dict[str, str]:
    """The column of each swept name: `swept_<name>` where the plain name is taken.

    >>> column_names([{"lr": 0.1, "loss": "mse"}], {"loss"})
    {'lr': 'lr', 'loss': 'swept_loss'}
    """
    names = dict.fromkeys(name for lane in lanes for name in lane)
    reserved = {*taken, *KEYS, "index"}
    return {name: f"swept_{name}" if name in reserved else name for name in names}


def build_table(rows: Sequence[Row], lanes: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The wide table of some rows: one row per branch, lane and step.

    Args:
        rows: merged.
        lanes: the swept values of each lane.

    Returns:
        columns `branch`, `lane`, `step`; one per swept name; one per measurement, a list where the
        measurement is indexed. Null means not measured, NaN was measured.
    """
    columns: dict[str, pa.Array] = {
        "branch": pa.array([row.branch for row in rows], pa.string()),
        "lane": pa.array([row.lane for row in rows], pa.int32()),
        "step": pa.array([row.step for row in rows], pa.int64()),
    }
    measured = dict.fromkeys(name for row in rows for name in row.values)
    for name, column in column_names(lanes, set(measured)).items():
        values = label_values([lane.get(name, ABSENT) for lane in lanes])
        columns[column] = _swept([values[row.lane] for row in rows])
    for name in measured:
        columns[name] = _measured(name, [row.values.get(name) for row in rows])
    return pa.table(columns)


def _swept(labels: list[Any]) -> pa.Array:
    kind = pa.string() if any(isinstance(label, str) for label in labels) else pa.float64()
    return pa.array(labels, kind)


def _measured(name: str, values: list[Any]) -> pa.Array:
    kinds: set[type] = set()
    ranks = {_scan(value, kinds) for value in values if value is not None}
    if len(ranks) > 1:
        raise ValueError(
            f"the measurement {name!r} is a scalar in one place and indexed in another: "
            "give the two different names."
        )
    kind = pa.bool_() if kinds == {bool} else pa.int64() if kinds == {int} else pa.float64()
    if kind == pa.float64() and kinds - {float}:
        values = [_floats(value) for value in values]
    for _ in range(ranks.pop() if ranks else 0):
        kind = pa.list_(kind)
    return pa.array(values, kind)


def _scan(value: Any, kinds: set[type]) -> int:
    if not isinstance(value, list):
        kinds.add(type(value))
        return 0
    return 1 + max((_scan(item, kinds) for item in value), default=0)


def _floats(value: Any) -> Any:
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return None if value is None else float(value)


def write_table(path: Path, table: pa.Table) -> Path:
    """Writes a table as Parquet, reads it again, and renames it only if it is bit for bit whole.

    Raises:
        OSError: if what was read differs from what was written.
    """

    def write(temporary: Path) -> None:
        pq.write_table(table, temporary)
        unique = pq.read_table(temporary)
        if unique.column_names != table.column_names or not all(
            _same(unique[name].combine_chunks(), table[name].combine_chunks())
            for name in table.column_names
        ):
            raise OSError(f"{path} could not be read back as it was written; the disk may be bad.")

    return write_atomically(path, write)


def _same(a: Any, b: Any) -> bool:
    if a.type != b.type or len(a) != len(b) or not a.is_null().equals(b.is_null()):
        return False
    if pa.types.is_list(a.type):
        return a.value_lengths().equals(b.value_lengths()) and _same(a.flatten(), b.flatten())
    if pa.types.is_floating(a.type):
        # Compared as bits: NaN equals NaN, and -0 is not 0.
        bits = [x.fill_null(0.0).to_numpy(zero_copy_only=False).view(np.int64) for x in (a, b)]
        return np.array_equal(*bits)
    return a.equals(b)
