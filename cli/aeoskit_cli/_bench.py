"""`aeoskit bench`: a benchmark, with the options of its function."""

import inspect
import sys
from typing import Any

import typer

from aeoskit_cli._generate import add_command
from aeoskit_cli._options import OUTPUT
from aeoskit_cli._print import print_json, print_rows, print_table
from aeoskit_experiments import BENCHMARKS, UserError, unknown
from aeoskit_experiments.options import coerce_all, options_of, summary_of

_HELP = ("-h", "--help")


def run_bench(words: list[str]) -> int:
    """Run the benchmark that the words name, with their options.

    Args:
        words: The arguments of `aeoskit bench`.

    Returns:
        The exit code: 1 if the benchmark has a rule that was broken.

    Raises:
        UserError: For an unknown benchmark or option, or an invalid value.
    """
    if not words or words[0] in _HELP:
        _print_help()
        return 0
    if words[0] == "--json":
        words = [*words[1:], words[0]]
    name, *rest = words
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    from aeoskit_experiments.benchmarks import BENCHMARKS as FUNCTIONS

    function = FUNCTIONS[name]

    options = options_of(function, lists="annotated")

    def run(given: dict[str, Any], *, json: bool) -> int:
        values: dict[str, Any] = dict(coerce_all(options, given, where=f"bench {name}"))
        for key, value in values.items():
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise UserError(f"bench {name}: {key} is {value}: it must be at least 1")
        if "progress" in inspect.signature(function).parameters:
            values["progress"] = _progress
        result = function(**values)
        if json:
            print_json(result)
        else:
            _print_result(result)
        return int(result.get("failed", False))

    app = typer.Typer(add_completion=False)
    add_command(
        app,
        f"bench {name}",
        summary_of(function),
        options,
        run,
        extra={"json": OUTPUT["json"]},
    )
    code = app(rest, prog_name=f"aeoskit bench {name}", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _progress(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _print_result(result: dict[str, Any]) -> None:
    """Print a table for each kind of rows, then the notes."""
    rows_of = {key: rows for key, rows in result.items() if key not in ("notes", "failed")}
    tables = {key: rows for key, rows in rows_of.items() if rows}
    for key, rows in tables.items():
        print_rows(rows, key if len(tables) > 1 and key != "rows" else "")
    for note in result.get("notes", ()):
        print(note)


def _print_help() -> None:
    print(
        """Usage: aeoskit bench NAME [OPTIONS]

Run a benchmark: ratios within one run, or counts.
"""
    )
    print_table("benchmarks", BENCHMARKS)
    print("\naeoskit bench NAME --help    the options of a benchmark")
