"""The error of an operator's own products, and error bars that include it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from aeoskit.linalg import RESULTS, EigenSolution, PreconditionedOperator, block_row, tree_norm

from . import _fields
from ._anatomy import loss_anatomy
from ._differences import relative_step
from ._operators import HessianOperator


@functools.singledispatch
def product_error(operator: lx.AbstractLinearOperator, vector: PyTree) -> PyTree | None:
    """An estimate of the error of `operator.mv(vector)`, as a vector; None for rounding only.

    Register a class whose products are less than exact: differences, reduced precision.

    Args:
        operator: the operator.
        vector: what it is multiplied with.

    Returns:
        A vector, or None where products are as good as their format.

    Example:
        >>> import jax.numpy as jnp, lineax as lx
        >>> product_error(lx.DiagonalLinearOperator(jnp.ones(2)), jnp.ones(2)) is None
        True
    """
    return None


@product_error.register(HessianOperator)
def _(operator: HessianOperator, vector: PyTree) -> PyTree | None:
    objective, params = operator.objective, operator.params
    field, h = _fields.gradient_field(), relative_step(params, vector)

    def subtract(x: PyTree, y: PyTree) -> PyTree:
        return jax.tree.map(jnp.subtract, x, y)

    far = _fields.difference(field, objective, params, vector, 2 * h)
    if objective.product == "difference":
        return subtract(_fields.difference(field, objective, params, vector, h), far)
    if not _has_narrow_dtypes(operator):
        return None
    # What is rounded inside is smooth over a longer way only.
    return subtract(
        operator.mv(vector), _fields.difference(field, objective, params, vector, 16 * h)
    )


@product_error.register(PreconditionedOperator)
def _(operator: PreconditionedOperator, vector: PyTree) -> PyTree | None:
    inner = product_error(operator.operator, operator.preconditioner.inv_sqrt_mv(vector))
    return None if inner is None else operator.preconditioner.inv_sqrt_mv(inner)


def _has_narrow_dtypes(operator: HessianOperator) -> bool:
    """True if something in a loss of full-precision parameters has fewer than 32 bits."""
    objective, params = operator.objective, operator.in_structure()
    if any(jnp.finfo(x.dtype).bits < 32 for x in jax.tree.leaves(params)):
        return False
    return loss_anatomy(objective, params).narrow > 0


@eqx.filter_jit
def _recheck_pairs(
    operator: lx.AbstractLinearOperator, solution: EigenSolution
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """For each pair, `||A v - θ v||` by a product of its own, and the norm of its error."""

    def part(v: PyTree) -> tuple[PyTree, PyTree]:
        return operator.mv(v), product_error(operator, v)

    def one(index: Array) -> tuple[Array, Array]:
        v, value = block_row(solution.vectors, index), solution.values[index]
        v = jax.tree.map(
            lambda x, s: x.astype(_vector_dtype(x, s.dtype)), v, operator.in_structure()
        )
        (image, error), off = part(jax.tree.map(jnp.real, v)), 0.0
        if jnp.iscomplexobj(solution.values):
            more, wrong = part(jax.tree.map(jnp.imag, v))
            image = jax.tree.map(lambda a, b: a + 1j * b, image, more)
            off = tree_norm(wrong)
        left = jax.tree.map(lambda a, x: a - value * x, image, v)
        squares = [jnp.sum(jnp.abs(x) ** 2) for x in jax.tree.leaves(left)]
        return jnp.sqrt(jnp.sum(jnp.stack(squares))), jnp.hypot(tree_norm(error), off)

    return jax.lax.map(one, jnp.arange(solution.values.shape[0]))


def _vector_dtype(x: Array, dtype: Any) -> Any:
    return jnp.result_type(dtype, jnp.complex64) if jnp.iscomplexobj(x) else dtype


def with_product_error(
    solution: EigenSolution, operator: lx.AbstractLinearOperator, solver: Any
) -> EigenSolution:
    """The solution with error bars that hold for the matrix, and not for its products only.

    Where `product_error` is None it costs nothing; elsewhere a product and its error for each pair.

    Args:
        solution: that of the solver.
        operator: the one that it was found for.
        solver: the solver, for its tolerances.

    Returns:
        The solution; a pair that meets neither its tolerance nor `value_rtol` now has not
        converged, and the result is then `RESULTS.stagnation`.

    Example:
        >>> import jax.numpy as jnp, lineax as lx
        >>> from aeoskit.linalg import Dense, eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.array([1.0, 4.0]))
        >>> with_product_error(eigensolve(operator, Dense()), operator, Dense()).values.tolist()
        [4.0]
    """
    if jax.eval_shape(product_error, operator, operator.in_structure()) is None:
        return solution
    residuals, errors = _recheck_pairs(operator, solution)
    known = jnp.isfinite(solution.residuals)
    corrected = jnp.maximum(solution.residuals, residuals) + errors
    corrected = jnp.where(known, corrected, solution.residuals)
    condition = solution.stats.get("condition", jnp.ones(()))
    more = jnp.where(known, corrected - solution.residuals, 0)
    allowed = getattr(solver, "rtol", 0.0) * jnp.abs(solution.values) + getattr(solver, "atol", 0.0)
    if not hasattr(solver, "rtol"):  # a direct solver: as good as the products are
        allowed = jnp.inf
    small = solution.converged & (corrected <= allowed)
    close = getattr(solver, "value_rtol", 0.0) * jnp.abs(solution.values)
    by_value = (solution.result == RESULTS.estimate_met) & (solution.estimates + errors <= close)
    converged = small | (solution.converged & by_value)
    claimed = (solution.result == RESULTS.successful) | (solution.result == RESULTS.estimate_met)
    claimed = claimed & ~jnp.all(converged)
    return dataclasses.replace(
        solution,
        residuals=corrected,
        bounds=solution.bounds + condition * more,
        estimates=solution.estimates + errors,
        converged=converged,
        is_top=solution.is_top & converged,
        result=RESULTS.where(claimed, RESULTS.stagnation, solution.result),
    )
