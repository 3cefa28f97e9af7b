"""LOBPCG: preconditioned residuals, and a restart that keeps the last change."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import PyTree

from .._platform import apply_if
from ..operators._layout import PackedOperator, pack, unpack
from ..preconditioners._base import AbstractPreconditioner
from ..vectors._tree import tree_dtype
from ._arguments import Scalar, Start, check_numbers
from ._relation import compress_onto, namespace, norms, project_out
from ._residuals import AbstractResidualSolver, with_row
from ._solver import EigenProblem
from ._space import AbstractExpansion, append
from ._subspace import SubspaceState

# A change of which this share is along others, or along what is kept, is no direction of its own.
_DEPENDENT = 0.03


class PreconditionedResidual(AbstractExpansion):
    """`K r`: an approximate inverse, applied to a residual. No products.

    Attributes:
        preconditioner: K, or what K is the inverse of.
        packed: Whether vectors are.
    """

    preconditioner: lx.AbstractLinearOperator
    packed: bool = eqx.field(static=True)

    def __call__(self, residual: PyTree, known: PyTree) -> Any:
        """See `AbstractExpansion`."""
        given, none = self.preconditioner, jnp.zeros((), jnp.int32)
        apply = given.inv_mv if isinstance(given, AbstractPreconditioner) else given.mv
        if not self.packed:
            return apply(residual), none, none
        structure = given.in_structure()
        return pack(apply(unpack(residual, structure)), structure), none, none


class LOBPCG(AbstractResidualSolver):
    """Locally optimal block preconditioned conjugate gradients, for symmetric operators.

    A step multiplies the (preconditioned) residual of the first wanted pair that has not converged;
    pairs that have stay in the space at no cost (soft locking). When the rows are used up, the
    space is cut down to X, the best `block` Ritz vectors, and P, what the wanted ones were before
    the last product. With a preconditioner that happens at every step, as in the textbook, but for
    one residual at a time: each profits from the one before it. Without, a few products go between.
    The default budget is 500 products.

    **When.** Where there is a preconditioner (an approximate inverse of `A - σ I`, σ just beyond
    the wanted end), or where memory for a long basis is lacking. Without a preconditioner `Lanczos`
    takes fewer products.

    **Memory.** `2 (block + k + 1)` vectors, and about as many while the space is cut down.

    **More than one pair, starts, evidence.** As in `Lanczos`: with k > 1 a random direction is
    followed beside the pairs found, until it is known to hold no copy of them.

    **Rounding.** Every cut turns the vectors that are kept, and residuals allow for what that
    loses: `ε ||A||` each, and more where images had more outside. Where that allowance is all that
    keeps a pair from its tolerance, the solve ends in `RESULTS.stagnation`; one that starts from
    its state begins with fresh products.

    Args:
        block: How many Ritz vectors a cut keeps; k + 2 if None. Those beyond k make up for the
            short memory of the method.
        rtol: A pair has converged when `||A v - θ v|| <= rtol |θ| + atol`.
        atol: See `rtol`.
        preconditioner: Applied to residuals: a `lineax` operator by its `mv`; an
            `AbstractPreconditioner`, which stands for the operator itself, by its `inv_mv`.
        noise: The length of the random vector that is added to the first of the unit vectors that
            a caller gives.
        explore: The most products that a warm solve for one pair spends on a random direction. More
            than in `Lanczos`: with so few rows a solve settles on the second pair more easily.

    Raises:
        ValueError: An option out of range; at a solve, a block smaller than k, or a preconditioner
            of another structure.

    Source: Knyazev, SIAM J. Sci. Comput. 23 (2001); the cut: Stathopoulos, SIAM J. Sci. Comput. 29
    (2007).

    Example:
        >>> from aeoskit.linalg import eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.arange(1.0, 31.0))
        >>> solution = eigensolve(operator, LOBPCG(rtol=1e-3), k=2)
        >>> [round(float(x), 2) for x in solution.values]
        [30.0, 29.0]
    """

    ends: ClassVar[tuple[str, ...]] = ("largest", "smallest", "both")
    symmetric: ClassVar[bool] = True
    block: int | None = eqx.field(default=None, static=True)
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0
    preconditioner: lx.AbstractLinearOperator | None = None
    noise: Scalar = 0.1
    explore: int = eqx.field(default=8, static=True)

    def __check_init__(self):
        if self.block is not None and self.block < 1:
            raise ValueError(f"LOBPCG(block={self.block}): keep k vectors at least, or pass None.")
        check_numbers(self, ("rtol", "atol", "noise"), "rtol=1e-3, atol=0, noise=0.1")
        if self.explore < 0:
            raise ValueError(f"LOBPCG(explore={self.explore}): a count is not negative; use 8.")

    def default_max_matvecs(self, dimension: int) -> int:
        """500."""
        return 500

    def _block(self, k: int) -> int:
        block = k + 2 if self.block is None else self.block
        if block < k:
            raise ValueError(
                f"LOBPCG(block={block}) is too small for k={k}: use block={k} or more."
            )
        return block

    def capacity(self, dimension: int, k: int) -> int:
        """X, P and one direction, and a row for the image of each."""
        return min(2 * (self._block(k) + k + 1), dimension)

    def rows_a_product(self) -> int:
        """One for the preconditioned residual too."""
        return 1 if self.preconditioner is None else 2

    def init(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start) -> Any:
        """The start vectors as rows. No products."""
        given, inner = self.preconditioner, operator
        if isinstance(operator, PackedOperator):
            inner = operator.operator
        if given is not None and given.in_structure() != inner.in_structure():
            raise ValueError(
                "LOBPCG(preconditioner=...): it acts on vectors of another structure than the "
                "operator; give one for the same pytree."
            )
        return super().init(operator, problem, start)

    def begin(
        self, structure: PyTree, problem: EigenProblem, start: Start, count: int, xp: Any
    ) -> Any:
        """The counts of start vectors; no change yet."""
        extra, *units = super().begin(structure, problem, start, count, xp)
        c, dtype = self.capacity(problem.dimension, problem.k), tree_dtype(structure)
        extra = dataclasses.replace(extra, before=xp.zeros((c, problem.k), dtype))
        if self.preconditioner is not None:
            extra = dataclasses.replace(extra, new_direction=xp.zeros(c, dtype))
        return extra, *units

    def expand(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState
    ) -> SubspaceState:
        """The preconditioned residual as a row."""
        if self.preconditioner is None:
            return state
        expansion = PreconditionedResidual(
            self.preconditioner, isinstance(operator, PackedOperator)
        )
        none = state.extra.new_direction * 0
        state = dataclasses.replace(
            state, extra=dataclasses.replace(state.extra, new_direction=none)
        )

        def with_expansion(state: SubspaceState) -> SubspaceState:
            relation = state.relation
            residual = state.pairs.errors[:, self.target(problem, state)[0]]
            known = relation.multiplied[:, :0]
            basis, new_direction, added, _, _ = append(
                state.basis, expansion, residual, known, relation.size
            )
            return with_row(
                state, basis, added, dataclasses.replace(state.extra, new_direction=new_direction)
            )

        return apply_if(
            ~(self.at_start(state) | state.decision.add_random_row), with_expansion, state
        )

    def shrink(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """X and P; the wanted pairs alone before a search."""
        xp, k = namespace(state.relation.multiplied), problem.k
        c, b = state.relation.multiplied.shape[0], self._block(k)
        count = xp.where(state.decision.shrink, k, b)
        best = xp.where(xp.arange(b) < count, state.pairs.vectors[:, :b], 0)
        change = project_out(best, state.extra.before)
        lengths = norms(change)
        some = (lengths > 1e-6) & ~state.decision.shrink
        change = xp.where(some[None, :], change / xp.where(some, lengths, 1)[None, :], 0)
        axes, weights, _ = xp.linalg.svd(change, full_matrices=False)
        axes = xp.where((weights > _DEPENDENT)[None, :], project_out(best, axes), 0)
        directions = xp.concatenate([best, axes], axis=1).astype(best.dtype)
        most = c - self.rows_a_product()
        return *compress_onto(
            state.relation, state.pairs, count, directions, state.numerics.scale, most
        ), state.extra
