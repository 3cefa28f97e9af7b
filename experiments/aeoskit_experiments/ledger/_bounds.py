"""The bounds of the claims, fixed before any run, each with the reason for it."""

import fnmatch
import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.ledger._claim import REFERENCE, SIZES, Claim

FILE = Path(__file__).with_name("bounds.toml")
_FIELDS = ("low", "high", "reason")
_GRID = "grid"


class Bounds(msgspec.Struct, frozen=True):
    """The interval that a claim's number must be in, both ends included.

    Args:
        low: None if there is no lower one.
        high: None if there is no upper one.
        reason: The reason for these bounds.

    >>> Bounds(low=5.0).hold(7.3), Bounds(high=1.1).hold(float("nan"))
    (True, False)
    """

    low: float | None = None
    high: float | None = None
    reason: str = ""

    def hold(self, value: float) -> bool:
        """True if a number is between them; never for a number that is not finite."""
        if not math.isfinite(value):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def read_bounds(path: str | os.PathLike[str] = FILE) -> dict[str, Any]:
    """Read a file of bounds.

    Args:
        path: The file; aeoskit's own if not given.

    Returns:
        A mapping from experiment to claim to its table.

    Raises:
        UserError: If it is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"the bounds, {path}, cannot be read: {error}") from error


def bounds_of(claim: Claim, setting: str, size: str, tables: Mapping[str, Any]) -> Bounds:
    """The bounds of a claim in a setting and size.

    The claim's own table is the base, or that of several claims ("lr-*"); in the grid, its table
    `grid` and that of the setting's name override it; then the size's table does.

    Args:
        claim: The claim.
        setting: "reference" or a setting of the grid.
        size: "small" or "paper".
        tables: The value of `read_bounds`.

    Returns:
        The bounds.

    Raises:
        ValueError: If there are none, or they are invalid.
    """
    group = tables.get(claim.experiment, {})
    names = tables_of(claim, group)
    if len(names) > 1:
        raise ValueError(f"claim {claim.key} has several bounds: {', '.join(names)}.")
    own = group[names[0]] if names else None
    if not isinstance(own, Mapping):
        raise ValueError(f"claim {claim.key} has no bounds: give it a table [{claim.key}].")
    table = {name: own[name] for name in _FIELDS if name in own}
    others = ([] if setting == REFERENCE else [_GRID, setting]) + [size]
    for name in others:
        if name in own:
            _check(own[name], f"{claim.key}.{name}", own=False)
            table |= own[name]
    return _check(table, f"{claim.key} ({setting}, {size})", own=True)


def mismatches(claims: Iterable[Claim], tables: Mapping[str, Any]) -> list[str]:
    """The mismatches between the claims and the bounds, in sentences; empty if there are none.

    Args:
        claims: All claims.
        tables: The value of `read_bounds`.
    """
    found = []
    known: dict[str, Claim] = {}
    for claim in claims:
        known[claim.key] = claim
        for setting in claim.settings:
            for size in claim.sizes:
                try:
                    bounds_of(claim, setting, size, tables)
                except ValueError as error:
                    found.append(str(error))
    for experiment, group in tables.items():
        for name, table in group.items():
            key = f"{experiment}.{name}"
            owners = [
                claim
                for claim in known.values()
                if claim.experiment == experiment and name in tables_of(claim, group)
            ]
            if not owners:
                found.append(f"the bounds [{key}] belong to no claim.")
                continue
            settings = {setting for claim in owners for setting in claim.settings}
            allowed = {*_FIELDS, *SIZES, *settings} - {REFERENCE}
            # `grid` of a claim without further settings is unused.
            allowed |= {_GRID} if len(settings) > 1 else set()
            found += [f"[{key}] has {field!r}: no setting of it." for field in {*table} - allowed]
    return list(dict.fromkeys(found))


def tables_of(claim: Claim, group: Mapping[str, Any]) -> list[str]:
    """The names of a claim's tables: its own one, or those of several claims."""
    if claim.name in group:
        return [claim.name]
    return [name for name in group if fnmatch.fnmatchcase(claim.name, name)]


def _check(table: Any, where: str, *, own: bool) -> Bounds:
    if not isinstance(table, Mapping) or (not own and {*table} - {*_FIELDS}):
        raise ValueError(f"bounds {where}: give a table of low, high and reason.")
    low, high, reason = (table.get(name) for name in _FIELDS)
    for value in (low, high):
        if value is not None and (not isinstance(value, int | float) or not math.isfinite(value)):
            raise ValueError(f"bounds {where}: {value!r} is not a number.")
    if low is None and high is None:
        raise ValueError(f"bounds {where}: neither low nor high is given.")
    if own and low is not None and high is not None and low > high:
        raise ValueError(f"bounds {where}: low is {low}, above high, {high}.")
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"bounds {where}: the reason is missing.")
    return Bounds(
        None if low is None else float(low), None if high is None else float(high), reason
    )
