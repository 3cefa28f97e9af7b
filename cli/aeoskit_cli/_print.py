"""The output of the command line: one JSON object, or tables that fit in 80 columns."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Keys of a run's row that are not swept values.
_KNOWN = {
    "branch",
    "optimizer",
    "threshold",
    "threshold_of",
    "ratio",
    "ratio_of",
    "window",
    "zeta",
    "zeta_before",
    "zeta_of_sums",
    "uphill",
    "state",
    "arrived",
    "left",
    "fitted",
    "parked",
    "never_below",
    "participation",
    "calibration",
    "edge_step",
    "final_loss",
    "sharpness",
    "preconditioned_sharpness",
    "multiplier",
    "equivalent_ratio",
    "oscillation_modulus",
    "oscillation_angle",
    "reached",
    "transform",
    "matvecs",
    "unconverged",
    "steps",
    "epochs",
    "planned_steps",
    "probe_examples",
    "test_error",
    "test_loss",
    "train_error",
    "rewound_to",
    "diverged_at",
    "result",
    # Unreached limits are in the closing lines.
    "budgets",
}

_THREE_DIGITS = (
    "ratio",
    "zeta",
    "zeta_before",
    "multiplier",
    "equivalent_ratio",
    "oscillation_modulus",
    "oscillation_angle",
)

# The columns of the table with multipliers; None for those left out.
_MULTIPLIERS = {
    "final_loss": "",
    "matvecs": "",
    "threshold": "threshold",
    "multiplier": "multiplier",
    "ratio": "ratio",
    "equivalent_ratio": "ratio by\nmultiplier",
    "reached": "at the\nedge",
}
_OSCILLATION = {"oscillation_modulus": "modulus", "oscillation_angle": "its\nangle"}
# Their headers where the table would be too wide.
_NARROW = {
    "threshold": "thresh-\nold",
    "multiplier": "multi-\nplier",
    "equivalent_ratio": "ratio by\nmulti-\nplier",
    "oscillation_modulus": "modu-\nlus",
}

_RATIO_OF = {
    frozenset({"edge"}): "at the edge",
    frozenset({"threshold"}): "from .9 on",
    frozenset({"end"}): "last fifth",
}
_EDGE_COLUMNS = [("zeta", "ζ\nmedian", False), ("state", "state", False)]

_ADVANCE = {
    "growth": "Adam's raw sharpness, peak over its value at the edge (×)",
    "ratio": "Adam's median ratio to its threshold meanwhile",
    "frozen_growth": "frozen branch's raw sharpness, peak over its value at the freeze (×)",
    "frozen_to_peak": "frozen branch's peak over Adam's",
    "momentum_peak": "momentum's raw sharpness, peak over its threshold",
}


def print_json(value: Any) -> None:
    """Print one strict JSON object on stdout; numbers that are not finite are null."""
    try:
        text = _encode(value)
    except (ValueError, TypeError):  # not finite, or not plain data
        from aeoskit.record import to_json_safe  # here, since it imports jax

        text = _encode(to_json_safe(value))
    print(text)
    sys.stdout.flush()


def _encode(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)


def print_outcome(summary: Mapping[str, Any], figures: Sequence[Path]) -> None:
    """Print a run's table, a row per learning rate, and the path of the figure."""
    print_numbers(summary)
    print_notes(summary)
    for figure in [path for path in figures if path.suffix == ".png"] or list(figures)[:1]:
        _say("figure", figure)
    if summary.get("folder"):
        _say("record", summary["folder"])
    if isinstance(summary.get("seconds"), int | float):
        _say("time", f"{summary['seconds']:.1f} s")


def print_numbers(summary: Mapping[str, Any]) -> None:
    """Print a run's table: a row per learning rate, or per threshold."""
    rows = summary.get("rows") or []
    if any("live_ratio" in row for row in rows):
        print_thresholds(rows)
    elif len({row.get("optimizer") for row in rows}) > 1 and _sweeps_beta2(rows):
        print_edges(rows)
    else:
        print_runs(summary.get("runs") or [])
    _print_advance(summary)


def print_runs(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the summaries of the lanes and branches as a table."""
    if not rows:
        return
    from rich.table import Table
    from rich.text import Text

    columns = _columns(rows)

    def made(*, is_narrow: bool) -> Table:
        padding = (0, 0 if is_narrow else 1)
        table = Table(box=_box(), pad_edge=False, header_style="bold", padding=padding)
        for key, header, is_text in columns:
            align = "left" if is_text else "right"
            shown = _NARROW.get(key, header) if is_narrow and "multiplier" in rows[0] else header
            table.add_column(shown, justify=align, overflow="fold", no_wrap=is_text)
        for row in rows:
            table.add_row(*(Text(_swept_cell(key, row)) for key, _, _ in columns))
        return table

    wide, console = made(is_narrow=False), _console()
    unlimited = console.options.update(width=10_000)
    fits = console.measure(wide, options=unlimited).maximum <= console.width
    _show(wide if fits else made(is_narrow=True))


def _swept_cell(key: str, row: Mapping[str, Any]) -> str:
    # A swept None is a setting; a measured number that is None was not measured.
    return "none" if key not in _KNOWN and row.get(key, 0) is None else _cell(key, row.get(key))


def print_sweep(summary: Mapping[str, Any]) -> None:
    """Print a sweep's table, a row per run, the failures with reasons, and the paths."""
    print_runs(summary["runs"])
    left = 0
    for job in summary["jobs"]:
        if job["status"] == "failed":
            print(f"job {job['index']} failed: {job['error']}")
            print(f"  log: {summary['folder']}/{job['log']}")
        left += job["status"] not in ("finished", "diverged")
    _say("sweep", summary["folder"])
    if "seconds" in summary:
        _say("time", f"{summary['seconds']:.1f} s")
    if left:
        print(f"{_left(left, 'job')}: aeoskit sweep --resume {summary['folder']}")


def _left(count: int, what: str) -> str:
    """The number of things that are still to do.

    >>> _left(1, "job"), _left(2, "job")
    ('1 job is left', '2 jobs are left')
    """
    return f"{count} {what} is left" if count == 1 else f"{count} {what}s are left"


# Headers with line breaks, so that the column is as narrow as its values.
_HEADERS = {
    "operator": "oper-\nator",
    "matvecs": "mat-\nvecs",
    "optimum": "opti-\nmum",
    "residual": "resid-\nual",
    "seconds": "sec-\nonds",
    "converged": "met",
    "matvecs_per_step": "mat-\nvecs\na step",
    "linearize_seconds": "linear-\nize\nms",
}


def print_thresholds(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the test of each optimizer's threshold, P frozen on either side and P live."""
    from rich.table import Table

    table = Table(box=_box(), pad_edge=False, header_style="bold")
    table.add_column("optimizer", no_wrap=True)
    for header in (
        "threshold",
        "loss below\n(×)",
        "loss above\n(×)",
        "thresh-\nold holds",
        "ratio\nlive",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        # By both branches: with only one there is no verdict.
        kept = (
            None
            if row["below"] is None or row["above"] is None
            else bool(row["converges"] and row["diverges"])
        )
        table.add_row(
            str(row["optimizer"]),
            _cell("threshold", row["threshold"]),
            _growth(row["below"]),
            _growth(row["above"]),
            _cell("kept", kept),
            _cell("ratio", row["live_ratio"]),
        )
    _show(table)


def _sweeps_beta2(rows: Sequence[Mapping[str, Any]]) -> bool:
    return len({row["beta2"] for row in rows if row.get("beta2") is not None}) > 1


def print_edges(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print where each optimizer is with respect to the edge at each β₂."""
    from rich.table import Table

    columns = {
        "beta2": "β₂",
        "lr": "η\nlr",
        "ratio": "ratio\nmedian",
        "zeta": "ζ\nmedian",
        "zeta_before": "ζ\nbefore",
    }
    table = Table(box=_box(), pad_edge=False, header_style="bold")
    table.add_column("optimizer", no_wrap=True)
    for header in columns.values():
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for row in rows:
        numbers = (_cell(key, row[key]) for key in columns)
        table.add_row(str(row["optimizer"]), *numbers, _cell("state", row["state"]))
    _show(table)


def _growth(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return _cell("", value)
    return f"{value:.3g}" if 0.01 <= value < 100 or value == 0 else f"{value:.0e}"


def print_rows(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows of one kind as a table, one column per key."""
    from rich.table import Table
    from rich.text import Text

    if title:
        _console().print(Text(title, style="bold"))
    # Many columns are closer together, to fit.
    padding = 1 if len(rows[0]) < 10 else 0
    table = Table(box=_box(), pad_edge=False, header_style="bold", padding=(0, padding))
    for key in rows[0]:
        text = isinstance(rows[0][key], str)
        header = _HEADERS.get(key) or _unit(key).replace("_", "\n")
        table.add_column(header, justify="left" if text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_row_cell(key, value)) for key, value in row.items()))
    _show(table)


def _unit(key: str) -> str:
    return key.replace("_seconds", "\nms").replace("bytes", "MB")


def _row_cell(key: str, value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        if key.endswith("_seconds"):
            return f"{1e3 * value:.2f}" if value < 1 else f"{1e3 * value:.0f}"
        if key == "seconds":
            return f"{value:.2f}"
        if key == "residual" or key.endswith("error"):
            return f"{value:.1e}"
        if key == "rtol":
            return f"{value:.0e}".replace("e-0", "e-")
    if key.startswith("bytes") and value is not None:
        return f"{value / 1e6:.3g}"
    return _cell(key, value)


def print_ledger(ledger: Any, folder: Path) -> None:
    """Print a ledger: a row per claim, the verdict per experiment, and the paths of its pages."""
    from rich.table import Table
    from rich.text import Text

    from aeoskit_experiments.ledger import (
        bounds_words,
        headline,
        number_words,
        seconds_words,
        spread_words,
    )

    several = ledger.asked.seeds > 1
    headers = (
        "claim",
        "value",
        *(["of the seeds"] if several else []),
        "bounds",
        "verdict",
        "time",
    )
    table = Table(box=_box(), pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for header in headers:
        justify = "left" if header in ("claim", "verdict") else "right"
        table.add_column(header, justify=justify, overflow="fold")
    for row in ledger.rows:
        setting = "" if row.setting == "reference" else f"\n   ({row.setting})"
        style = {"pass": "green", "fail": "bold red"}.get(row.verdict, "dim")
        table.add_row(
            f"{row.experiment} {row.claim}{setting}",
            number_words(row.value, row.unit),
            *([spread_words(row)] if several else []),
            bounds_words(row.bounds, row.unit),
            Text(row.verdict, style=style),
            seconds_words(row.seconds),
        )
    _show(table)
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in ledger.rows:
        if row.reason and row.verdict != "pass":
            setting = "" if row.setting == "reference" else f" ({row.setting})"
            reasons.setdefault((row.experiment, row.reason), []).append(row.claim + setting)
    for (experiment, reason), names in reasons.items():
        print(f"{experiment} {', '.join(names)}: {reason}")
    if reasons:
        print()
    print(f"{headline(ledger)}.".replace("; ", ";\n"))
    if ledger.waiting:
        print(f"{_left(ledger.waiting, 'run')}: aeoskit reproduce --folder {folder}")
    _say("page", folder / "ledger.html")
    _say("record", folder)
    _say("time", seconds_words(ledger.seconds))


def print_table(title: str, pairs: Mapping[str, Any]) -> None:
    """Print names and values."""
    from rich.table import Table
    from rich.text import Text

    if title:
        _console().print(Text(title, style="bold"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(Text(name), Text(value if isinstance(value, str) else _cell(name, value)))
    _show(table)


def print_columns(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of text."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=_box(), pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _show(table)


def print_notes(summary: Mapping[str, Any]) -> None:
    """Print remarks on the table: runs that diverged, solves that did not converge."""
    rows = summary.get("runs") or []
    unconverged = sum(int(row.get("unconverged") or 0) for row in rows)
    if unconverged:
        _console().print(
            f"{unconverged} measurements missed their tolerance: "
            "the record has their residuals (raise --basis or --rtol)",
            highlight=False,
        )
    if len(_ratios_of(rows)) > 1:
        _console().print(
            "ratio and ζ: at the edge; of a run that was never there, from the rise of its ratio "
            "to 0.9 to the fit of its data; of one whose ratio did not rise, in its last fifth"
        )
    if any(row.get("parked") for row in rows):
        _console().print("parked: a ratio of 0.9 or more at the end, but nothing oscillates")
    for warning in summary.get("warnings", ()):
        _console().print(warning)
    said_sizes = [row.get("probe_examples") for row in rows]
    # One number, or one for each probe; none is all examples.
    each = [list(one.values()) if isinstance(one, Mapping) else [one] for one in said_sizes]
    sizes = {size for one in each for size in one if size is not None}
    if sizes:
        listed = ", ".join(map(str, sorted(sizes)))
        some = "some " if any(None in one for one in each) else ""
        _console().print(f"{some}eigenvalues are of the loss on a fixed batch of {listed} examples")
    if any("rewound_to" in row for row in rows):
        steps = sorted({row["rewound_to"] for row in rows if "rewound_to" in row})
        _console().print(f"rewound: main begins at step {', '.join(map(str, steps))}")
    if summary.get("status") == "diverged":
        # Of a suite, one that did is enough for this status.
        which = [row.get("diverged_at") is not None for row in rows]
        count = "every run" if all(which) else f"{sum(which)} of {len(which)} runs"
        _console().print(f"{count} diverged: lower the learning rate", highlight=False)
    if summary.get("status") == "interrupted":
        _console().print("stopped before the end: the numbers are those of the finished part")


def _print_advance(summary: Mapping[str, Any]) -> None:
    numbers = {text: summary.get(key) for key, text in _ADVANCE.items() if key in summary}
    if numbers:
        print_table("", numbers)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, bool]]:
    """Key, header (with its unit below) and whether it is text, for each column that matters."""
    found: list[tuple[str, str, bool]] = []
    if len({row.get("branch") for row in rows}) > 1:
        found.append(("branch", "branch", True))
    if len({row.get("optimizer") for row in rows}) > 1:
        found.append(("optimizer", "optimizer", True))
    swept = [key for row in rows for key in row if key not in _KNOWN and row[key] is not None]
    for key in dict.fromkeys(swept):
        text = any(isinstance(row.get(key), str) for row in rows)
        found.append((key, "η\nlr" if key == "lr" else key.replace("_", " "), text))
    symbol = "λ₁(P⁻¹H)" if any(map(_is_adaptive, rows)) else "λ₁(H)"
    found += [
        ("threshold", f"threshold\nof {symbol}", False),
        ("ratio", f"ratio\n{_RATIO_OF.get(_ratios_of(rows), 'median')}", False),
        *_EDGE_COLUMNS[: 2 * any(row.get("state") for row in rows)],
        ("final_loss", "loss\nfinal", False),
        ("matvecs", "products\nH·v", False),
    ]
    for key in ("train_error", "test_error"):
        if any(row.get(key) is not None for row in rows):
            found.append((key, key.replace("_", "\n"), False))
    if any("multiplier" in row for row in rows):
        # The two ratios are for comparison; columns that do not fit are in the record.
        found = [item for item in found if item[0] not in _MULTIPLIERS]
        found += [(key, header, False) for key, header in _MULTIPLIERS.items() if header]
        if any("oscillation_modulus" in row for row in rows):
            found += [(key, header, False) for key, header in _OSCILLATION.items()]
    if any(row.get("diverged_at") is not None for row in rows):
        found.append(("diverged_at", "diverged\nat step", False))
    return found


def _ratios_of(rows: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The parts of the runs that their ratios are of; older summaries have that of the end."""
    return frozenset(row.get("ratio_of", "end") for row in rows if row.get("ratio") is not None)


def _is_adaptive(row: Mapping[str, Any]) -> bool:
    """True if a row's threshold is one of `λ₁(P⁻¹H)`; older summaries do not record it."""
    adaptive = "preconditioned_sharpness"
    return row.get("threshold_of") == adaptive or row.get(adaptive) is not None


def _cell(key: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if key == "matvecs" else str(value)
    if isinstance(value, float):
        if key in _THREE_DIGITS and abs(value) < 1e3:  # a diverged lane can have any value
            return f"{value:.3f}"
        if 1e3 <= abs(value) < 1e6:  # 38,000 rather than 3.8e+04
            return f"{value:,.0f}"
        return f"{value:.0e}" if abs(value) >= 1e6 else f"{value:.4g}"
    return str(value)


def _say(name: str, value: Any) -> None:
    # Paths are printed whole, on one line, so that they can be copied.
    print(f"{name + ':':8} {value}")


def _console() -> Any:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=False)


def _show(table: Any) -> None:
    """Print a table without trailing blanks."""
    console = _console()
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _box() -> Any:
    from rich import box

    return box.SIMPLE_HEAD
