"""Numbers among a solver's options: checked where they are known, arrays where they are used."""

import dataclasses
from typing import Any, TypeAlias

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

Scalar: TypeAlias = float | Array


def check_numbers(solver: Any, names: tuple[str, ...], defaults: str) -> None:
    """Refuses tolerances and weights that no solve can use; those under a trace are unknown."""
    for name in names:
        value = getattr(solver, name)
        if isinstance(value, int | float) and not 0 <= value < float("inf"):
            raise ValueError(
                f"{type(solver).__name__}({name}={value}): a tolerance is finite and not "
                f"negative; the defaults are {defaults}."
            )


def from_host(tree: Any, dtype: Any = None) -> Any:
    """Numbers of the host as arrays of JAX's, for which nothing is compiled; arrays as they are."""

    def array(x: Any) -> Array:
        return x if isinstance(x, jax.Array) else jax.device_put(np.asarray(x, dtype))

    return jax.tree.map(array, tree)


def with_arrays(solver: Any, dtype: Any) -> Any:
    """The solver with its numbers as arrays, so that another value is no other program."""
    names = [
        field.name
        for field in dataclasses.fields(solver)
        if not field.metadata.get("static", False)
        and isinstance(getattr(solver, field.name), int | float)
    ]
    arrays = from_host([getattr(solver, name) for name in names], dtype)
    return eqx.tree_at(lambda s: [getattr(s, name) for name in names], solver, arrays)
