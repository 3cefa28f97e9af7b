"""A recipe or `pipe` inside another command, and the split of their options."""

from collections.abc import Callable, Mapping
from typing import Any

import typer

from aeoskit_cli._cut import cut
from aeoskit_cli._generate import NO_CACHE, add_command
from aeoskit_cli._pipe import compose, print_stage_help
from aeoskit_experiments import unknown
from aeoskit_experiments.options import Option, coerce_all
from aeoskit_experiments.parts import is_reference
from aeoskit_experiments.pipelines import Pipeline
from aeoskit_experiments.recipes import make_recipe, recipe_names, recipe_options, recipe_summary

_HELP = ("-h", "--help")


def split(
    command: str,
    words: list[str],
    options: Mapping[str, Option],
    first: str,
    alone: tuple[str, ...] = (),
) -> tuple[dict[str, Any], Pipeline | None, bool]:
    """Split a command line at its recipe, or at the word `pipe`.

    The command's own options come before the subject, or after it from the option `first` on:
    stages have options of the same names. `--json` may appear anywhere.

    Args:
        command: The command's name, for errors.
        words: Its arguments.
        options: The command's own, by flag.
        first: The flag after the subject from which on options are the command's.
        alone: Flags that the command has parsed already, for errors.

    Returns:
        The given values, the pipeline (None without a subject), and whether JSON was requested.

    Raises:
        UserError: For an unknown recipe or option (with the nearest name), or an invalid value.
    """
    json = "--json" in words
    words = [word for word in words if word != "--json"]
    own, rest = _leading(words, options)
    if rest and rest[0].startswith("-"):
        known = (*options, *alone, "--json", NO_CACHE)
        raise unknown("option", rest[0].partition("=")[0], known, where=command)
    for index, word in enumerate(rest):
        if word.partition("=")[0] == first:
            own, rest = [*own, *rest[index:]], rest[:index]
            break
    values = _parsed(command, own, options.values())
    return values, _subject(command, rest) if rest else None, json


def _leading(words: list[str], options: Mapping[str, Option]) -> tuple[list[str], list[str]]:
    """The command's own options up to the first other word, and the rest."""
    index = 0
    while index < len(words):
        flag, equals, _ = words[index].partition("=")
        option = options.get(flag) or options.get(f"--{flag.removeprefix('--no-')}")
        if not flag.startswith("--") or option is None:
            break
        index += 1 if equals or option.kind == "bool" else 2
    return words[:index], words[index:]


def _parsed(command: str, words: list[str], options: Any) -> dict[str, Any]:
    app = typer.Typer(add_completion=False)
    add_command(app, command, "", options, lambda values: values)
    found = app(words, prog_name=f"aeoskit {command}", standalone_mode=False)
    return coerce_all(options, found if isinstance(found, dict) else {}, where=command)


def _subject(command: str, words: list[str]) -> Pipeline:
    name, *rest = words
    if name == "pipe":
        pieces = cut(rest)
        if pieces.help:
            print(f"{command} takes the stages of `aeoskit pipe --help` after the word pipe.")
            raise typer.Exit()
        if pieces.pieces and pieces.pieces[-1].help:
            print_stage_help(pieces.pieces[-1])
            raise typer.Exit()
        return compose(pieces)
    if name not in recipe_names() and not is_reference(name):
        raise unknown("recipe", name, ("pipe", *recipe_names()))
    app = typer.Typer(add_completion=False)
    make: Callable[[dict[str, Any]], Pipeline] = lambda values: make_recipe(name, **values)  # noqa: E731
    add_command(app, name, recipe_summary(name), recipe_options(name), make)
    made = app(rest, prog_name=f"aeoskit {command} {name}", standalone_mode=False)
    if not isinstance(made, Pipeline):  # --help: printed already
        raise typer.Exit()
    return made


def asks_for_help(words: list[str]) -> bool:
    """True if help about the command itself is requested."""
    return not words or words[0] in _HELP
