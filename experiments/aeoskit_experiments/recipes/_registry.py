"""The registry of recipes: functions with keyword options that return a pipeline."""

from collections.abc import Callable
from typing import Any

import msgspec

from aeoskit_experiments._errors import UserError, unknown
from aeoskit_experiments.pipelines import Option, Pipeline, options_of, summary_of
from aeoskit_experiments.pipelines._options import coerce

_ONE_SEED = "it seeds both data and model, and a sweep would train every pair of them"

RECIPES: dict[str, Callable[..., Pipeline]] = {}


def recipe(function: Callable[..., Pipeline]) -> Callable[..., Pipeline]:
    """Register a function under its name with hyphens; its docstring's first line is its help.

    >>> sorted(RECIPES)
    ['adam-edge', 'advance', 'gd-edge', 'multiplier-edge', 'threshold-table']
    """
    RECIPES[function.__name__.replace("_", "-")] = function
    return function


def find_recipe(name: str) -> Callable[..., Pipeline]:
    """The recipe of that name, or a `UserError` with the nearest one."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def recipe_options(name: str) -> tuple[Option, ...]:
    """A recipe's options, from its signature."""
    options = options_of(find_recipe(name), positional=True, lists="annotated")
    return tuple(
        msgspec.structs.replace(option, alone=_ONE_SEED) if option.name == "seed" else option
        for option in options
    )


def recipe_summary(name: str) -> str:
    """A recipe in one sentence."""
    return summary_of(find_recipe(name))


def make_recipe(name: str, **options: Any) -> Pipeline:
    """The pipeline of a recipe with some options set, named after it.

    Args:
        name: A registered recipe.
        options: As the recipe's own keyword arguments.

    Returns:
        The pipeline; nothing has run.

    Raises:
        UserError: For an unknown recipe or option (with the nearest name) or a wrong value.
    """
    function = find_recipe(name)
    known = {option.name: option for option in recipe_options(name)}
    values = {}
    for key, value in options.items():
        if key not in known:
            raise unknown("option", key, known, where=f"recipe {name}")
        values[key] = coerce(known[key], value, where=f"recipe {name}")
    try:
        pipeline = function(**values)
    except UserError as error:
        raise UserError(f"recipe {name}: {error}") from None
    return msgspec.structs.replace(pipeline, name=name)
