"""Lanczos with thick restart and full reorthogonalization."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp  # noqa: F401 (the example)
import lineax as lx  # noqa: F401 (the example)

from ._arguments import Scalar, check_numbers
from ._relation import WHICH, compress, kept_at_restart, namespace
from ._residuals import GUARD, AbstractResidualSolver
from ._solver import EigenProblem
from ._subspace import SubspaceState


class Lanczos(AbstractResidualSolver):
    """Thick-restart Lanczos for symmetric operators: one product a step, tested after each.

    A cold solve of k=1 costs what Lanczos with a full basis costs, until the basis is full; the
    default budget is 20 products for each basis vector.

    **More than one pair.** A Krylov space holds one copy of each eigenvalue. So with k > 1, once k
    pairs have settled they are held, and a random direction orthogonal to them is followed until
    its best pair is known not to be one of them; a copy takes its place among them, and another
    direction is drawn. It costs about what a cold solve for one pair costs, and as much again for
    each copy. `copies=False` does without; then `is_top` is
    false, unless a cold start has k random vectors (`block`). In a space of at most
    `basis` dimensions all of it is searched.

    **Warm start.** `solution.state` holds the wanted Ritz vectors and two more. The next solve
    starts from these, one product for each of the wanted. When they have settled, it searches from
    a random direction as above, for `explore` products where k = 1. For an operator that changes a
    little at every step use `Tracking`.

    **What `converged` does not mean.** A small residual means that a pair is an eigenpair, never
    that it is the top one. No Krylov method can promise that: a direction that the start vectors
    lack stays unseen. A random start has a share in all of them; `is_top` means that there was one.
    A looser `rtol` resolves less: at 1e-2 a cluster of a few per cent is one value, and a cold
    solve can settle on the lower of two values that differ by so much.

    Args:
        basis: The number of vectors that the solver multiplies before a restart; None: 20, or
            2k + 10 if that is more. It holds one more. Peak memory is `basis`, those kept at a
            restart, and about four more.
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
        """20 products for each vector of `basis`; 400 if that is None."""
        return 20 * (self.basis or 20)

    def capacity(self, dimension: int, k: int) -> int:
        """`basis` rows, and one for the last residual."""
        basis = max(20, 2 * k + 10) if self.basis is None else self.basis
        least = min(k + GUARD + 3, dimension)
        if min(basis + 1, dimension) < least:
            raise ValueError(
                f"Lanczos(basis={basis}) is too small for k={k}: use basis={least - 1} or more "
                "(2k + 10 is a good choice)."
            )
        return min(basis + 1, dimension)

    def looks_for_copies(self) -> bool:
        """`copies`."""
        return self.copies

    def random_rows(self) -> int:
        """`block`."""
        return self.block

    def shrink(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """The best half of the pairs beyond the wanted; these alone before a search."""
        relation, k = state.relation, problem.k
        xp = namespace(relation.multiplied)
        c = relation.multiplied.shape[0]
        best = kept_at_restart(c - 1, k)
        most = min(best + 2 * k, c - 2)
        # All that was not multiplied has to find room, or residuals would lose their share in it.
        not_multiplied = relation.present.sum() - relation.count
        kept = xp.where(state.decision.shrink, k, xp.clip(most - not_multiplied, k, best))
        smaller, pairs, columns, lost = compress(relation, state.pairs, kept, most)
        return smaller, pairs, columns[:, :most], lost, state.extra
