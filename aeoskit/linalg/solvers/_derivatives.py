"""Derivatives of eigenvalues and eigenvectors, by a rule of their own.

The loop of a solver is never differentiated. The solve sees an operator without tangents, and
its values and vectors then pass through an identity whose derivative is, for unit `v` with
`A v = θ v`,

    dθ = vᵀ (dA) v,        (A - θ) dv = -(I - V Vᵀ) (dA) v    on the complement of all of V,

and in closed form inside the span of V. `(dA) v` is the derivative of `operator ↦ operator.mv(v)`
for a `v` held fixed: that of the operator that the caller gave, not of the linearization that
the solve worked with. The rule calls the identity again, so that second derivatives come out of
the same rule.

Kato, *Perturbation Theory for Linear Operators*, chapter 2; Magnus, *On differentiating
eigenvalues and eigenvectors* (1985).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, PyTree

from .._results import EigenSolution
from ..operators._algebra import ComplementOperator
from ..operators._layout import widen
from ..vectors._tree import block_combine, block_gram, tree_axpy, tree_dtype, tree_norm, tree_size
from ._minres import MINRES
from ._relation import WHICH

# A linear solve that did not end well is still taken if its relative residual is under this.
_ACCEPTED = 1e-2
_MAX_STEPS = 1000


class _Rule(eqx.Module):
    """The part of the question that the rule needs."""

    which: str = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)
    linear_solver: lx.AbstractLinearSolver | None


def without_tangents(tree: PyTree) -> PyTree:
    """The same tree, held constant under differentiation."""
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


def with_derivatives(
    operator: lx.AbstractLinearOperator,
    solution: EigenSolution,
    which: str,
    linear_solver: lx.AbstractLinearSolver | None = None,
) -> EigenSolution:
    """The solution, with `values` and `vectors` differentiable in the operator's leaves.

    Everything else in it (residuals, bounds, estimates, flags, stats, state) has zero tangents.
    """
    symmetric = bool(lx.is_symmetric(operator)) and jnp.isrealobj(solution.values)
    rule = _Rule(which=which, symmetric=symmetric, linear_solver=linear_solver)
    values, vectors = _pairs(
        operator, solution.values, solution.vectors, _groups(solution), rule=rule
    )
    return dataclasses.replace(solution, values=values, vectors=vectors)


def _groups(solution: EigenSolution) -> Bool[Array, "k k"]:
    """Pairs that the solve cannot tell apart: their error bars touch, directly or in a chain."""
    values, bars = jnp.real(solution.values), solution.residuals
    apart = jnp.abs(values[:, None] - values[None, :])
    k = values.shape[0]
    joined = (apart <= bars[:, None] + bars[None, :]) | jnp.eye(k, dtype=bool)
    for _ in range(max(k - 1, 0).bit_length()):
        joined = jnp.any(joined[:, :, None] & joined[None, :, :], axis=1)
    return joined


@eqx.filter_custom_jvp
def _pairs(operator, values, vectors, groups, *, rule):
    del operator, groups, rule
    return values, vectors


@_pairs.def_jvp
def _pairs_jvp(primals, tangents, *, rule):
    operator, values, vectors, groups = primals
    t_operator = tangents[0]
    if not rule.symmetric:
        raise ValueError(
            "eigensolve: derivatives are there for symmetric operators only; tag the operator "
            "lineax.symmetric_tag if it is one, or hold the solution constant with "
            "jax.lax.stop_gradient."
        )
    # Called again, and not copied: an outer derivative has to see how the pairs move.
    values, vectors = _pairs(operator, values, vectors, groups, rule=rule)
    if all(t is None for t in jax.tree.leaves(t_operator, is_leaf=lambda t: t is None)):
        return (values, vectors), (None, jax.tree.map(lambda _: None, vectors))
    return (values, vectors), _tangents(operator, t_operator, values, vectors, groups, rule)


def _each(function: Callable[..., Any], *blocks: PyTree) -> PyTree:
    """Row by row, one at a time; no loop around a single row (convolutions are slow in one)."""
    if jax.tree.leaves(blocks)[0].shape[0] == 1:
        row = function(*jax.tree.map(lambda b: b[0], blocks))
        return jax.tree.map(lambda x: x[None], row)
    return jax.lax.map(lambda rows: function(*rows), blocks)


@eqx.filter_jit
def _tangents(operator, t_operator, values, vectors, groups, rule):
    """The tangents of values and vectors: linear in `t_operator`."""
    _, moved = eqx.filter_jvp(lambda a: _each(a.mv, vectors), (operator,), (t_operator,))
    coupling = block_gram(vectors, moved)
    share = groups / jnp.sum(groups, axis=1, keepdims=True)
    t_values = jnp.sum(share * jnp.diagonal(coupling)[None, :], axis=1)
    # Along the other pairs in closed form, but for those of the same group.
    difference = values[None, :] - values[:, None]
    along = jnp.where(groups, 0, coupling / jnp.where(groups, 1, difference))
    moved, wide = widen(moved), widen(vectors)
    outside = jax.tree.map(jnp.subtract, moved, block_combine(wide, coupling))
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(values)))
    scale = jnp.where(scale > 0, scale, 1)
    factors = -_signs(values, rule.which) / scale
    definite = rule.which in WHICH

    def solve(shift: Array, factor: Array, row: PyTree) -> PyTree:
        shifted = ComplementOperator(operator, shift, factor, wide, definite)
        right = jax.tree.map(lambda x: (-factor * x).astype(x.dtype), row)
        return linear_solve(shifted, right, rule.linear_solver)

    beyond = _each(solve, values, factors, outside)
    # What was not found has no derivative: the vector in its place is any vector.
    found = jnp.where(jnp.isfinite(values), 1, jnp.nan)
    t_vectors = jax.tree.map(
        lambda a, b, v: (found.reshape(-1, *(1,) * (v.ndim - 1)) * (a + b)).astype(v.dtype),
        block_combine(wide, along),
        beyond,
        vectors,
    )
    return (found * t_values).astype(values.dtype), t_vectors


def _signs(values: Float[Array, " k"], which: str) -> Float[Array, " k"]:
    """The sign of `θ - A` on the complement of the wanted pairs, which are at an end of it."""
    k = values.shape[0]
    top = {"smallest": 0, "both": (k + 1) // 2}.get(which, k)
    signs = jnp.where(jnp.arange(k) < top, 1, -1).astype(values.dtype)
    if which == "largest_magnitude":
        signs = jnp.where(values < 0, -signs, signs)
    return jax.lax.stop_gradient(signs)


def default_linear_solver(definite: bool, dtype: Any) -> lx.AbstractLinearSolver:
    """CG where the system is definite, MINRES where not, to the square root of ε and less."""
    tolerance = 1e-5 if jnp.finfo(dtype).eps > 1e-10 else 1e-11
    if definite:
        return lx.CG(rtol=tolerance, atol=tolerance, max_steps=_MAX_STEPS)
    return MINRES(rtol=tolerance, max_steps=_MAX_STEPS)


def linear_solve(
    shifted: ComplementOperator, right: PyTree, solver: lx.AbstractLinearSolver | None
) -> PyTree:
    """`shifted⁻¹ right` by a lineax solver, differentiable in both modes as often as wanted.

    JAX's `custom_linear_solve` differentiates the product, not the solver, and transposes by
    symmetry. (`lineax.linear_solve` by itself raises inside of compiled code where the solve of a
    tangent fails; here a failed solve is NaN.)
    """
    if solver is None:
        solver = default_linear_solver(shifted.definite, tree_dtype(right))

    def run(_: Any, b: PyTree) -> PyTree:
        # Root mean square one: tolerances, absolute ones included, are relative to the system.
        norm = tree_norm(b)
        unit = jnp.where(norm > 0, norm, 1) / tree_size(shifted.in_structure()) ** 0.5
        b = jax.tree.map(lambda x: (x / unit).astype(x.dtype), b)
        linearized = ComplementOperator(
            lx.linearise(shifted.operator),
            shifted.shift,
            shifted.factor,
            shifted.block,
            shifted.definite,
        )
        solution = lx.linear_solve(linearized, b, solver, throw=False)
        residual = tree_norm(tree_axpy(jnp.asarray(-1.0), linearized.mv(solution.value), b))
        good = (solution.result == lx.RESULTS.successful) | (residual <= _ACCEPTED * tree_norm(b))
        factor = jnp.where(good, unit, jnp.nan)
        return jax.tree.map(lambda x: (factor * x).astype(x.dtype), solution.value)

    return jax.lax.custom_linear_solve(shifted.mv, right, run, symmetric=True)
