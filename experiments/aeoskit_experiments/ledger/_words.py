"""Numbers, bounds and machines as text, the same on every page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aeoskit_experiments.ledger._claim import TRIAL_SEEDS
from aeoskit_experiments.ledger._ledger import Ledger, Row

DASH = "–"
TAGS = (
    "Origin of a bound: [C] read in a source, [2] read in a source that restates the paper, "
    "[D] derived and checked, [R] recalled, [M] measured in earlier runs, [A] set "
    "when this ledger was planned."
)
_TIGHT = ("", "×", "%")


def number_words(value: float | None, unit: str = "") -> str:
    """A number in three digits.

    >>> number_words(7.3241, "×"), number_words(None), number_words(38000.0)
    ('7.32×', '–', '38,000')
    """
    if value is None or not math.isfinite(value):
        return DASH
    size = abs(value)
    if size and (size >= 1e6 or size < 1e-3):
        text = f"{value:.2e}"
    elif size >= 100:
        text = f"{value:,.0f}"
    else:
        # Trailing zeros show the precision, except for a whole number.
        text = f"{value:#.3g}" if value != int(value) else f"{value:.0f}"
    joint = "" if unit in _TIGHT else " "
    return f"{text}{joint}{unit}"


def bounds_words(bounds: tuple[float | None, float | None], unit: str = "") -> str:
    """Bounds in words.

    >>> bounds_words((5.0, None)), bounds_words((0.9, 1.1)), bounds_words((1.0, 1.0))
    ('≥ 5', '0.9 to 1.1', '= 1')
    """
    # As given: more digits would suggest a precision that was not meant.
    low, high = (None if end is None else f"{end:,.6g}" for end in bounds)
    joint = "" if unit in _TIGHT else " "
    if low is None and high is None:
        return DASH
    if low is None:
        return f"≤ {high}{joint}{unit}"
    if high is None:
        return f"≥ {low}{joint}{unit}"
    if low == high:
        return f"= {low}{joint}{unit}"
    return f"{low} to {high}{joint}{unit}"


def value_words(row: Row) -> str:
    """A row's number, with that of each seed if there are several."""
    text = number_words(row.value, row.unit)
    values = values_words(row)
    return f"{text} ({values})" if values else text


def values_words(row: Row) -> str:
    """The number of each seed, in order; empty if there is only one."""
    if not any(value is not None for value in row.values) or len(row.seeds) < 2:
        return ""
    return ", ".join(map(number_words, row.values))


def spread_words(row: Row) -> str:
    """The range over a row's seeds; empty if there is only one."""
    if row.spread is None or len(row.seeds) < 2:
        return ""
    return " to ".join(map(number_words, row.spread))


def alternative_words(row: Row) -> str:
    """The number if the claim were false, of the seed that comes closest to it.

    A dash if that was not measured.
    """
    pairs = zip(row.values, row.alternatives, strict=False)
    known = [
        (abs(value - other), other)
        for value, other in pairs
        if value is not None and other is not None
    ]
    return number_words(min(known)[1], row.unit) if known else DASH


def seconds_words(seconds: float | None) -> str:
    """A duration; a dash if there is none.

    >>> seconds_words(7.3), seconds_words(125.0), seconds_words(8000.0)
    ('7 s', '2 min 5 s', '2 h 13 min')
    """
    if not seconds:
        return DASH
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def machine_words(environment: Mapping[str, Any]) -> str:
    """The machine that the runs ran on.

    >>> machine_words({"cpu_count": 2, "devices": ["cpu"], "platform": "Linux"})
    '2 cores, Linux'
    """
    if not environment:
        return "not known yet: nothing has run"
    devices = [name for name in environment.get("devices") or () if name != "cpu"]
    parts = [f"{len(devices)} × {devices[0]}"] if devices else []
    return ", ".join(
        [*parts, f"{environment.get('cpu_count')} cores", str(environment.get("platform"))]
    )


def version_words(environment: Mapping[str, Any]) -> str:
    """The versions of Python and the packages.

    >>> version_words({"python": "3.12.1", "versions": {"jax": "0.11.0", "numpy": None}})
    'Python 3.12.1, jax 0.11.0'
    """
    if not environment:
        return DASH
    versions = environment.get("versions") or {}
    parts = [f"{name} {version}" for name, version in versions.items() if version]
    return ", ".join([f"Python {environment.get('python')}", *parts])


def facts(ledger: Ledger) -> dict[str, str]:
    """The head of a page."""
    works = f"{len(ledger.works) - ledger.waiting} of {len(ledger.works)}"
    taken = seconds_words(ledger.seconds)
    return {
        "date": ledger.updated.replace("T", " ")[:16],
        "machine": machine_words(ledger.environment),
        "versions": version_words(ledger.environment),
        "size": ledger.asked.size,
        "seeds": f"{_listed(ledger.asked.judged_seeds)} (settings were looked for on "
        f"{_listed(TRIAL_SEEDS)})",
        "runs": f"{works} done, {taken}" if ledger.waiting else f"{len(ledger.works)}, {taken}",
        "command": ledger.asked.command,
    }


def _listed(seeds: Sequence[int]) -> str:
    """Whole numbers in words.

    >>> _listed((0, 1, 2)), _listed((4,))
    ('0, 1 and 2', '4')
    """
    *most, last = map(str, seeds)
    return f"{', '.join(most)} and {last}" if most else last


def headline(ledger: Ledger) -> str:
    """The result in one sentence."""
    verdicts = list(ledger.experiments.values())
    counts = ledger.counts
    parts = f"{verdicts.count('pass')} of {len(verdicts)} experiments passed"
    claims = [f"{counts['pass']} of {len(ledger.rows)} claims passed"]
    claims += [f"{counts['fail']} failed"] if counts["fail"] else []
    if counts["unreachable"]:
        claims.append(f"{counts['unreachable']} could not be judged here")
    return f"{parts}; {', '.join(claims)}"


def ratios_words(ledger: Ledger) -> str:
    """The caption of the figure of all ratios."""
    parts = "All numbers that are ratios to a threshold. Shaded: their bounds"
    if ledger.asked.seeds > 1:
        parts += "; thin lines: the range over seeds"
    return f"{parts}; crosses: claims that failed; rings: those that could not be judged"


def figures_of(ledger: Ledger, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The figures that belong to some rows, for one seed: a caption and a file each."""
    wanted = {name for row in rows for name in row.works}
    first, *_ = ledger.asked.judged_seeds
    found = []
    together: set[str] = set()
    for figure, works in ledger.pictures.items():
        if wanted & {*works}:
            found.append((f"{Path(figure).stem}, one panel per case", figure))
            together |= {*works}
    for work in ledger.works:
        # The seed is the last part of the name.
        name = work.key.rpartition(".")[0]
        if work.figure and name in wanted and name not in together and work.seed == first:
            found.append((work.label, work.figure))
    return found
