"""The ratio of a program's time to that of one pass through each of its loops.

The TPU compiler estimates the cycles of every operation and a time for the whole program, in which
the body of a loop counts once. Its text has the trip counts of loops of known length.
"""

import re
from typing import NamedTuple

_HEADER = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s.*\{\s*$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLS = re.compile(r"\b(body|condition|to_apply|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:true|false)_computation=%?([\w.\-]+)")
_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LIMIT = re.compile(r"%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_BELOW = re.compile(r"^\s+ROOT .* compare\(([^)]*)\), direction=LT")
_REFERENCE = re.compile(r"%?([\w.\-]+)")


class _Call(NamedTuple):
    body: str
    times: int


def loop_factor(compiled_text: str) -> float | None:
    """Ratio of estimated cycles with loops of known length in full to those with each body once.

    Args:
        compiled_text: The optimized HLO text.

    Returns:
        At least 1; None if the compiler estimated no cycles.
    """
    entry, computations = _computations(compiled_text)
    memo: dict[tuple[str, bool], int] = {}

    def cycles(name: str, *, through: bool) -> int:
        if (name, through) not in memo:
            total = 0
            for line in computations.get(name, ()):
                own = _CYCLES.search(line)
                total += int(own[1]) if own else 0
                for call in _calls(line, computations):
                    total += (call.times if through else 1) * cycles(call.body, through=through)
            memo[name, through] = total
        return memo[name, through]

    single_pass = cycles(entry, through=False)
    return cycles(entry, through=True) / single_pass if single_pass else None


def _computations(text: str) -> tuple[str, dict[str, list[str]]]:
    entry, found, current = "", {}, []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header is not None and header[2] != "HloModule":
            current = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith(" "):
            current.append(line)
    return entry, found


def _calls(line: str, computations: dict[str, list[str]]) -> list[_Call]:
    """The computations that a line calls; a fusion's cycles include its computation."""
    named = dict(_CALLS.findall(line))
    if "body" in named and "condition" in named:
        condition, body = named["condition"].lstrip("%"), named["body"].lstrip("%")
        return [_Call(body, _times(line, computations.get(condition, [])))]
    branches = _BRANCHES.findall(line)
    if "branch_computations" in named:
        branches = _REFERENCE.findall(named["branch_computations"])
    if " call(" in line and "to_apply" in named:
        branches = [named["to_apply"].lstrip("%")]
    return [_Call(branch, 1) for branch in branches]


def _times(line: str, condition: list[str]) -> int:
    """The trip count of a loop; 1 if it is not known before the run."""
    known = _KNOWN.search(line)
    if known is not None:
        return int(known[1])
    limits = {match[1]: int(match[2]) for match in map(_LIMIT.search, condition) if match}
    for inner in condition:
        below = _BELOW.match(inner)
        if below is not None:
            # A counter that starts at 0 and increases by 1, as in jax's scans.
            last = _REFERENCE.findall(below[1])[-1]
            return limits.get(last, 1)
    return 1
