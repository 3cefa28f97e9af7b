"""`aeoskit pipe`: each piece parsed by a Typer command generated from its stage."""

from typing import Any

import typer

from aeoskit_cli._cut import Cut, Piece
from aeoskit_cli._generate import HELP, add_command
from aeoskit_experiments import UserError
from aeoskit_experiments.pipelines import (
    STAGES,
    Pipeline,
    Stage,
    describe,
    make_stage,
    options_for,
    pipe,
    variants_of,
)


def compose(cut: Cut) -> Pipeline:
    """The pipeline that the pieces describe."""
    if not cut.pieces:
        raise UserError(
            "pipe got no stages: name some, as in `aeoskit pipe data digits model mlp loss mse "
            "optimizer adam --lr 1e-3 train --steps 100`"
        )
    return pipe(*(_stage(piece) for piece in cut.pieces), name=cut.name)


def print_stage_help(piece: Piece) -> None:
    """The help of a stage: its variants, or one variant's options."""
    kind = STAGES[piece.stage]
    if kind.variants and not piece.variants:
        _list_variants(piece.stage)
        return
    for variant in piece.variants or (None,):
        _run(piece.stage, variant, ["--help"])


def _stage(piece: Piece) -> Stage:
    first = piece.variants[0] if piece.variants else None
    values = _run(piece.stage, first, list(piece.arguments))
    return make_stage(piece.stage, piece.variants if len(piece.variants) > 1 else first, values)


def _run(stage: str, variant: str | None, arguments: list[str]) -> dict[str, Any]:
    app = typer.Typer(add_completion=False)
    title = f"{stage} {variant}" if variant else stage
    summary = describe(stage, variant)
    if STAGES[stage].reference or not variant:
        summary = summary or STAGES[stage].summary
    add_command(app, title, summary, options_for(stage, variant), lambda values: values)
    return app(arguments, prog_name=f"aeoskit pipe {title}", standalone_mode=False) or {}


def _list_variants(stage: str) -> None:
    app = typer.Typer(
        add_completion=False,
        help=f"{STAGES[stage].summary.capitalize()}: name a variant, then its options.",
        context_settings=HELP,
        subcommand_metavar="VARIANT [OPTIONS]",
    )
    app.callback(invoke_without_command=True)(lambda: None)
    for variant in variants_of(stage):
        add_command(
            app, variant, describe(stage, variant), options_for(stage, variant), lambda values: 0
        )
    app(["--help"], prog_name=f"aeoskit pipe {stage}", standalone_mode=False)
