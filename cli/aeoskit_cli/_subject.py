"""Commands about a recipe or a pipeline (`run`, `sweep`, `plan`, `doctor`): one form for all."""

from collections.abc import Callable
from typing import Any

import typer

from aeoskit_cli._generate import HELP, add_command, group_class, sign
from aeoskit_cli._options import CONTEXT, NO_OPTIONS, Parameters
from aeoskit_cli._pipe import add_pipe
from aeoskit_experiments.recipes import recipe_names, recipe_options, recipe_summary

Given = dict[str, Any]
"""The options whose values are not their defaults, by name."""


def subject_app(
    act: Callable[[Any, Given], int],
    make: Callable[..., Any],
    own: Parameters,
    *,
    command: str,
    summary: str,
    example: str = "",
    leading: Parameters = NO_OPTIONS,
    alone: Callable[[Given], int | None] | None = None,
) -> typer.Typer:
    """A group of the registered recipes and, if there is an example of it, `pipe`.

    Its options may stand before the recipe or after it; then the later value counts. An option of
    the recipe takes precedence over one of the group of the same name.

    Args:
        act: What to do with what `make` returned and the group's options.
        make: Makes something of a recipe's name and options; a pipeline, if the group has `pipe`.
        own: The group's options.
        command: Its name.
        summary: Its help.
        example: The stages of the example of `pipe`; empty for a group without `pipe`.
        leading: Options that may only stand before the recipe.
        alone: What to do without a recipe, unless it returns None; None prints the help.

    Returns:
        The application; recipes are read when they are needed.
    """
    before: Given = {}

    def add_recipe(app: typer.Typer, name: str) -> None:
        add_command(
            app,
            name,
            recipe_summary(name),
            recipe_options(name),
            lambda values, **given: act(make(name, **values), before | _given(given, own)),
            extra=own,
            epilog=f"Example: [bold]aeoskit {command} {name}[/bold]",
        )

    def begin(context: Any, **given: Any) -> int:
        before.update(_given(given, {**leading, **own}))
        if context.invoked_subcommand is not None:
            return 0
        code = None if alone is None else alone(before)
        if code is None:
            print(context.get_help())
        return code or 0

    app = typer.Typer(
        help=summary,
        cls=group_class("recipe", names=recipe_names(), make=add_recipe),
        add_completion=False,  # `plan` is an application of its own
        context_settings=HELP,
        subcommand_metavar="RECIPE|pipe [ITS OPTIONS]" if example else "RECIPE [ITS OPTIONS]",
    )
    app.callback(invoke_without_command=True)(sign(begin, {"context": CONTEXT, **leading, **own}))
    if example:
        add_pipe(
            app,
            lambda pipeline, **given: act(pipeline, before | _given(given, own)),
            own,
            "An experiment composed of stages, those of `aeoskit pipe`.",
            f"Example: [bold]aeoskit {command} pipe {example}[/bold]",
        )
    return app


def _given(values: Given, options: Parameters) -> Given:
    return {name: value for name, value in values.items() if value is not options[name][1]}
