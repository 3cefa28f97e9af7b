"""`aeoskit show`: the contents of a run's folder, or a suite's."""

from pathlib import Path
from typing import Any

from aeoskit_cli._print import print_columns, print_json, print_numbers, print_table
from aeoskit_experiments import UserError
from aeoskit_experiments.pipelines import Pipeline

SUITE = "suite.json"


def show_record(run: Path, *, json: bool) -> None:
    """Show a run: as a command, as Python, and its numbers; of a suite, its cases.

    Args:
        run: The folder.
        json: Print one JSON object.

    Raises:
        UserError: If the folder's files cannot be read.
    """
    if (run / SUITE).is_file():
        _show_suite(run, json=json)
        return
    stored = _read(run)
    pipeline = Pipeline.from_dict(stored.pipeline)
    summary = dict(stored.summary or {})
    if json:
        print_json(
            {
                "folder": str(stored.path),
                "name": stored.name,
                "created": stored.created,
                "status": stored.status,
                "command": pipeline.to_command(),
                "python": pipeline.to_python(),
                "pipeline": pipeline.to_dict(),
                "environment": stored.environment,
                "summary": summary,
            }
        )
        return
    print_table("", {"run": stored.name, "created": stored.created, "status": stored.status})
    print("\nas a command\n")
    print(f"  {pipeline.to_command()}")
    print("\nas Python\n")
    print("\n".join(f"  {line}" if line else "" for line in pipeline.to_python().splitlines()))
    print_numbers(summary)


def show_runs(root: Path, *, json: bool) -> None:
    """List the runs in a folder.

    Args:
        root: The folder.
        json: Print one JSON object.

    Raises:
        UserError: If there is no such folder.
    """
    from aeoskit.record import list_runs

    if not root.is_dir():
        raise UserError(f"there is no folder {str(root)!r}: give the folder of runs")
    found = list_runs(root)
    if json:
        rows = [
            {"folder": str(x.path), "name": x.name, "created": x.created, "status": x.status}
            for x in found
        ]
        print_json({"runs": rows})
        return
    if not found:
        print(f"no runs in {root}")
        return
    print_columns(
        ("run", "created", "status"),
        [(str(x.path), x.created[:19].replace("T", " "), x.status) for x in found],
    )


def _show_suite(folder: Path, *, json: bool) -> None:
    import json as reader

    try:
        summary = reader.loads((folder / SUITE).read_text())
        cases = {case: str(folder / case) for case in summary["cases"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / SUITE} is not that of a suite: run it again") from error
    if json:
        print_json(summary)
        return
    print_table("", {"suite": summary["name"], "status": summary["status"]})
    print()
    print_table("cases (aeoskit show FOLDER)", cases)
    print_numbers(summary)


def _read(path: Path) -> Any:
    from aeoskit.record import read_run

    try:
        return read_run(path)
    except (ValueError, OSError) as error:
        raise UserError(" ".join(str(error).split())) from error
