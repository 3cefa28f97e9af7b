"""Eigenvalues nearest a shift: shift and invert, by a lineax solve per step."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PyTree

from .solvers._eigensolve import AbstractEigenSolver, EigenProblem
from ._minres import MINRES, products_spent
from ._options import Scalar
from ._orthogonal import once
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
from ._tree import tree_dtype, tree_norm, tree_size, tree_where


def check_options(name: str, rtol: Scalar, atol: Scalar, basis: int, explore: int) -> None:
    """Refuses what no solve can use."""
    known = [x for x in (rtol, atol) if isinstance(x, int | float)]
    if not all(0 <= x < float("inf") for x in known):
        raise ValueError(
            f"{name}(rtol={rtol}, atol={atol}): a tolerance is finite and not negative; the "
            "defaults are rtol=1e-3, atol=0."
        )
    if basis < 3:
        raise ValueError(f"{name}(basis={basis}): a basis needs 3 vectors; use 20.")
    if explore < 0:
        raise ValueError(f"{name}(explore={explore}): a count is not negative; the default is 1.")


def as_shift(shift: Float[Array, ""] | float) -> Float[Array, ""]:
    """The shift as a floating scalar array, so that it can be swept."""
    wanted = "the number, finite and real, next to which eigenvalues are wanted."
    try:
        array = jnp.asarray(shift)
    except TypeError:
        raise TypeError(f"shift={shift!r}: the shift is {wanted}") from None
    if array.ndim:
        raise ValueError(
            f"shift: the shift is {wanted} This one has shape {array.shape}; for several shifts "
            "use jax.vmap."
        )
    known = not isinstance(array, Tracer)
    if jnp.iscomplexobj(array) or (known and not bool(jnp.isfinite(array))):
        raise ValueError(f"shift={shift}: the shift is {wanted}")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def solve_for_direction(
    shifted: ComplementOperator,
    right: PyTree,
    solver: lx.AbstractLinearSolver,
    state: SubspaceState,
) -> tuple[PyTree, SubspaceState]:
    """The direction of `shifted⁻¹ right`, and the state with the products that it took.

    A solve that fails leaves what it had; where that is not finite, the direction is `right`.
    """
    size = tree_size(shifted.in_structure())
    norm = tree_norm(right)
    # Root mean square one: absolute tolerances are relative to the system.
    unit = jnp.where(norm > 0, norm, 1) / size**0.5
    right = jax.tree.map(lambda x: (x / unit).astype(x.dtype), right)
    solution = lx.linear_solve(shifted, right, solver, throw=False)
    length = tree_norm(solution.value)
    usable = jnp.isfinite(length) & (length > 0)
    direction = tree_where(usable, solution.value, right)
    short = solution.result == lx.RESULTS.max_steps_reached
    failed = ~usable | ~((solution.result == lx.RESULTS.successful) | short)
    spent = products_spent(solver, solution.stats, size)
    state = eqx.tree_at(
        lambda s: (s.matvecs, s.failed),
        state,
        (state.matvecs + jnp.asarray(spent, jnp.int32), state.failed + failed),
    )
    return direction, state


def expansion(
    predicate: Bool[Array, ""], right: PyTree, state: SubspaceState, function: Any
) -> tuple[PyTree, SubspaceState]:
    """`function(right, state)` if the predicate holds, otherwise the same, at no cost."""
    return once(predicate, lambda c: function(*c), (right, state))


class ShiftInvert(AbstractEigenSolver):
    """The eigenvalues nearest a shift σ, inside of the spectrum or not: `(A - σ)⁻¹` at each step.

    Each step solves `(A - σ) t = r` for the residual r of the first wanted pair that has not
    converged, and adds t to the space. With exact solves that is the Krylov space of `(A - σ)⁻¹`
    (what Lanczos on the inverse would build); but as r vanishes, so does the error of an inexact
    solve, and a solve to a relative 0.01 does not keep the pairs from converging to any tolerance.
    Values are Rayleigh quotients of A and residuals those of A itself, whatever became of the
    linear solves. A shift that is an eigenvalue is no harm.

    **Cost.** One product a step and those of the linear solver, all counted in
    `stats["matvecs"]`: exactly for `MINRES`, `lineax.CG` and `lineax.BiCGStab` (to one product a
    solve), from above for `lineax.GMRES` (each cycle in full) and `lineax.LSMR`. The budget
    is looked at between steps, so that one linear solve may exceed it. `stats["failed_solves"]`
    counts linear solves that broke down or stagnated (a step limit does not count: its result is
    used). The nearer the shift to eigenvalues, in units of the width of the spectrum, the more
    products a solve takes: an eigenvalue amid a dense spectrum is dear.

    **Memory.** 2 `basis` vectors (the images too), k + 6 more, those of the linear solver
    (`MINRES` five, `lineax.GMRES` its `restart` + 1), and one linearization.

    **What was overlooked.** When all wanted pairs have converged, `explore` more solves follow,
    each from a random vector: a nearer eigenvalue, or another copy of a
    repeated one, is strong in its solution. Only if that changes nothing is the solve over. It is
    evidence, not proof.

    Source: Lee and Stewart 2007 (the shift-invert residual Arnoldi method); Jia and Li, *Inner
    iterations in the shift-invert residual Arnoldi method and the Jacobi-Davidson method*, Science
    China Math. 57 (2014).

    Args:
        shift: σ, a number or a scalar array (it can be swept by `vmap`).
        linear_solver: A lineax solver; `MINRES(rtol=0.01, max_steps=200)` by default. `lineax.CG`
            where `A - σ` is definite, of either sign (you vouch for it).
        basis: The number of vectors that are held, and as many images.
        rtol: As in `Lanczos`: `||A v - θ v|| <= rtol |θ| + atol`. For values near zero give
            `atol`.
        atol: See `rtol`.
        explore: How many linear solves from a random vector have to bring nothing new; one more
            where the start was given.

    Raises:
        ValueError: An option out of range; at a solve, a basis too small for k.

    Example:
        >>> from aeoskit.linalg import eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.linspace(-4.0, 4.0, 9))
        >>> solution = eigensolve(operator, ShiftInvert(1.2), k=2, which="nearest")
        >>> [round(float(value), 3) for value in solution.values]
        [1.0, 2.0]
    """

    ends: ClassVar[tuple[str, ...]] = ("nearest",)
    symmetric: ClassVar[bool] = True
    shift: Float[Array, ""] = eqx.field(converter=as_shift)
    linear_solver: lx.AbstractLinearSolver = MINRES(rtol=1e-2, max_steps=200)
    basis: int = eqx.field(default=20, static=True)
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0
    explore: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        check_options("ShiftInvert", self.rtol, self.atol, self.basis, self.explore)

    def default_max_matvecs(self, dimension: int) -> int:
        """200 products for each basis vector."""
        return 200 * self.basis

    def block_size(self, structure: PyTree, k: int) -> int:
        """The wanted vectors and the next one."""
        return min(k + 1, structure_dimension(structure))

    def _sigma(self, operator: lx.AbstractLinearOperator) -> Float[Array, ""]:
        return self.shift.astype(tree_dtype(operator.in_structure()))

    def init(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start):
        """An empty space. No products."""
        return begin(operator, problem, start, self.basis, "ShiftInvert")

    def step(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState
    ):
        """One linear solve and one product; while start vectors are left, the product alone."""
        sigma = self._sigma(operator)
        state = make_room(operator, problem, state)

        def solve(residual: PyTree, state: SubspaceState) -> tuple[PyTree, SubspaceState]:
            factor = 1 / jnp.where(state.scale > 0, state.scale, 1)
            definite = isinstance(self.linear_solver, lx.CG)
            shifted = ComplementOperator(operator, sigma, factor, None, definite)
            return solve_for_direction(shifted, residual, self.linear_solver, state)

        right, exploring, state = seek(sigma, state, self.rtol, self.atol)
        direction, state = expansion(~starting(state), right, state, solve)
        new = add(operator, sigma, state, direction)
        new = extract(problem, sigma, new, self.rtol, self.atol)
        return confirm(sigma, exploring, state, new, self.rtol, self.atol)

    def ended(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState
    ) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether the solve is over, and how."""
        return ended(
            operator, problem, self._sigma(operator), state, self.rtol, self.atol, self.explore
        )

    def terminate(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: Any):
        """Whether the solve is over."""
        return self.ended(operator, problem, state)[0]

    def finish(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState, start: Start
    ) -> EigenSolution:
        """The pairs, nearest first. No products."""
        rows = self.block_size(operator.in_structure(), problem.k)
        sigma = self._sigma(operator)
        return conclude(operator, problem, sigma, state, self.rtol, self.atol, self.explore, rows)
