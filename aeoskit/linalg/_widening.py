"""Operators on vectors of fewer than 32 bits, for solvers that keep their books in float32."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ._protocol import dense_matrix, linearised_part, of_part, register_operator
from ._results import RESULTS
from ._solution import EigenSolution


def widen(tree: PyTree) -> PyTree:
    """The tree (arrays or their structures) with leaves of at least float32."""

    def wide(x: Any) -> Any:
        dtype = jnp.result_type(x.dtype, jnp.float32)
        return x.astype(dtype) if eqx.is_array(x) else jax.ShapeDtypeStruct(x.shape, dtype)

    return jax.tree.map(wide, tree)


def narrow_unit(structure: PyTree) -> float:
    """The relative rounding of the leaves under 32 bits: 0 if there are none."""
    units = [float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(structure)]
    return max((unit for unit in units if unit > jnp.finfo(jnp.float32).eps), default=0.0)


class WidenedOperator(lx.AbstractLinearOperator):
    """A, with vectors of at least float32: they are rounded on their way into A.

    A product costs one of A.

    Args:
        operator: A, square.
    """

    operator: lx.AbstractLinearOperator

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`A round(v)`."""
        rounded = jax.tree.map(lambda v, s: v.astype(s.dtype), vector, self.operator.in_structure())
        return widen(self.operator.mv(rounded))

    def as_matrix(self) -> Float[Array, "n n"]:
        """The dense matrix (small operators only)."""
        return dense_matrix(self)

    def transpose(self) -> lx.AbstractLinearOperator:
        """That of A, widened."""
        return WidenedOperator(self.operator.transpose())

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of A, widened."""
        return widen(self.operator.in_structure())

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of A, widened."""
        return widen(self.operator.out_structure())


register_operator(
    WidenedOperator,
    linearise=linearised_part,
    symmetric=of_part(lx.is_symmetric),
    positive_semidefinite=of_part(lx.is_positive_semidefinite),
    negative_semidefinite=of_part(lx.is_negative_semidefinite),
)


def stricter(solver: Any, unit: float) -> Any:
    """The solver, with room left under its tolerance for what rounding adds to a residual."""
    rtol = getattr(solver, "rtol", None)
    if rtol is None:
        return solver
    return eqx.tree_at(lambda s: s.rtol, solver, jnp.maximum(rtol - unit, rtol / 4))


def with_rounding(solution: EigenSolution, solver: Any, unit: float) -> EigenSolution:
    """The solution, with residuals, bounds and verdict as they are in the operator's own format.

    A product rounds its vector and its result, by `unit` times the largest value found; the
    solver saw neither.

    Args:
        solution: That of the widened operator.
        solver: With the tolerances that the caller asked for.
        unit: The relative rounding of the operator's leaves.
    """
    size = jnp.abs(solution.values)
    rounding = unit * jnp.max(size)
    residuals = solution.residuals + rounding
    estimates = solution.estimates + rounding
    rtol, atol = getattr(solver, "rtol", jnp.inf), getattr(solver, "atol", 0.0)
    converged = solution.converged & (residuals <= rtol * size + atol)
    value_rtol = getattr(solver, "value_rtol", 0.0)
    close = (value_rtol > 0) & jnp.all(estimates <= value_rtol * size)
    claimed = (solution.result == RESULTS.successful) | (solution.result == RESULTS.estimate_met)
    result = RESULTS.where(close, RESULTS.estimate_met, RESULTS.stagnation)
    result = RESULTS.where(jnp.all(converged), RESULTS.successful, result)
    result = RESULTS.where(claimed, result, solution.result)
    return eqx.tree_at(
        lambda s: (s.residuals, s.bounds, s.estimates, s.converged, s.result),
        solution,
        (residuals, solution.bounds + rounding, estimates, converged, result),
    )
