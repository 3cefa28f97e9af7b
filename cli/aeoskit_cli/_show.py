"""`aeoskit runs` and `aeoskit show`: a folder of runs, and the contents of a run's own folder."""

from pathlib import Path
from typing import Any

from aeoskit_cli._print import (
    print_columns,
    print_json,
    print_ledger,
    print_numbers,
    print_rows,
    print_sweep,
    print_table,
)
from aeoskit_experiments import UserError
from aeoskit_experiments.parts import changed_since, is_in_file, source_name
from aeoskit_experiments.pipelines import Pipeline, stage_words
from aeoskit_experiments.records import FILES, kind_of, list_records, so_far

_CHANGED = "has changed since: the command runs it as it is now"


def show_record(folder: Path, *, json: bool) -> None:
    """Show a run as a command, as Python, and its numbers; a suite's cases; another's table.

    Args:
        folder: The folder of a run, suite, sweep or ledger.
        json: Print one JSON object.

    Raises:
        UserError: If the folder's files cannot be read.
    """
    shown = {"suite": _show_suite, "sweep": _show_sweep, "ledger": _show_ledger}
    shown.get(kind_of(folder) or "run", _show_run)(folder, json=json)


def show_runs(root: Path, *, json: bool) -> None:
    """List the runs, suites, sweeps and ledgers in a folder.

    Args:
        root: The folder.
        json: Print one JSON object.

    Raises:
        UserError: If there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {str(root)!r}: give the folder of runs")
    found = list_records(root)
    if json:
        import msgspec

        print_json({"runs": msgspec.to_builtins(found)})
        return
    if not found:
        print(f"no runs in {root}")
        return
    print_columns(
        ("folder", "kind", "created", "status"),
        [(x.folder, x.kind, x.created[:19].replace("T", " "), x.status) for x in found],
    )


def _show_run(run: Path, *, json: bool) -> None:
    stored = _read(run)
    pipeline = Pipeline.from_dict(stored.pipeline)
    summary = dict(stored.summary or {})
    code = pipeline.code()
    # A function without a file has no name that a command or another program could use.
    repeatable = all(map(is_in_file, code))
    changed = changed_since(code)
    rows = so_far(stored) if stored.status == "open" else []
    if json:
        print_json(
            {
                "folder": str(stored.path),
                "name": stored.name,
                "created": stored.created,
                "status": stored.status,
                "command": pipeline.to_command() if repeatable else None,
                "python": pipeline.to_python() if repeatable else None,
                "own_parts": {
                    name: {
                        "source": str(run / source_name(name, item)),
                        "sha256": item.sha256,
                        "file": item.file or None,
                        "changed": name in changed,
                    }
                    for name, item in code.items()
                },
                "pipeline": pipeline.to_dict(),
                "environment": stored.environment,
                "summary": summary,
                **({"so_far": rows} if rows else {}),
            }
        )
        return
    print_table("", {"run": stored.name, "created": stored.created, "status": stored.status})
    if repeatable:
        print("\nas a command\n")
        print(f"  {pipeline.to_command()}")
        print("\nas Python\n")
        print("\n".join(f"  {line}" if line else "" for line in pipeline.to_python().splitlines()))
    else:
        print("\nmade in Python, from functions that have no name in a file; its stages\n")
        print("\n".join(f"  {' '.join(stage_words(stage))}" for stage in pipeline.stages))
    if code:
        print()
        print("parts of your own, with the source that ran\n")
        for name, item in code.items():
            print(f"  {_plain(name)}\n    {_plain(str(run / source_name(name, item)))}")
            if item.file:
                now = _CHANGED if name in changed else "has not changed"
                print(f"    {_plain(item.file)} {now}")
        print()
        if repeatable:
            print(f"aeoskit rerun {run} runs this source again")
        else:
            print(
                f"In the Python process that made it, rerun({str(run)!r})\n"
                "runs it again; elsewhere, put the functions at the top of a file"
            )
    print_numbers(summary)
    if rows:
        print_rows(rows, "so far")


def _plain(text: str) -> str:
    """A text of somebody's run, without characters that a terminal takes for commands."""
    return text if text.isprintable() else repr(text)


def _show_sweep(folder: Path, *, json: bool) -> None:
    from aeoskit_experiments.sweeps import read_sweep, sweep_summary

    sweep = read_sweep(folder)
    summary = sweep_summary(sweep)
    if json:
        print_json(summary)
        return
    about = {"sweep": sweep.name, "created": sweep.created, "status": summary["status"]}
    print_table("", about | {"executor": sweep.engine.name})
    command = sweep.pipeline.to_command().removeprefix("aeoskit ")
    print(f"\nas a command\n\n  aeoskit sweep {command}")
    print_sweep(summary)


def _show_ledger(folder: Path, *, json: bool) -> None:
    from aeoskit_experiments.ledger import read_ledger

    ledger = read_ledger(folder)
    if json:
        print_json(ledger.summary(folder))
    else:
        print_ledger(ledger, folder)


def _show_suite(folder: Path, *, json: bool) -> None:
    import json as reader

    try:
        summary = reader.loads((folder / FILES["suite"]).read_text())
        cases = {case: str(folder / case) for case in summary["cases"]}
        about = {"suite": summary["name"], "status": summary["status"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / FILES['suite']} is not that of a suite: run it again"
        ) from error
    if json:
        print_json(summary)
        return
    print_table("", about)
    print()
    print_table("cases (aeoskit show FOLDER)", cases)
    print_numbers(summary)


def _read(path: Path) -> Any:
    from aeoskit.record import read_run

    try:
        return read_run(path)
    except (ValueError, OSError) as error:
        raise UserError(" ".join(str(error).split())) from error
