"""The application: its commands, and the form of errors."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from aeoskit_cli._data import make_data_app
from aeoskit_cli._doctor import make_doctor_app
from aeoskit_cli._generate import HELP, Command, RawCommand, UsageError, group_class
from aeoskit_cli._options import (
    KEPT,
    NO_CACHE,
    OUTPUT,
    AllowCode,
    Folder,
    Json,
    NoCache,
    Quiet,
    Root,
    ask_about_code,
)
from aeoskit_cli._pipe import add_pipe, stage_summaries
from aeoskit_cli._placing import MANY, OPTIONS, Placing, taken, with_options
from aeoskit_cli._print import print_json, print_outcome, print_table
from aeoskit_cli._reproduce import reproduce
from aeoskit_cli._subject import Given, subject_app
from aeoskit_cli._sweep import make_sweep_app
from aeoskit_experiments import UserError
from aeoskit_experiments.cache import cache_for_command
from aeoskit_experiments.jobs import (
    LOST,
    ProcessLost,
    exit_at_once,
    is_member,
    reserve_stdout,
    supervise,
    watch_parent,
)
from aeoskit_experiments.parts import short_name
from aeoskit_experiments.pipelines import STAGES, Pipeline, variants_of
from aeoskit_experiments.recipes import make_suite, recipe_names, recipe_summary
from aeoskit_experiments.records import FILES, RecordKind, list_records
from aeoskit_experiments.starters import STARTERS, write_starter

Run = Annotated[
    Path,
    typer.Argument(help="A run's folder, or latest: the last run in runs/", metavar="RUN"),
]

AnyRecord = Annotated[
    Path,
    typer.Argument(help="Its folder, or latest: the last one in runs/", metavar="RUN"),
]

RUNS = "runs"
"""The default folder of runs."""

HINTS = {
    "resume": "a sweep continues with `aeoskit sweep --resume SWEEP`, a run from one of its states "
    "with `aeoskit pipe rewind --run RUN …`, and `aeoskit rerun RUN` runs one again",
    "train": "it is a stage: `aeoskit pipe … train --steps 1000`",
    "ls": "`aeoskit runs` lists runs, and `aeoskit list` what can be run",
    "version": "`aeoskit --version` prints it",
    "help": "`aeoskit --help`, or --help after any command",
}
"""Hints for words that users try."""

USER_ERROR, INTERRUPTED = 2, 130
ORDER = (
    "list",
    "run",
    "pipe",
    "sweep",
    "reproduce",
    "runs",
    "show",
    "rerun",
    "new",
    "data",
    "plan",
    "doctor",
    "bench",
)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the words of `main`."""
    watch_parent()
    words = list(sys.argv[1:] if arguments is None else arguments)
    # It may appear anywhere before `--`, on any command.
    end = words.index("--") if "--" in words else len(words)
    off = NO_CACHE in words[:end]
    words = [word for word in words[:end] if word != NO_CACHE] + words[end:]
    with cache_for_command(off=off):
        return _run(words)


def _run(words: list[str]) -> int:
    if any(word.partition("=")[0] in MANY for word in words) and not is_member():
        code, message = supervise(words)
        return _fail(message, words, code) if message else code
    if is_member():
        reserve_stdout()
    try:
        code = make_app()(words, prog_name="aeoskit", standalone_mode=False)
    except ProcessLost as error:
        return exit_at_once(_fail(str(error), words, LOST))
    except UserError as error:
        code = _fail(str(error), words)
        # An error in only one of several processes: an orderly exit would wait for the others.
        return exit_at_once(code) if is_member() else code
    except UsageError as error:
        message = error.format_message()  # type: ignore[attr-defined]
        if not message:  # no arguments at all: only the help is printed
            return USER_ERROR
        return _fail(message, words)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has ended (`aeoskit list | head`): there is nothing to report.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def make_app() -> typer.Typer:
    """A new instance of the application, with the recipes that are registered now."""
    app = typer.Typer(
        help="Measure neural network training at the adaptive edge of stability.",
        cls=group_class("command", ORDER, hints=HINTS),
        add_completion=True,
        no_args_is_help=True,
        context_settings=HELP,
        rich_markup_mode="rich",
    )
    app.callback()(_before_commands)
    app.command("list", cls=Command, context_settings=HELP, epilog=_example("list --json"))(list_)
    app.add_typer(_make_run_app(), name="run")
    add_pipe(
        app,
        lambda pipeline, **given: _execute({"main": pipeline}, given),
        {**OUTPUT, **OPTIONS, **KEPT},
        "Run an experiment composed of stages. A list of numbers is a sweep: --lr 1e-3,3e-3 "
        "trains both side by side; --batch 16,64 one after the other.",
        _example(
            "pipe data digits --examples 500 model mlp --width 64 loss mse optimizer nadam "
            "--lr 3e-3 track preconditioned_sharpness --every 10 train --steps 1200"
        ),
    )
    app.add_typer(make_sweep_app(), name="sweep")
    for command, example in (
        (reproduce, "reproduce --only E1,E7"),
        (runs, "runs"),
        (show, "show latest"),
        (with_options(rerun), "rerun latest"),
        (new, "new model"),
    ):
        app.command(command.__name__, cls=Command, context_settings=HELP, epilog=_example(example))(
            command
        )
    app.add_typer(make_data_app(), name="data")
    app.add_typer(make_doctor_app(), name="doctor")
    # Their options are read from functions whose import takes seconds.
    for command in (plan, bench):
        app.command(command.__name__, cls=RawCommand, add_help_option=False)(command)
    return app


def _example(words: str) -> str:
    return f"Example: [bold]aeoskit {words}[/bold]"


def _print_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        print(f"aeoskit {version('aeoskit')}")
        raise typer.Exit()
    return wanted


def _before_commands(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version", callback=_print_version, is_eager=True),
    ] = False,
    no_cache: NoCache = False,
) -> None:
    """Declare the option for the help; `main` has removed it already."""


def _make_run_app() -> typer.Typer:
    def make(name: str, **values: Any) -> tuple[str, dict[str, Pipeline]]:
        return name, make_suite(name, **values)

    def act(made: tuple[str, dict[str, Pipeline]], given: Given) -> int:
        name, suite = made
        # A reference's own name: that of a folder.
        return _execute(suite, given, short_name(name).replace("_", "-"))

    return subject_app(
        act,
        make,
        {"root": (Root, None), "folder": (Folder, None), **OUTPUT, **OPTIONS, **KEPT},
        command="run",
        summary="Run a recipe: train, track, store and draw.",
    )


def list_(json: Json = False) -> None:
    """List recipes, stages with their variants, and benchmarks."""
    from aeoskit_experiments import BENCHMARKS

    recipes = {name: recipe_summary(name) for name in recipe_names()}
    if json:
        stages = {
            name: {"summary": kind.summary, "variants": list(variants_of(name))}
            for name, kind in STAGES.items()
        }
        print_json({"recipes": recipes, "stages": stages, "benchmarks": BENCHMARKS})
        return
    print_table("recipes (aeoskit run NAME)", recipes)
    print()
    print_table("stages (aeoskit pipe STAGE VARIANT --option value …)", stage_summaries())
    print()
    print_table("benchmarks (aeoskit bench NAME)", BENCHMARKS)


def runs(
    root: Annotated[Path, typer.Argument(help="The folder of runs", metavar="[FOLDER]")] = Path(
        RUNS
    ),
    json: Json = False,
) -> None:
    """List the runs, suites, sweeps and ledgers in a folder, the oldest first."""
    from aeoskit_cli._show import show_runs

    show_runs(root, json=json)


def show(run: AnyRecord, json: Json = False) -> None:
    """Show a run (as a command, as Python, its numbers), suite, sweep or ledger."""
    from aeoskit_cli._show import show_record

    show_record(_existing(run), json=json)


def rerun(
    run: Run,
    root: Root = None,
    folder: Folder = None,
    json: Json = False,
    quiet: Quiet = False,
    no_cache: NoCache = False,
    allow_code: AllowCode = False,
    *,
    placing: Placing,
) -> int:
    """Run a stored pipeline again, into a new folder beside the run, and compare bit for bit."""
    from aeoskit_cli._progress import Progress
    from aeoskit_experiments import rerun as run_again

    run = _existing(run, ("run",))
    with Progress(quiet=quiet) as progress:
        outcome, comparison = run_again(
            run,
            root=root,
            folder=folder,
            listener=progress,
            placed=placing.apply,
            allow_code=allow_code or ask_about_code,
        )
    if not outcome.leads:
        return outcome.exit_code or int(not comparison["identical"])
    if json:
        print_json({**outcome.summary, "rerun": comparison})
    else:
        print_outcome(outcome.summary, outcome.figures)
        print(comparison["sentence"])
    return outcome.exit_code or int(not comparison["identical"])


def new(
    kind: Annotated[str, typer.Argument(help=", ".join(STARTERS), metavar="KIND")],
    file: Annotated[
        Path | None, typer.Option(help="Write this file (default my_KIND.py)", metavar="FILE")
    ] = None,
) -> None:
    """Write a commented starting file for your own part."""
    reference = write_starter(kind, Path(f"my_{kind}.py") if file is None else file)
    word = STARTERS[kind][0]
    command = f"aeoskit {'run' if word == 'run' else f'pipe … {word}'} {reference}"
    print(f"wrote:   {reference.rpartition(':')[0]}")
    print(f"use it:  {command}")
    print(f"options: aeoskit {word if word == 'run' else f'pipe {word}'} {reference} --help")


def plan(words: Annotated[list[str] | None, typer.Argument(metavar="RUN …")] = None) -> int:
    """Plan a run for devices that are not present: memory, work, communication."""
    from aeoskit_cli._plan import make_plan_app

    return make_plan_app()(words or [], prog_name="aeoskit plan", standalone_mode=False) or 0


def bench(words: Annotated[list[str] | None, typer.Argument(metavar="NAME …")] = None) -> int:
    """Run a benchmark: ratios within one run, or counts."""
    from aeoskit_cli._bench import run_bench

    return run_bench(words or [])


def _execute(suite: dict[str, Pipeline], given: Given, name: str = "") -> int:
    """Run a pipeline, or several: a suite of that name."""
    where = taken(given)
    suite = {case: where.apply(pipeline) for case, pipeline in suite.items()}
    for pipeline in suite.values():
        pipeline.experiment()  # bad input is reported before jax starts its devices
    from aeoskit_cli._progress import Progress
    from aeoskit_experiments import execute
    from aeoskit_experiments.execution import execute_suite

    folders = {key: Path(given[key]) for key in ("root", "folder") if key in given}
    with Progress(quiet=given.get("quiet", False)) as progress:
        if len(suite) == 1:
            outcome = execute(*suite.values(), listener=progress, **folders)
        else:
            outcome = execute_suite(suite, name, listener=progress, **folders)
    if outcome.leads and given.get("json"):
        print_json(outcome.summary)
    elif outcome.leads:
        print_outcome(outcome.summary, outcome.figures)
    return outcome.exit_code


def _existing(path: Path, kinds: tuple[RecordKind, ...] = tuple(FILES)) -> Path:
    """The folder of an existing run; for `latest`, the one of these kinds that began last."""
    if path.exists():
        return path
    if path == Path("latest"):
        found = [record for record in list_records(RUNS) if record.kind in kinds]
        if not found:
            raise UserError(f"there are no runs in {RUNS}/: give the folder of a run")
        return Path(found[-1].folder)
    raise UserError(
        f"there is no run {str(path)!r}: give the folder that a run printed, or latest "
        f"(`aeoskit runs` lists them)"
    )


def _fail(message: str, words: list[str], code: int = USER_ERROR) -> int:
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    if "--json" in words:
        print_json({"error": line})
    return code
