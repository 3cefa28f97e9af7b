"""The questions that `eigensolve` takes, and the numbers among a solver's options."""

import dataclasses
import operator as operator_module
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ..vectors._tree import tree_size

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


def check_question(operator: Any, solver: Any, k: Any, which: str, max_matvecs: Any) -> int:
    """Refuses a question that makes no sense, before any work; returns k."""
    if isinstance(solver, type):
        raise TypeError(
            f"eigensolve: the solver is the class {solver.__name__}; make one: {solver.__name__}()."
        )
    if not hasattr(solver, "ends"):
        raise TypeError(
            f"eigensolve: the solver is {solver!r}, no eigen-solver; pass Lanczos(), Tracking() or "
            "another one of aeoskit.linalg, or None."
        )
    if not isinstance(operator, lx.AbstractLinearOperator):
        raise TypeError(
            f"eigensolve: the operator is of type {type(operator).__name__}, no "
            "lineax.AbstractLinearOperator; wrap a matrix as lineax.MatrixLinearOperator(matrix, "
            "lineax.symmetric_tag), a function as lineax.FunctionLinearOperator(function, "
            "structure, lineax.symmetric_tag)."
        )
    if which not in solver.ends:
        near = [end for end in solver.ends if str(which).removesuffix("_real") in end]
        default = ", the default" if which == "largest" else ""
        raise ValueError(
            f"eigensolve(which={which!r}{default}): {type(solver).__name__} finds "
            f"{', '.join(solver.ends)}; choose {near[0] if near else 'one of these'}, or another "
            "solver."
        )
    structure = operator.in_structure()
    leaves = jax.tree.leaves(structure)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        dtypes = sorted({str(leaf.dtype) for leaf in leaves})
        raise ValueError(
            f"eigensolve: the operator acts on {', '.join(dtypes)} leaves; it works on real "
            "floating-point vectors only, so filter the others out of the parameters first."
        )
    dimension, columns = tree_size(structure), operator.out_structure()
    if jax.tree.map(lambda s: s.shape, structure) != jax.tree.map(lambda s: s.shape, columns):
        raise ValueError(
            "eigensolve: the operator is not square: it takes "
            f"{jax.tree.map(lambda s: s.shape, structure)} to "
            f"{jax.tree.map(lambda s: s.shape, columns)}; singular values are square roots of the "
            "eigenvalues of `A.T @ A`."
        )
    count = _whole(k)
    if count is None or not 1 <= count <= dimension:
        raise ValueError(
            f"eigensolve(k={k}): k is a whole number between 1 and the operator's dimension, "
            f"{dimension}."
        )
    if solver.symmetric and not lx.is_symmetric(operator):
        raise ValueError(
            f"eigensolve: the operator is not tagged symmetric and {type(solver).__name__} is "
            "for symmetric operators; if it is symmetric, say so: "
            "lineax.TaggedLinearOperator(operator, lineax.symmetric_tag); if it is not, use "
            "Arnoldi()."
        )
    budget = max_matvecs
    if isinstance(budget, jax.Array):
        if budget.ndim or not jnp.issubdtype(budget.dtype, jnp.integer):
            raise ValueError(
                "eigensolve(max_matvecs=...): one whole number, not an array of shape "
                f"{budget.shape} and dtype {budget.dtype}."
            )
        budget = None if isinstance(budget, Tracer) else int(budget)
    if budget is not None and (_whole(budget) is None or budget < 1):
        raise ValueError(
            f"eigensolve(max_matvecs={max_matvecs}): a whole number of products, 1 at least."
        )
    return count


def _whole(number: Any) -> int | None:
    if isinstance(number, bool):
        return None
    try:
        return operator_module.index(number)
    except TypeError:
        return None
