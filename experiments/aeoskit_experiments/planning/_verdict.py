"""The verdict on whether a run fits, and the change that makes it fit, found by compilation."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from ._request import PRODUCT, STEPS, PlanSettings
from ._results import UNKNOWN, Attempt, Row, Verdict
from ._topology import GIB

Compile = Callable[[PlanSettings, Sequence[str] | None], list[Row]]
"""A function from settings and the names of programs (None: all) to their rows."""

WITHOUT_SOLVE = {STEPS, PRODUCT}


class SearchSpace(msgspec.Struct, frozen=True):
    """The possible changes of a run's settings.

    Args:
        rows_per_shard: Examples on each device.
        microbatch: Number of them that are evaluated at a time.
        basis: Number of vectors of the largest solver; 0 without a solver whose basis can be set.
        least_basis: The smallest basis that works.
        remat: Whether the model has rematerialization, and does not use it yet.
        meshes: Other meshes of the same devices, on which a product's own parameters are split too.
    """

    rows_per_shard: int
    microbatch: int
    basis: int
    least_basis: int
    remat: bool
    meshes: tuple[str, ...]


def find_verdict(
    compile: Compile, settings: PlanSettings, space: SearchSpace, memory: int
) -> tuple[list[Row], PlanSettings, Verdict]:
    """Compile the request; if it does not fit, change one setting after the other.

    Cheap changes come first: fewer examples at a time, rematerialized layers, sharded parameters,
    recomputed residuals of a solve, then a smaller basis, which costs products, and a mesh with an
    axis over which the model itself is split, which costs communication. A change that helped is
    kept; one that did not is undone. Only the programs that do not fit are compiled again, until
    they do.

    Args:
        compile: The function that compiles rows; it raises if the run cannot be planned at all.
        settings: The requested settings.
        space: The possible changes.
        memory: Memory of a device in bytes.

    Returns:
        The rows, their settings, and the verdict.
    """
    rows = compile(settings, None)
    tried = [Attempt("", _largest(rows), _all_fit(rows))]
    if tried[0].fits:
        return rows, settings, Verdict(True, "", _fitting(rows, memory), tuple(tried))
    if tried[0].bytes == UNKNOWN:
        why = next(row for row in rows if row.total_bytes == UNKNOWN)
        sentence = f"{why.program} cannot be compiled: {why.refused}"
        return rows, settings, Verdict(False, "", sentence, tuple(tried))
    best, best_bytes, failing = settings, tried[0].bytes, _failing(rows)
    for change in _changes(settings, space, rows, memory):
        if failing & WITHOUT_SOLVE and change.keys() <= {"reuse", "basis"}:
            continue  # These changes affect only a solve.
        candidate = msgspec.structs.replace(best, **change)
        again = compile(candidate, sorted(failing))
        need, fits = _largest(again), _all_fit(again)
        if fits:
            # The others fitted before, and must still fit with this change.
            again = compile(candidate, None)
            need, fits = _largest(again), _all_fit(again)
        flags = spell(candidate, settings)
        tried.append(Attempt(flags, need, fits))
        if fits:
            sentence = f"does not fit as requested ({_needs(tried[0].bytes, memory)}); with {flags}"
            sentence += f" it {_fitting(again, memory)}"
            return again, candidate, Verdict(True, flags, sentence, tuple(tried))
        if UNKNOWN < need < 0.98 * best_bytes:
            best, best_bytes, failing = candidate, need, _failing(again)
    sentence = f"does not fit ({_needs(tried[0].bytes, memory)})"
    if best_bytes < tried[0].bytes:
        sentence += f"; the least was {_gib(best_bytes)} with {spell(best, settings)}"
    sentence += ": take more chips, or chips with more memory"
    return rows, settings, Verdict(False, "", sentence, tuple(tried))


def spell(settings: PlanSettings, before: PlanSettings) -> str:
    """The settings that differ, as on the command line.

    >>> spell(PlanSettings(params="sharded", microbatch=2), PlanSettings())
    '--params sharded --microbatch 2'
    """
    flags = []
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if value != getattr(before, name):
            flags.append(f"--{name}" if value is True else f"--{name} {value}")
    return " ".join(flags)


def _changes(
    settings: PlanSettings, space: SearchSpace, rows: Sequence[Row], memory: int
) -> Iterator[dict[str, Any]]:
    """The changes in order; if arguments alone fill the chip, sharded parameters come first."""
    sharded = {"params": "sharded"} if settings.params == "replicated" else None
    crowded = max(row.argument_bytes for row in rows) > memory / 2
    if sharded and crowded:
        yield sharded
    size = space.microbatch
    while size > 1:
        size = max(1, size // 4)
        yield {"microbatch": size}
    if space.remat:
        yield {"remat": True}
    if sharded and not crowded:
        yield sharded
    if settings.reuse != "recompute":
        yield {"reuse": "recompute"}
    basis = space.basis
    while basis > space.least_basis:
        basis = max(space.least_basis, basis // 2)
        yield {"basis": basis}
    for mesh in space.meshes:
        yield {"mesh": mesh, "params": "sharded"}


def _largest(rows: Sequence[Row]) -> int:
    sizes = [row.total_bytes for row in rows]
    return UNKNOWN if UNKNOWN in sizes else max(sizes)


def _all_fit(rows: Sequence[Row]) -> bool:
    return all(row.fits for row in rows)


def _failing(rows: Sequence[Row]) -> set[str]:
    return {row.program for row in rows if not row.fits}


def _fitting(rows: Sequence[Row], memory: int) -> str:
    largest = max(rows, key=lambda row: row.total_bytes)
    return f"fits: {largest.program} takes {_needs(largest.total_bytes, memory)}"


def _needs(size: int, memory: int) -> str:
    return f"{_gib(size)} of {_gib(memory)}" if memory else _gib(size)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:.2f} MiB"
