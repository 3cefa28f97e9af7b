"""`aeoskit sweep`: a recipe or a pipeline whose lists of values become jobs."""

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from aeoskit_cli._generate import (
    HELP,
    AllowCode,
    NoCache,
    RawCommand,
    add_command,
    ask_about_code,
    group_class,
)
from aeoskit_cli._print import print_json, print_runs
from aeoskit_experiments import UserError
from aeoskit_experiments.pipelines import with_place

# Name to type, metavar and help; each may come before the recipe or after it.
_OPTIONS: dict[str, tuple[type, str, str]] = {
    "executor": (str, "NAME", "Executor of the jobs: processes (default), dask or submitit"),
    "workers": (int, "INT", "Jobs at a time: processes (default one per GPU or core), or SLURM's"),
    "address": (str, "ADDRESS", "Address of the dask scheduler"),
    "slurm": (str, "KEY=VALUE,…", "Request to SLURM: time=MINUTES,partition=NAME,…"),
    "root": (str, "FOLDER", "Create the sweep's folder in it"),
    "folder": (str, "FOLDER", "The sweep's own folder; one with this sweep is resumed"),
    "mesh": (str, "AXES", "Spread each job over its devices, as data=4,model=2 says"),
    "devices": (int, "INT", "Number of devices of each job; on a CPU they are simulated"),
}
_RESUME = typer.Option(help="Run the unfinished and failed jobs of this sweep", metavar="SWEEP")

OptionValues = dict[str, Any]


def make_sweep_app() -> typer.Typer:
    """A new instance of the command: a group of `pipe` and the recipes that are registered now."""
    from aeoskit_experiments.recipes import recipe_names, recipe_options, recipe_summary

    def add_recipe(app: typer.Typer, name: str) -> None:
        action = _recipe_action(name, before)
        summary = recipe_summary(name)
        add_command(app, name, summary, recipe_options(name), action, extra=options, kept=True)

    app = typer.Typer(
        help="Run each combination of the values as a job: on processes, dask or SLURM.",
        cls=group_class("recipe", make=add_recipe),
        context_settings=HELP,
        subcommand_metavar="RECIPE|pipe [OPTIONS]",
    )
    before: OptionValues = {}

    def begin(
        context: Any, resume: Path | None, allow_code: bool, no_cache: bool, **given: Any
    ) -> int:
        if context.invoked_subcommand is not None:
            if resume is not None:
                raise UserError(
                    f"sweep --resume {resume} has its recipe stored in it: "
                    f"leave {context.invoked_subcommand} out"
                )
            before.update(given)
            return 0
        if resume is None:
            print(context.get_help())
            return 0
        return _resume(resume, given, allow_code)

    options = _extras()
    _sign(
        begin,
        {
            "context": (typer.Context, inspect.Parameter.empty),
            "resume": (Annotated[Path | None, _RESUME], None),
            "allow_code": (AllowCode, False),
            **options,
            "no_cache": (NoCache, False),
        },
    )
    app.callback(invoke_without_command=True)(begin)
    for name in recipe_names():
        add_recipe(app, name)

    def pipe(words: Annotated[list[str] | None, typer.Argument(metavar="STAGE …")] = None) -> int:
        """Sweep over an experiment composed of stages."""
        return _sweep_pipe(words or [], before)

    app.command("pipe", cls=RawCommand, add_help_option=False)(pipe)
    return app


def _extras() -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {
        name: (Annotated[kind | None, typer.Option(help=overrides, metavar=metavar)], None)
        for name, (kind, metavar, overrides) in _OPTIONS.items()
    }
    json = typer.Option("--json", help="Print one JSON object on stdout, no tables")
    quiet = typer.Option("--quiet", "-q", help="No progress on stderr")
    return found | {
        "json": (Annotated[bool, json], False),
        "quiet": (Annotated[bool, quiet], False),
    }


def _sign(function: Callable[..., Any], parameters: Mapping[str, tuple[Any, Any]]) -> None:
    """Give a function the signature from which Typer reads its options."""
    kind = inspect.Parameter.KEYWORD_ONLY
    signature = [
        inspect.Parameter(name, kind, annotation=annotation, default=default)
        for name, (annotation, default) in parameters.items()
    ]
    function.__signature__ = inspect.Signature(signature)  # pyright: ignore[reportFunctionMemberAccess]
    function.__annotations__ = {name: item[0] for name, item in parameters.items()}


def _recipe_action(name: str, before: OptionValues) -> Callable[..., int]:
    def action(values: OptionValues, **given: Any) -> int:
        from aeoskit_experiments.recipes import make_recipe

        return _sweep(make_recipe(name, **values), _merge(before, given))

    return action


def _sweep_pipe(words: list[str], before: OptionValues) -> int:
    from aeoskit_cli._cut import cut
    from aeoskit_cli._pipe import compose, print_stage_help

    pieces = cut(words, [f"--{name}" for name in _OPTIONS])
    if pieces.help or not words:
        print(_PIPE_HELP)
        return 0
    if pieces.pieces and pieces.pieces[-1].help:
        print_stage_help(pieces.pieces[-1])
        return 0
    given: OptionValues = {flag[2:]: value for flag, value in pieces.extra.items()}
    for name in ("workers", "devices"):
        if name in given:
            if not given[name].isdigit():
                raise UserError(f"sweep: {name} is {given[name]!r}: give a whole number")
            given[name] = int(given[name])
    given |= {"json": pieces.json, "quiet": pieces.quiet}
    return _sweep(compose(pieces), _merge(before, given))


_PIPE_HELP = """Usage: aeoskit sweep pipe [OPTIONS OF sweep] STAGE [VARIANT] [OPTIONS] …

Run each combination of the values of an experiment composed of stages as a job.
The stages are those of `aeoskit pipe --help`, the options those of
`aeoskit sweep --help`; they may appear anywhere.

  aeoskit sweep pipe --executor processes --workers 4 \\
    data digits --examples 500 model mlp --width 32,64 loss mse \\
    optimizer adam --lr 1e-3,3e-3 track preconditioned_sharpness \\
    train --steps 1200"""


def _merge(before: OptionValues, given: OptionValues) -> OptionValues:
    """The options before the name, overridden by those after it."""
    overrides = {k: v for k, v in given.items() if v is not None and v is not False}
    return {**before, **overrides}


def _sweep(pipeline: Any, given: OptionValues) -> int:
    given = {name: value for name, value in given.items() if value is not None}
    place = {name: given.pop(name) for name in ("mesh", "devices") if name in given}
    pipeline = with_place(pipeline, **place)
    pipeline.experiment()  # bad input is reported before jax is imported
    from aeoskit_experiments import sweep

    json, quiet = given.pop("json", False), given.pop("quiet", False)
    progress = None if quiet else _tell
    return _print(sweep(pipeline, **_parsed(given), progress=progress), json=json)


def _resume(folder: Path, given: OptionValues, allow_code: bool) -> int:
    from aeoskit_experiments import resume_sweep

    given = {name: value for name, value in given.items() if value is not None}
    json, quiet = given.pop("json"), given.pop("quiet")
    for name in ("root", "folder", "mesh", "devices"):
        if name in given:
            raise UserError(f"sweep --resume {folder} takes no --{name}: the sweep keeps its own")
    progress = None if quiet else _tell
    allowed = allow_code or ask_about_code
    outcome = resume_sweep(folder, **_parsed(given), progress=progress, allow_code=allowed)
    return _print(outcome, json=json)


def _parsed(given: OptionValues) -> OptionValues:
    if "slurm" in given:
        from aeoskit_experiments.sweeps import parse_slurm

        return {**given, "slurm": parse_slurm(given["slurm"])}
    return given


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _print(outcome: Any, *, json: bool) -> int:
    if json:
        print_json(outcome.summary)
    else:
        print_sweep(outcome.summary)
    return outcome.exit_code


def print_sweep(summary: Mapping[str, Any]) -> None:
    """Print a sweep's table, a row per run, the failures with reasons, and the paths."""
    print_runs(summary["runs"])
    left = 0
    for job in summary["jobs"]:
        if job["status"] == "failed":
            print(f"job {job['index']} failed: {job['error']}")
            print(f"  log: {summary['folder']}/{job['log']}")
        left += job["status"] not in ("finished", "diverged")
    print(f"sweep:   {summary['folder']}")
    print(f"time:    {summary['seconds']:.1f} s")
    if left:
        print(f"{left} jobs are left: aeoskit sweep --resume {summary['folder']}")
