"""The application: its commands, and the form of errors."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from aeoskit_cli._data import make_data_app
from aeoskit_cli._generate import (
    CACHE_HELP,
    HELP,
    JSON_HELP,
    NO_CACHE,
    AllowCode,
    Command,
    NoCache,
    RawCommand,
    UsageError,
    add_command,
    ask_about_code,
    group_class,
)
from aeoskit_cli._placing import MANY, OPTIONS, Placing, placing, taken, with_options
from aeoskit_cli._print import print_json, print_outcome, print_table
from aeoskit_cli._reproduce import reproduce
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
from aeoskit_experiments.starters import STARTERS, write_starter

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, no tables")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr")]
Root = Annotated[str | None, typer.Option(help="Create the run's folder in it", metavar="FOLDER")]
Folder = Annotated[
    str | None, typer.Option(help="The run's own folder, which must be new", metavar="FOLDER")
]
Run = Annotated[
    Path,
    typer.Argument(help="A run's folder, or latest: the last one in runs/", metavar="RUN"),
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
    from aeoskit_experiments.recipes import recipe_names, recipe_options, recipe_summary

    def add_recipe(app: typer.Typer, name: str) -> None:
        add_command(
            app,
            name,
            recipe_summary(name),
            recipe_options(name),
            _recipe_action(name),
            epilog=_example(f"run {name} --json"),
            extra={
                "root": (Root, None),
                "folder": (Folder, None),
                "json": (Json, False),
                "quiet": (Quiet, False),
                **OPTIONS,
            },
            kept=True,
        )

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
    recipes = typer.Typer(
        help="Run a recipe: train, track, store and draw.",
        cls=group_class("recipe", make=add_recipe),
        no_args_is_help=True,
        context_settings=HELP,
        subcommand_metavar="RECIPE [OPTIONS]",
    )
    # The callback keeps it a group even with a single recipe.
    recipes.callback()(_before_recipes)
    for name in recipe_names():
        add_recipe(recipes, name)
    app.add_typer(recipes, name="run")
    app.command("pipe", cls=RawCommand, add_help_option=False)(pipe)
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
    # They contain a recipe or a pipeline with its own options.
    for command in (plan, doctor):
        app.command(command.__name__, cls=RawCommand, add_help_option=False)(command)
    # Its options are those of the benchmark, whose import takes seconds.
    app.command("bench", cls=RawCommand, add_help_option=False)(bench)
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
    no_cache: Annotated[
        bool,
        typer.Option(NO_CACHE, help=f"{CACHE_HELP[NO_CACHE]} (on any command)"),
    ] = False,
) -> None:
    """Declare the option for the help; `main` has removed it already."""


def _before_recipes(no_cache: NoCache = False) -> None:
    """Declare the option for the help, as above."""


def _recipe_action(name: str) -> Any:
    def action(values: dict[str, Any], *, json: bool, quiet: bool, **place: Any) -> int:
        from aeoskit_experiments.recipes import make_suite

        where = taken(place)
        suite = {
            case: where.apply(pipeline) for case, pipeline in make_suite(name, **values).items()
        }
        if len(suite) > 1:
            # A reference's own name: that of a folder.
            title = short_name(name).replace("_", "-")
            return _execute_suite(suite, title, json=json, quiet=quiet, **place)
        (pipeline,) = suite.values()
        return _execute(pipeline, json=json, quiet=quiet, **place)

    return action


def list_(json: Json = False) -> None:
    """List recipes, stages with their variants, and benchmarks."""
    from aeoskit_experiments import BENCHMARKS
    from aeoskit_experiments.recipes import recipe_names, recipe_summary

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
    print_table(
        "stages (aeoskit pipe STAGE VARIANT --option value …)",
        {
            name: kind.summary + (": " + ", ".join(variants_of(name)) if kind.variants else "")
            for name, kind in STAGES.items()
        },
    )
    print()
    print_table("benchmarks (aeoskit bench NAME)", BENCHMARKS)


def pipe(words: Annotated[list[str] | None, typer.Argument(metavar="STAGE …")] = None) -> int:
    """Run an experiment composed of stages."""
    from aeoskit_cli._cut import cut
    from aeoskit_cli._pipe import compose, print_stage_help

    pieces = cut(words or [])
    if pieces.help or (not pieces.pieces and not words):
        _print_pipe_help()
        return 0
    if pieces.pieces and pieces.pieces[-1].help:
        print_stage_help(pieces.pieces[-1])
        return 0
    pipeline = placing(pieces.placing).apply(compose(pieces))
    return _execute(pipeline, json=pieces.json, quiet=pieces.quiet)


def runs(
    root: Annotated[Path, typer.Argument(help="The folder of runs", metavar="[FOLDER]")] = Path(
        RUNS
    ),
    json: Json = False,
) -> None:
    """List the runs in a folder, the oldest first."""
    from aeoskit_cli._show import show_runs

    show_runs(root, json=json)


def show(run: Run, json: Json = False) -> None:
    """Show a run: as a command, as Python, and its numbers; of a suite, its cases."""
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
    """Run a stored pipeline again and compare bit for bit."""
    from aeoskit_cli._progress import Progress
    from aeoskit_experiments import rerun as run_again

    run = _existing(run)
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
    from aeoskit_cli._plan import run_plan

    return run_plan(words or [])


def doctor(words: Annotated[list[str] | None, typer.Argument(metavar="[RUN …]")] = None) -> int:
    """Show and test the installation, or compute the placement of a run on a mesh."""
    from aeoskit_cli._doctor import run_doctor

    return run_doctor(words or [])


def bench(words: Annotated[list[str] | None, typer.Argument(metavar="NAME …")] = None) -> int:
    """Run a benchmark: ratios within one run, or counts."""
    from aeoskit_cli._bench import run_bench

    return run_bench(words or [])


def _execute(
    pipeline: Pipeline,
    *,
    json: bool,
    quiet: bool,
    root: str | None = None,
    folder: str | None = None,
) -> int:
    pipeline.experiment()  # bad input is reported before jax starts its devices
    from aeoskit_cli._progress import Progress
    from aeoskit_experiments import execute

    with Progress(quiet=quiet) as progress:
        outcome = execute(
            pipeline,
            root=None if root is None else Path(root),
            folder=None if folder is None else Path(folder),
            listener=progress,
        )
    if not outcome.leads:
        return outcome.exit_code
    if json:
        print_json(outcome.summary)
    else:
        print_outcome(outcome.summary, outcome.figures)
    return outcome.exit_code


def _execute_suite(
    suite: dict[str, Pipeline],
    name: str,
    *,
    json: bool,
    quiet: bool,
    root: str | None = None,
    folder: str | None = None,
) -> int:
    for pipeline in suite.values():
        pipeline.experiment()  # bad input is reported before jax starts its devices
    from aeoskit_cli._progress import Progress
    from aeoskit_experiments.execution import execute_suite

    with Progress(quiet=quiet) as progress:
        outcome = execute_suite(
            suite,
            name,
            root=None if root is None else Path(root),
            folder=None if folder is None else Path(folder),
            listener=progress,
        )
    if not outcome.leads:
        return outcome.exit_code
    if json:
        print_json(outcome.summary)
    else:
        print_outcome(outcome.summary, outcome.figures)
    return outcome.exit_code


def _existing(path: Path) -> Path:
    """The folder of an existing run; for `latest`, the one that began last."""
    if path.exists():
        return path
    if path == Path("latest"):
        from aeoskit.record import list_runs

        found = list_runs(RUNS)
        if not found:
            raise UserError(f"there are no runs in {RUNS}/: give the folder of a run")
        return found[-1].path
    raise UserError(
        f"there is no run {str(path)!r}: give the folder that a run printed, or latest "
        f"(`aeoskit runs` lists them)"
    )


def _print_pipe_help() -> None:
    print(
        """Usage: aeoskit pipe [--name NAME] [--json] [--quiet] [--mesh AXES] [--devices N]
                    STAGE [VARIANT] [OPTIONS] STAGE …

Run an experiment composed of stages. A list of numbers is a sweep:
--lr 1e-3,3e-3 trains both side by side; --batch 16,64 one after the other.

  aeoskit pipe data digits --examples 500 model mlp --width 64 loss mse \\
    optimizer nadam --lr 3e-3 track preconditioned_sharpness --every 10 \\
    train --steps 1200
"""
    )
    print_table(
        "stages",
        {
            name: kind.summary + (": " + ", ".join(variants_of(name)) if kind.variants else "")
            for name, kind in STAGES.items()
        },
    )
    print()
    print_table(
        "options, before the first stage or after any",
        {"--quiet": "No progress on stderr"} | JSON_HELP | CACHE_HELP,
    )
    print(
        """
aeoskit pipe model --help        the variants of a stage
aeoskit pipe model mlp --help    the options of a variant
An option's value is never taken for a stage, nor is a word after `--`."""
    )


def _fail(message: str, words: list[str], code: int = USER_ERROR) -> int:
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    if "--json" in words:
        print_json({"error": line})
    return code
