"""The registry of recipes: functions with keyword options that return a pipeline, or several."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from aeoskit_experiments._errors import UserError, unknown
from aeoskit_experiments.options import Option, coerce_all, options_of, summary_of
from aeoskit_experiments.parts import find_part, is_reference, registered, short_name
from aeoskit_experiments.pipelines import Pipeline

_ONE_SEED = "it seeds both data and model, and a sweep would train every pair of them"

Suite = Mapping[str, Pipeline]
"""Pipelines by the names of their cases, which differ in more than a sweep can express."""

Recipe = Callable[..., Pipeline | Suite]

Function = TypeVar("Function", bound=Recipe)

RECIPES: dict[str, Recipe] = {}

GROUP = "aeoskit.recipes"
"""The entry points by which other packages register recipes."""


def recipe(function: Function) -> Function:
    """Register a function under its name with hyphens; its docstring's first line is its help.

    A recipe that returns a mapping is a suite: its pipelines, the cases, run one after the other.

    >>> "adam-edge" in RECIPES, "e04-architectures" in RECIPES
    (True, True)
    """
    RECIPES[function.__name__.replace("_", "-")] = function
    return function


def recipe_names() -> list[str]:
    """The names of aeoskit's recipes, and of those that installed packages register."""
    return sorted({*RECIPES, *registered(GROUP)})


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, or a `UserError` with the nearest one.

    A name is that of a recipe of aeoskit's, of one that an installed package registers, or a
    reference to a user's own: `module:name` or `./file.py:name`.
    """
    if name in RECIPES:
        return RECIPES[name]
    reference = name if is_reference(name) else registered(GROUP).get(name)
    if reference is None:
        raise unknown("recipe", name, recipe_names())
    return find_part(reference).function


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


def make_suite(name: str, **options: Any) -> dict[str, Pipeline]:
    """Every pipeline of a recipe with some options set.

    Args:
        name: The name of a registered recipe.
        options: The recipe's keyword arguments.

    Returns:
        A mapping from case to pipeline, in order; a single pipeline has the case "main". Each
        pipeline is named after the recipe and its case. Nothing has run.

    Raises:
        UserError: For an unknown recipe or option (with the nearest name) or an invalid value.

    >>> suite = make_suite("e04-architectures", architecture=["mlp", "lstm"])
    >>> {case: pipeline.name for case, pipeline in suite.items()}
    {'mlp': 'e04-architectures-mlp', 'lstm': 'e04-architectures-lstm'}
    """
    function = find_recipe(name)
    values = coerce_all(recipe_options(name), options, where=f"recipe {name}")
    try:
        made = function(**values)
    except UserError as error:
        raise UserError(f"recipe {name}: {error}") from None
    except Exception as error:
        if name in RECIPES:
            raise  # a fault of ours
        message = " ".join(str(error).split())
        raise UserError(f"recipe {name}: {type(error).__name__}: {message}") from error
    title = short_name(name).replace("_", "-")
    if isinstance(made, Pipeline):
        return {"main": msgspec.structs.replace(made, name=title)}
    if not isinstance(made, Mapping) or not all(isinstance(x, Pipeline) for x in made.values()):
        raise UserError(
            f"recipe {name} returned a {type(made).__name__}: return the value of pipe(…), or a "
            f"mapping from names to pipelines"
        )
    return {
        case: msgspec.structs.replace(pipeline, name=f"{title}-{case}")
        for case, pipeline in made.items()
    }


def make_recipe(name: str, **options: Any) -> Pipeline:
    """The pipeline of a recipe with some options set, named after it.

    Args:
        name: The name of a registered recipe.
        options: The recipe's keyword arguments.

    Returns:
        The pipeline; nothing has run.

    Raises:
        UserError: For an unknown recipe or option (with the nearest name), an invalid value, or a
            recipe of which the options leave more than one pipeline.
    """
    suite = make_suite(name, **options)
    if len(suite) > 1:
        raise UserError(
            f"recipe {name} is {len(suite)} runs here ({', '.join(suite)}), and one is needed: "
            f"name one by its options, or let `aeoskit run {name}` run them all"
        )
    return next(iter(suite.values()))
