"""Jacobi-Davidson: a subspace expanded by Newton corrections, each a short lineax solve."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, PyTree

from .solvers._eigensolve import AbstractEigenSolver, EigenProblem
from ._interior import as_shift, check_options, expansion, solve_for_direction
from ._minres import MINRES
from ._options import Scalar
from ._results import RESULTS
from ._ritz import structure_dimension
from ._shifted import ComplementOperator
from ._solution import EigenSolution
from ._start import Start
from ._subspace import (
    SubspaceState,
    add,
    begin,
    confirm,
    extract,
    make_room,
    seek,
    starting,
)
from ._subspace_end import conclude, ended
from ._tree import block_combine, tree_dtype

# A target is gone after for itself once its residual is this share of its distance to the shift:
# sooner, and the pair nearest to wherever the solve began would be found.
_ISOLATED = 0.1


class JacobiDavidson(AbstractEigenSolver):
    """Eigenvalues nearest a shift, or at an end, by corrections that are solved inexactly.

    Each step solves, by a few steps of a lineax solver,

        (I - Q Qᵀ) (A - τ) (I - Q Qᵀ) t = -r,

    where r is the residual of the first wanted pair (θ, v) that has not converged, and Q holds v
    and the pairs that have. τ is the shift until `||r||` is under a tenth of `|θ - σ|`, and θ from
    then on (cubic convergence where solved exactly). For "largest" and "smallest" τ is θ, and
    directions are plain residuals (Lanczos) while `||r||` exceeds `switch` times the largest
    `||A v||` seen. Values come by harmonic extraction ("nearest") or as Ritz values (the ends).

    Against `ShiftInvert`: solves are short and adapt to the pair. On 40 interior problems
    (dimension 60, k=3, rtol 1e-6; a quarter each of normal values, all of them doubled, close
    pairs, outliers over a bulk) it took 13,755 products where `ShiftInvert` took 21,999; with every
    value doubled, both returned one copy and the next value in 10 of 10, elsewhere it overlooked a
    nearer pair in 1 of 30 and `ShiftInvert` in none. It follows a pair from a good start (`start=`
    a vector). At the ends `Lanczos` is cheaper unless memory is short.

    **Cost, memory, honesty.** As in `ShiftInvert`: one product a step and those of the linear
    solver, all counted; 2 `basis` + 2 k + 6 vectors and the linear solver's; true residuals.

    Source: Sleijpen and van der Vorst, *A Jacobi-Davidson iteration method for linear eigenvalue
    problems*, SIAM J. Matrix Anal. Appl. 17 (1996).

    Args:
        shift: σ for "nearest", a number or a scalar array; of no effect at the ends.
        linear_solver: A lineax solver; `MINRES(rtol=0.1, max_steps=20)` by default.
            `lineax.CG` where you vouch for a definite system (k=1 at an end, near convergence).
        basis: The number of vectors that are held, and as many images.
        rtol: As in `Lanczos`.
        atol: As in `Lanczos`.
        explore: As in `ShiftInvert`.
        switch: See above.

    Raises:
        ValueError: An option out of range; at a solve, a basis too small for k.

    Example:
        >>> from aeoskit.linalg import eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.linspace(-4.0, 4.0, 9))
        >>> solution = eigensolve(operator, JacobiDavidson(1.2), which="nearest")
        >>> round(float(solution.values[0]), 3)
        1.0
    """

    ends: ClassVar[tuple[str, ...]] = ("nearest", "largest", "smallest")
    symmetric: ClassVar[bool] = True
    shift: Float[Array, ""] = eqx.field(default=0.0, converter=as_shift)
    linear_solver: lx.AbstractLinearSolver = MINRES(rtol=0.1, max_steps=20)
    basis: int = eqx.field(default=20, static=True)
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0
    explore: int = eqx.field(default=1, static=True)
    switch: Scalar = 0.1

    def __check_init__(self):
        check_options("JacobiDavidson", self.rtol, self.atol, self.basis, self.explore)
        if isinstance(self.switch, int | float) and not self.switch >= 0:
            raise ValueError(
                f"JacobiDavidson(switch={self.switch}): a share of the largest ||A v||, not "
                "negative; the default is 0.1."
            )

    def default_max_matvecs(self, dimension: int) -> int:
        """200 products for each basis vector."""
        return 200 * self.basis

    def block_size(self, structure: PyTree, k: int) -> int:
        """The wanted vectors and the next one."""
        return min(k + 1, structure_dimension(structure))

    def _sigma(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem
    ) -> Float[Array, ""]:
        dtype = tree_dtype(operator.in_structure())
        return self.shift.astype(dtype) if problem.which == "nearest" else jnp.zeros((), dtype)

    def init(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start):
        """An empty space. No products."""
        return begin(operator, problem, start, self.basis, "JacobiDavidson")

    def step(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState
    ):
        """One correction and one product; while start vectors are left, the product alone."""
        sigma = self._sigma(operator, problem)
        state = make_room(operator, problem, state)
        near = state.residuals[state.target] <= self.switch * state.scale

        def solve(residual: PyTree, state: SubspaceState) -> tuple[PyTree, SubspaceState]:
            factor = 1 / jnp.where(state.scale > 0, state.scale, 1)
            value, error = state.values[state.target], state.residuals[state.target]
            if problem.which == "nearest":
                value = jnp.where((error < _ISOLATED * jnp.abs(value)) & ~exploring, value, 0)
            # The pairs before the target have converged; those after it are left alone.
            known = (jnp.arange(problem.k) <= state.target) | exploring
            best = jnp.where(known[None, :], state.coefficients[:, : problem.k], 0)
            block = block_combine(state.basis, best)
            definite = isinstance(self.linear_solver, lx.CG)
            shifted = ComplementOperator(operator, sigma + value, factor, block, definite)
            return solve_for_direction(
                shifted, shifted.project(residual), self.linear_solver, state
            )

        right, exploring, state = seek(sigma, state, self.rtol, self.atol)
        wanted = ~starting(state)
        if problem.which != "nearest":
            wanted = wanted & near
        direction, state = expansion(wanted, right, state, solve)
        new = add(operator, sigma, state, direction)
        new = extract(problem, sigma, new, self.rtol, self.atol)
        return confirm(sigma, exploring, state, new, self.rtol, self.atol)

    def ended(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState
    ) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether the solve is over, and how."""
        sigma = self._sigma(operator, problem)
        return ended(operator, problem, sigma, state, self.rtol, self.atol, self.explore)

    def terminate(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: Any):
        """Whether the solve is over."""
        return self.ended(operator, problem, state)[0]

    def finish(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState, start: Start
    ) -> EigenSolution:
        """The pairs, nearest or outermost first. No products."""
        rows = self.block_size(operator.in_structure(), problem.k)
        sigma = self._sigma(operator, problem)
        return conclude(operator, problem, sigma, state, self.rtol, self.atol, self.explore, rows)
