"""`aeoskit sweep`: a recipe or a pipeline whose lists of values become jobs."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aeoskit_cli._options import (
    KEPT,
    OUTPUT,
    AllowCode,
    Devices,
    Mesh,
    Resumable,
    Root,
    ask_about_code,
)
from aeoskit_cli._print import print_json, print_sweep
from aeoskit_cli._subject import Given, subject_app
from aeoskit_experiments import UserError
from aeoskit_experiments.pipelines import Pipeline, with_place
from aeoskit_experiments.recipes import make_recipe


def _option(kind: type, metavar: str, help: str) -> tuple[Any, None]:
    return Annotated[kind | None, typer.Option(help=help, metavar=metavar)], None


_OPTIONS = {
    "executor": _option(str, "NAME", "Executor of the jobs: processes (default), dask or submitit"),
    "workers": _option(
        int, "INT", "Jobs at a time: processes (default one per GPU or core), or SLURM's"
    ),
    "address": _option(str, "ADDRESS", "Address of the dask scheduler"),
    "slurm": _option(str, "KEY=VALUE,…", "Request to SLURM: time=MINUTES,partition=NAME,…"),
    "root": (Root, None),
    "folder": (Resumable, None),
    "mesh": (Mesh, None),
    "devices": (Devices, None),
    **OUTPUT,
    **KEPT,
}
_RESUME = {
    "resume": _option(Path, "SWEEP", "Run the unfinished and failed jobs of this sweep"),
    "allow_code": (AllowCode, False),
}


def make_sweep_app() -> typer.Typer:
    """A new instance of the command."""
    return subject_app(
        _sweep,
        make_recipe,
        _OPTIONS,
        command="sweep",
        summary="Run each combination of the values as a job: on processes, dask or SLURM.",
        example="data digits model mlp --width 32,64 loss mse optimizer adam --lr 1e-3 "
        "train --steps 1200 --workers 4",
        leading=_RESUME,
        alone=_resume,
    )


def _sweep(pipeline: Pipeline, given: Given) -> int:
    if "resume" in given:
        raise UserError(
            f"sweep --resume {given['resume']} has its recipe stored in it: "
            f"leave {pipeline.name} out"
        )
    given.pop("allow_code", None)
    place = {name: given.pop(name) for name in ("mesh", "devices") if name in given}
    pipeline = with_place(pipeline, **place)
    pipeline.experiment()  # bad input is reported before jax is imported
    from aeoskit_experiments import sweep

    json, progress = given.pop("json", False), _progress(given)
    return _print(sweep(pipeline, **_parsed(given), progress=progress), json=json)


def _resume(given: Given) -> int | None:
    folder, allow_code = given.pop("resume", None), given.pop("allow_code", ask_about_code)
    if folder is None:
        return None
    from aeoskit_experiments import resume_sweep

    for name in ("root", "folder", "mesh", "devices"):
        if name in given:
            raise UserError(f"sweep --resume {folder} takes no --{name}: the sweep keeps its own")
    json, progress = given.pop("json", False), _progress(given)
    outcome = resume_sweep(folder, **_parsed(given), progress=progress, allow_code=allow_code)
    return _print(outcome, json=json)


def _parsed(given: Given) -> Given:
    if "slurm" in given:
        from aeoskit_experiments.sweeps import parse_slurm

        return {**given, "slurm": parse_slurm(given["slurm"])}
    return given


def _progress(given: Given) -> Any:
    return None if given.pop("quiet", False) else _print_progress


def _print_progress(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _print(outcome: Any, *, json: bool) -> int:
    if json:
        print_json(outcome.summary)
    else:
        print_sweep(outcome.summary)
    return outcome.exit_code
