"""The running metrics: one JSON object a line, appended; a torn last line is dropped on reading."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ._files import decode_nonfinite, encode_nonfinite, number_array


class Row(msgspec.Struct):
    """The measurements at one step of one lane of one branch."""

    branch: str
    step: int
    lane: int
    values: dict[str, Any]


# The columns and dimensions of a record that are no measurements.
RESERVED = ("branch", "lane", "step", "index")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Row)


def check_measurements(
    measurements: Mapping[str, Any], steps: Any, measured: Mapping[str, Any] | None
) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]:
    """Checks the shapes of a chunk of measurements before any of it is written.

    Args:
        measurements: name to array `(steps, lanes, *rest)`.
        steps: integers `(steps,)`.
        measured: name to mask `(steps,)` or `(steps, lanes)`.

    Returns:
        the three as NumPy arrays, each mask of shape `(steps, lanes)`.

    Raises:
        ValueError: naming the measurement and the shape that it should have, or a name that the
            record uses itself.
    """
    at = np.asarray(steps)
    if at.ndim != 1 or at.dtype.kind not in "iu":
        raise ValueError(
            f"steps has shape {at.shape} and dtype {at.dtype}, "
            "but must be a vector of integers, one a row."
        )
    arrays = {name: number_array(array) for name, array in measurements.items()}
    for name in RESERVED:
        if name in arrays:
            raise ValueError(
                f"a measurement is called {name!r}, and so is a column of the record: give it "
                "another name."
            )
    lanes = {array.shape[1] for array in arrays.values() if array.ndim >= 2}
    masks = {}
    for name, array in arrays.items():
        if array.ndim < 2 or array.shape[0] != at.size or len(lanes) != 1:
            raise ValueError(
                f"the measurement {name!r} has shape {array.shape}, but must have shape "
                f"(steps, lanes, ...) with {at.size} steps and as many lanes as the others."
            )
        if array.dtype.kind not in "fiub":
            raise ValueError(
                f"the measurement {name!r} has dtype {array.dtype}, but only real numbers and "
                "booleans can be stored: convert it first."
            )
        mask = np.ones(array.shape[:2], bool)
        if measured is not None and name in measured:
            given = np.asarray(measured[name], bool)
            if given.shape not in ((at.size,), array.shape[:2]):
                raise ValueError(
                    f"measured[{name!r}] has shape {given.shape}, but must have shape (steps,) "
                    f"or (steps, lanes), here {array.shape[:2]}."
                )
            mask &= given if given.ndim == 2 else given[:, None]
        masks[name] = mask
    return arrays, at, masks


def encode_rows(
    branch: str,
    arrays: dict[str, np.ndarray],
    steps: np.ndarray,
    masks: dict[str, np.ndarray],
    lane_offset: int,
) -> bytes:
    """The lines of a chunk, step by step and lane by lane; what was not measured is left out."""
    columns = []
    for name, array in arrays.items():
        listed = array.tolist()
        # Spelling costs a Python loop, so it is done only where it is needed.
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            listed = encode_nonfinite(listed)
        columns.append((name, listed, masks[name].tolist()))
    lanes = next(iter(arrays.values())).shape[1] if arrays else 0
    rows = []
    for i, step in enumerate(steps.tolist()):
        for lane in range(lanes):
            values = {name: listed[i][lane] for name, listed, mask in columns if mask[i][lane]}
            if values:
                rows.append(Row(branch, step, lane + lane_offset, values))
    return _encoder.encode_lines(rows)


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of a metrics file that may have been cut off at any byte.

    Args:
        path: a `metrics.jsonl`.

    Returns:
        every whole row, merged by branch, lane and step: later values win.

    Raises:
        ValueError: if a line before the last one is not a row: the file was damaged.
    """
    lines = path.read_bytes().split(b"\n")
    return list(_merge(_decode(path, lines)))


def _decode(path: Path, lines: list[bytes]) -> Iterator[Row]:
    last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    for i, line in enumerate(lines[: last + 1]):
        if not line.strip():
            continue
        try:
            row = _decoder.decode(line)
            row.values = {name: decode_nonfinite(value) for name, value in row.values.items()}
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            if i == last:
                return
            raise ValueError(
                f"line {i + 1} of {path} is not a row of measurements ({error}): the file was "
                "damaged after it was written; delete that line to read the others."
            ) from error
        yield row


def _merge(rows: Iterable[Row]) -> Iterable[Row]:
    merged: dict[tuple[str, int, int], Row] = {}
    for row in rows:
        known = merged.setdefault((row.branch, row.lane, row.step), row)
        if known is not row:
            known.values.update(row.values)
    return merged.values()
