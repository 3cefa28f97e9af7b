"""`aeoskit pipe`: each piece parsed by a Typer command generated from its stage."""

from collections.abc import Callable, Sequence
from typing import Any

import typer

from aeoskit_cli._cut import Piece, cut
from aeoskit_cli._generate import HELP, Command, add_command, sign
from aeoskit_cli._options import CONTEXT, Name, Parameters
from aeoskit_cli._print import print_table
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

_PIECES = "aeoskit_cli.pieces"
_NOTES = """
aeoskit pipe model --help        the variants of a stage
aeoskit pipe model mlp --help    the options of a variant

The command's own options may stand before the first stage or after any; one of
the same name as an option of the stage (--name of branch) belongs to the stage.
An option's value is never taken for a stage, nor is a word after `--` in one."""


class PipeCommand(Command):
    """A command whose arguments are stages, with its own options before, between or after them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Split the stages off, into the context, and parse the command's own options."""
        flags = {
            flag: not item.is_flag
            for item in self.get_params(ctx)
            for flag in (*item.opts, *item.secondary_opts)
        }
        pieces, own = ([], args) if ctx.resilient_parsing else cut(args, flags)
        if pieces and pieces[-1].help:
            _print_stage_help(pieces[-1])
            raise typer.Exit()
        rest = super().parse_args(ctx, own if args else ["--help"])
        ctx.meta[_PIECES] = pieces
        return rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the options, and the stages."""
        super().format_help(ctx, formatter)
        print_table("stages", stage_summaries())
        print(_NOTES)


def add_pipe(
    app: typer.Typer, action: Callable[..., Any], own: Parameters, summary: str, epilog: str
) -> None:
    """Add the command `pipe`.

    Args:
        app: The application.
        action: Called with the pipeline and the command's own options.
        own: Those options, besides `--name`.
        summary: Its help.
        epilog: The end of its help: an example.
    """

    def call(context: Any, name: str, **given: Any) -> Any:
        return action(compose(context.meta[_PIECES], name), **given)

    app.command(
        "pipe",
        help=summary,
        epilog=epilog,
        cls=PipeCommand,
        context_settings=HELP,
        options_metavar="[OPTIONS] STAGE [VARIANT] [ITS OPTIONS] …",
    )(sign(call, {"context": CONTEXT, "name": (Name, "pipe"), **own}))


def compose(pieces: Sequence[Piece], name: str = "pipe") -> Pipeline:
    """The pipeline that the pieces describe."""
    if not pieces:
        raise UserError(
            "pipe got no stages: name some, as in `aeoskit pipe data digits model mlp loss mse "
            "optimizer adam --lr 1e-3 train --steps 100`"
        )
    return pipe(*(_stage(piece) for piece in pieces), name=name)


def stage_summaries() -> dict[str, str]:
    """A mapping from stage to its summary and its variants."""
    return {
        name: kind.summary + (": " + ", ".join(variants_of(name)) if kind.variants else "")
        for name, kind in STAGES.items()
    }


def _print_stage_help(piece: Piece) -> None:
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
