"""The options that several commands share, each declared once."""

import inspect
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from aeoskit_experiments.parts import Code

Parameters = Mapping[str, tuple[Any, Any]]
"""Options of Typer's own kind: name to (annotation, default)."""

NO_OPTIONS: Parameters = {}
CONTEXT = (typer.Context, inspect.Parameter.empty)
"""The parameter by which a command gets its context."""

NO_CACHE = "--no-cache"
"""A flag of every command, at any position: `main` removes it before parsing."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, no tables")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr")]
NoCache = Annotated[
    bool, typer.Option(NO_CACHE, help="Compile all programs again, and keep none (on any command)")
]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Run its code even if it has not run here before"),
]
Name = Annotated[
    str, typer.Option(help="First part of the name of the run's folder", metavar="NAME")
]
Root = Annotated[str | None, typer.Option(help="Create the new folder in it", metavar="FOLDER")]
Folder = Annotated[
    str | None, typer.Option(help="The run's own folder, which must be new", metavar="FOLDER")
]
Resumable = Annotated[
    str | None,
    typer.Option(help="Its own folder; one that has a part of it is resumed", metavar="FOLDER"),
]
Mesh = Annotated[
    str | None,
    typer.Option(help="Spread each run over devices, as data=4,model=2 says", metavar="AXES"),
]
Devices = Annotated[
    int | None, typer.Option(help="Number of devices; on a CPU they are simulated", metavar="INT")
]

OUTPUT: Parameters = {"json": (Json, False), "quiet": (Quiet, False)}
KEPT: Parameters = {"no_cache": (NoCache, False)}
"""Declared for the help of commands whose programs are kept."""


def ask_about_code(reference: str, code: Code) -> bool:
    """Ask whether code that came with a run may run; without a terminal, it may not."""
    if not sys.stdin.isatty():
        return False
    # What a terminal would take for commands is shown as it is written.
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in code.source)
    print(f"\n{shown}\n", file=sys.stderr)
    return typer.confirm(f"The code above, {reference}, has not run here before. Run it?", err=True)
