"""Lanczos with thick restart and full reorthogonalization."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import lineax as lx  # noqa: F401 (the example)
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Int, PyTree

from .._record import record
from .._options import Scalar, check_numbers
from .._results import EVIDENCE
from .._ritz import WHICH, structure_dimension
from .._start import Start
from ._eigensolve import EigenProblem
from ._relation import compressed, kept_at_restart, matmul, namespace, unit_directions
from ._subspace import AbstractSubspaceSolver, Search, SubspaceState, WITHOUT_END
from ._verdict import first_match, select, standing

# Vectors beyond the wanted ones that a warm start keeps: residuals have their share in them, and so
# two values are seen to change places.
_GUARD = 2


@record
class LanczosMemory:
    """Which rows of the block hold a vector."""

    there: Bool[ArrayLike, " r"]


@record
class LanczosOwn:
    """How many random and given rows a solve begins with, each of which has its product."""

    random: Int[ArrayLike, ""]
    given: Int[ArrayLike, ""]


class Lanczos(AbstractSubspaceSolver):
    """Thick-restart Lanczos for symmetric operators: one product a step, tested after each.

    A cold solve of k=1 costs what Lanczos with a full basis costs, until the basis is full; the
    default budget is 20 products for each basis vector.

    **More than one pair.** A Krylov space holds one copy of each eigenvalue. So with k > 1, once k
    pairs have settled they are held, and a random direction orthogonal to them is followed until
    its best pair is known not to be one of them; a copy takes its place among them, and another
    direction is drawn. It costs about what a cold solve for one pair costs, and as much again for
    each copy. `copies=False` does without, and then `is_top` is false. In a space of at most `basis`
    dimensions all of it is searched.

    **Warm start.** `solution.state` holds the wanted Ritz vectors and two more. The next solve
    starts from these, one product for each of the wanted. When they have settled, it searches from a random
    direction as above, for `explore` products where k = 1. For an operator that changes a little at
    every step use `Tracking`.

    **What `converged` does not say.** A small residual says that a pair is an eigenpair, never
    that it is the top one. No Krylov method can promise that: a direction that the start vectors
    lack stays unseen. A random start has a share in all of them; `is_top` says that there was one.
    A looser `rtol` resolves less: at 1e-2 a cluster of a few per cent is one value, and a cold
    solve can settle on the lower of two values that differ by so much.

    Args:
        basis: The number of vectors that the solver holds, one more excepted; None: 20, or 2k + 10
            if that is more. Peak memory is `basis`, those kept at a restart, and about four more.
        block: How many random vectors a cold start has.
        rtol: A pair has converged when `||A v - θ v|| <= rtol |θ| + atol`. The test adds an
            allowance for rounding, `8 ε ||A||` and what restarts lost, to the residual: a tolerance
            under that floor ends in `RESULTS.stagnation`, never in `converged`.
        atol: See `rtol`.
        noise: The length of the random vector that is added to the first of the unit vectors that
            a caller gives.
        explore: The most products that a warm solve for one pair spends on a random direction.
        copies: Whether a solve for several pairs looks for copies.

    Raises:
        ValueError: An option out of range; at a solve, a basis too small for k.

    Source: Wu and Simon, SIAM J. Matrix Anal. Appl. 22 (2000).

    Example:
        >>> from aeoskit.linalg import eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.array([1.0, 4.0, 2.0, 4.0]))
        >>> eigensolve(operator, Lanczos(rtol=1e-4), k=2).values.round(3).tolist()
        [4.0, 4.0]
    """

    ends: ClassVar[tuple[str, ...]] = WHICH
    symmetric: ClassVar[bool] = True
    basis: int | None = eqx.field(default=None, static=True)
    block: int = eqx.field(default=1, static=True)
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0
    noise: Scalar = 0.1
    explore: int = eqx.field(default=5, static=True)
    copies: bool = eqx.field(default=True, static=True)

    def __check_init__(self):
        if self.basis is not None and self.basis < 3:
            raise ValueError(f"Lanczos(basis={self.basis}): a basis needs 3 vectors; use 20.")
        if self.block < 1:
            raise ValueError(f"Lanczos(block={self.block}): a start has 1 vector at least.")
        check_numbers(self, ("rtol", "atol", "noise"), "rtol=1e-3, atol=0, noise=0.1")
        if self.explore < 0:
            raise ValueError(
                f"Lanczos(explore={self.explore}): a count is not negative; the default is 5."
            )

    def default_max_matvecs(self, dimension: int) -> int:
        """20 products for each basis vector, 400 at least."""
        return 20 * (self.basis or 20)

    def block_size(self, structure: PyTree, k: int) -> int:
        """The wanted vectors and two more."""
        return min(k + _GUARD, structure_dimension(structure))

    def capacity(self, dimension: int, k: int) -> int:
        """`basis` rows, and one for the last residual."""
        basis = max(20, 2 * k + 10) if self.basis is None else self.basis
        least = min(k + _GUARD + 3, dimension)
        if min(basis + 1, dimension) < least:
            raise ValueError(
                f"Lanczos(basis={basis}) is too small for k={k}: use basis={least - 1} or more "
                "(2k + 10 is a good choice)."
            )
        return min(basis + 1, dimension)

    def blank_memory(self, structure: PyTree, k: int) -> LanczosMemory:
        """No rows."""
        return LanczosMemory(there=jnp.zeros(self.block_size(structure, k), bool))

    def may_search(self, problem: EigenProblem) -> bool:
        """Copies are looked for with k > 1, and what a warm start may lack."""
        return self.copies if problem.k > 1 else self.explore > 0

    def begin(
        self, structure: PyTree, problem: EigenProblem, start: Start, count: int, xp: Any
    ) -> Any:
        """The counts of start vectors; numbers are in units of the first product."""
        if start.memory is None:
            none = xp.zeros((), np.int32)
            return LanczosOwn(random=none, given=xp.asarray(count, np.int32)), 0.0, 0.0
        there = xp.sum(start.memory.there[: problem.k])
        return LanczosOwn(
            random=xp.where(start.fresh, self.block, 0).astype(np.int32),
            given=xp.where(start.fresh, 0, there).astype(np.int32),
        ), 0.0, 0.0

    def search(self, problem: EigenProblem, start: Start) -> Search:
        """Copies, and beside a warm start what it may lack."""
        xp = namespace(start.age)
        several = problem.k > 1
        if start.memory is None:
            no = xp.asarray(False)
            return Search(no, xp.zeros((), np.int32), EVIDENCE.none, no)
        looked = several and self.copies
        asked = xp.where(start.fresh, looked, self.copies if several else self.explore > 0)
        limit = WITHOUT_END if several else self.explore
        found = EVIDENCE.fresh_direction
        if not looked:
            cold = EVIDENCE.random_start if self.block == 1 else EVIDENCE.block
            found = select(start.fresh, cold, found)
        # Without a search a block sees as many copies as it has vectors.
        cold = not several or self.block >= problem.k
        return Search(
            asked=asked,
            limit=xp.asarray(limit, np.int32),
            evidence=found,
            trusted=asked | (start.fresh & cold),
        )

    def direction(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any, Any]:
        """A start vector while there are any; a random row; the residual that is wanted most."""
        relation, own, k = state.relation, state.own, problem.k
        xp = namespace(relation.tried)
        index = xp.arange(relation.tried.shape[0])
        _, settled = standing(self.rtol, self.atol, state.pairs, state.health)
        wanted = (index < k) & ~settled & (index < relation.count)
        beyond = first_match(problem, self.rtol, self.atol, state.pairs, state.health)
        target = xp.where(xp.any(wanted), xp.argmax(wanted), beyond)
        # Where the residual is of no use, what has not been multiplied: the last row in general.
        begins = state.matvecs < own.given
        row = xp.where(begins, state.matvecs, relation.size - 1)
        residual = unit_directions(relation, state.pairs.errors)
        unseen = relation.there & ((relation.tried**2).sum(axis=1) < 0.5)
        last = xp.argmax(xp.where(unseen, index, -1))
        plain = begins | state.verdict.inject
        row = xp.where(plain, row, last)
        # A random row takes what the last solve saw beyond the wanted: it grows from solve to solve.
        beyond = (index >= own.given) & (index < own.given + _GUARD) & relation.there
        beyond = beyond & state.verdict.inject & (own.given > 0) & (state.restarts == 0)
        rows = ((index == row) | beyond).astype(residual.dtype)[:, None]
        x = residual[:, target]
        x = xp.where(plain | ~xp.any(x != 0), unit_directions(relation, rows)[:, 0], x)
        return x, xp.where(relation.size > 2, relation.size - 2, -1), own

    def wants_random(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """While a cold start has not all its vectors."""
        return state.matvecs < state.own.random

    def learn(self, problem: EigenProblem, state: SubspaceState, x: Any, product: Any):
        """Nothing of its own."""
        return state

    def settled(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any]:
        """All k pairs, and every start vector had its product."""
        k = problem.k
        _, settled = standing(self.rtol, self.atol, state.pairs, state.health)
        xp = namespace(settled)
        enough = xp.all(settled[:k]) & (state.relation.count >= k)
        return enough & (state.matvecs >= state.own.random + state.own.given), None

    def shrink(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """The best half of the pairs beyond the wanted; these alone before a search."""
        relation, k = state.relation, problem.k
        xp = namespace(relation.tried)
        c = relation.tried.shape[0]
        best = kept_at_restart(c - 1, k)
        most = min(best + 2 * k, c - 2)
        # All that was not multiplied has to find room, or residuals would lose their share in it.
        unseen = relation.there.sum() - relation.count
        kept = xp.where(state.verdict.shrink, k, xp.clip(most - unseen, k, best))
        smaller, pairs, columns, lost = compressed(relation, state.pairs, kept, most)
        return smaller, pairs, columns[:, :most], lost, state.own

    def remember(
        self, problem: EigenProblem, state: SubspaceState, start: Start, rows: int
    ) -> Any:
        """The wanted vectors and the next ones."""
        xp = namespace(state.relation.tried)
        columns = matmul(state.relation.tried, state.pairs.vectors[:, :rows])
        missing = rows - columns.shape[1]
        if missing > 0:
            columns = xp.pad(columns, ((0, 0), (0, missing)))
        there = (xp.arange(rows) < state.relation.count) & state.health.finite
        return columns, LanczosMemory(there=there), xp.zeros((), np.int32)

