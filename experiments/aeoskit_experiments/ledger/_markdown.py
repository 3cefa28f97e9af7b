"""The ledger as Markdown: a table for each experiment."""

import re

from aeoskit_experiments.ledger._claim import EXPERIMENTS, REFERENCE
from aeoskit_experiments.ledger._ledger import Ledger, Row
from aeoskit_experiments.ledger._words import (
    TAGS,
    alternative_words,
    bounds_words,
    facts,
    figures_of,
    headline,
    ratios_words,
    seconds_words,
    value_words,
)

_COLUMNS = ("claim", "setting", "value", "bounds", "alternative", "verdict", "time")


def markdown_page(ledger: Ledger) -> str:
    """The ledger as one Markdown page; figures are links into its folder.

    Args:
        ledger: The ledger.

    Returns:
        The page.
    """
    lines = ["# The ledger of claims", "", f"{headline(ledger)}.", ""]
    for name, text in facts(ledger).items():
        lines.append(f"- {name}: `{text}`" if name == "command" else f"- {name}: {_plain(text)}")
    lines += [f"- {_plain(note)}" for note in ledger.notes]
    if ledger.ratios is not None:
        lines += ["", f"![{ratios_words(ledger)}]({ledger.ratios})"]
    for experiment, verdict in ledger.experiments.items():
        rows = [row for row in ledger.rows if row.experiment == experiment]
        lines += ["", f"## {experiment}: {EXPERIMENTS[experiment]} ({verdict})", ""]
        lines += [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
        lines += [_line(_cells(row)) for row in rows]
        for title, each in (("Bounds", "bounds_reason"), ("Alternatives", "alternative")):
            lines += _notes(rows, title, each)
        for label, figure in figures_of(ledger, rows):
            lines += ["", f"![{experiment}: {_plain(label)}]({figure})"]
    return "\n".join([*lines, "", _plain(TAGS)]) + "\n"


def _cells(row: Row) -> list[str]:
    verdict = "**fail**" if row.verdict == "fail" else row.verdict
    return [
        _plain(row.says),
        "" if row.setting == REFERENCE else _plain(row.setting),
        value_words(row),
        bounds_words(row.bounds, row.unit),
        alternative_words(row),
        verdict + (f": {_plain(row.reason)}" if row.reason else ""),
        seconds_words(row.seconds),
    ]


def _notes(rows: list[Row], title: str, field: str) -> list[str]:
    """A text of each row, such as the reason of its bounds, each once."""
    names: dict[str, list[str]] = {}
    for row in rows:
        text = names.setdefault(getattr(row, field), [])
        name = row.claim if row.setting == REFERENCE else f"{row.claim} ({row.setting})"
        text += [] if name in text else [name]
    notes = [f"{_plain(', '.join(n))}: {_plain(r)}" for r, n in names.items() if r]
    return ["", f"{title}: {' '.join(notes)}"] if notes else []


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """Text with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))
