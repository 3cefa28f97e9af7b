"""LOBPCG: the locally optimal block preconditioned conjugate gradient method, on pytrees.

Each iteration is a Rayleigh-Ritz step in the span of the block X, the (preconditioned) residuals
W and the conjugate directions P (Knyazev, SIAM J. Sci. Comput. 23, 2001). The textbook form breaks
down when these become dependent. Here the trial space is held as one orthonormal basis, so that
the small problem is a standard one: a residual that adds nothing is dropped before a product is
spent on it, and X and P of the next iteration are orthonormal combinations of the basis, read off
the small eigenproblem's coefficients (Hetmaniuk and Lehoucq, J. Comput. Phys. 218, 2006; Duersch,
Shao, Yang and Gu, SIAM J. Sci. Comput. 40, 2018).
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, PyTree

from .solvers._eigensolve import AbstractEigenSolver, EigenProblem
from ._error_bars import ritz_gaps, temple_bound
from ._lobpcg_state import LOBPCGState, dependent, rayleigh_ritz, rebuilt
from ._operators import AbstractPreconditioner
from ._options import Scalar, check_numbers
from ._orthogonal import draw, once, orthonormalise
from ._results import EVIDENCE, RESULTS
from ._ritz import original_order, structure_dimension
from ._solution import EigenSolution
from ._start import Start
from ._tree import (
    block_dots,
    block_row,
    block_set_row,
    block_zeros,
    tree_dtype,
    tree_norm,
    tree_scale,
    tree_where,
)
from ._vector_structure import vector_structure

# In units of (machine epsilon * largest Ritz value seen): what rounding alone adds to a residual,
# and what each recombination of the images adds to it.
_FLOOR = 8.0
_DRIFT = 1.0
# How often the images are computed anew, for tolerances near the floor.
_REBUILDS = 3
# Iterations near the floor without progress that end a solve.
_PATIENCE = 20
# Next to the unit vector of the explorer.
_FRESH = 0.5


class LOBPCG(AbstractEigenSolver):
    """Locally optimal block preconditioned conjugate gradients, for symmetric operators.

    An iteration multiplies the residuals of the first `expand` wanted pairs that have not
    converged; converged pairs stay in the trial space at no cost (soft locking), and the images of
    all other vectors are recombined. With `expand=None` every such pair is expanded, as in the
    textbook; one at a time needs 10 to 45 % fewer products on the spectra that we tried, since each
    residual then profits from the one before it. A cold solve begins with k random vectors; the
    default budget is 500 products.

    **When.** Where there is a preconditioner (an approximate inverse of `A - σ I`, σ just beyond
    the wanted end), for repeated eigenvalues (a block sees up to k copies), or where memory for a
    long basis is lacking. Without a preconditioner `Lanczos` takes fewer products.

    **Memory.** `block + k + expand` vectors, as many images, and one leaf's share of these again
    while they are recombined: at most three blocks and three images where block = k.

    **Rounding.** Recombined images drift away from the products that they stand for. Residuals
    contain an allowance for that, `ε max|θ|` for each iteration on top of `8 ε max|θ|`; where that
    allowance is all that keeps a pair from its tolerance, the wanted vectors are multiplied anew
    (counted in `stats["restarts"]`, k products each).

    **Starts.** Vectors given (a block of any number, leaves `(p, *leaf)`; zero, NaN and dependent
    ones are replaced by random ones) cost a product each. `solution.state` holds the k wanted
    vectors and the next best one, which gets a random part and is followed for `explore`
    iterations when the wanted ones have converged. As for every solver, `converged` says that a
    pair is an eigenpair, and `is_top` on what evidence it is the one asked for.

    Args:
        block: How many Ritz vectors are carried from iteration to iteration; k + 2 if None. Those
            beyond k cost memory, no products, and make up for the short memory of the method.
        expand: How many residuals an iteration multiplies at most; those of all k pairs if None.
        rtol: A pair has converged when `||A v - θ v|| <= rtol |θ| + atol`.
        atol: See `rtol`.
        preconditioner: Applied to residuals: a `lineax` operator by its `mv`; an
            `AbstractPreconditioner`, which stands for the operator itself, by its `inv_mv`.
        noise: The weight of a random unit vector in the last wanted start vector where the caller
            gives vectors and no state.
        explore: Products that a solve from a state spends beyond the wanted pairs.

    Raises:
        ValueError: An option out of range; at a solve, a block smaller than k, or a preconditioner
            of another structure.

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
    expand: int | None = eqx.field(default=1, static=True)
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0
    preconditioner: lx.AbstractLinearOperator | None = None
    noise: Scalar = 0.1
    explore: int = eqx.field(default=4, static=True)

    def __check_init__(self):
        if self.block is not None and self.block < 1:
            raise ValueError(f"LOBPCG(block={self.block}): carry k vectors at least, or say None.")
        if self.expand is not None and self.expand < 1:
            raise ValueError(
                f"LOBPCG(expand={self.expand}): an iteration takes one residual at least, or say "
                "None for those of all k pairs."
            )
        check_numbers(self, ("rtol", "atol", "noise"), "rtol=1e-3, atol=0, noise=0.1")
        if self.explore < 0:
            raise ValueError(f"LOBPCG(explore={self.explore}): a count is not negative; use 4.")

    def default_max_matvecs(self, dimension: int) -> int:
        """500."""
        return 500

    def block_size(self, structure: PyTree, k: int) -> int:
        """The wanted vectors and the next best one."""
        return min(k + 1, structure_dimension(structure))

    def _expansion(self, k: int) -> int:
        return k if self.expand is None else min(self.expand, k)

    def _carried(self, k: int, dimension: int) -> int:
        block = k + 2 if self.block is None else self.block
        if block < k:
            raise ValueError(
                f"LOBPCG(block={block}) is too small for k={k}: use block={k} or more."
            )
        return min(block, dimension)

    def init(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start):
        """The start vectors, orthonormal. No products."""
        structure, given = vector_structure(operator), self.preconditioner
        if given is not None and given.in_structure() != operator.in_structure():
            raise ValueError(
                "LOBPCG(preconditioner=...): it acts on vectors of another structure than the "
                "operator; give one for the same pytree."
            )
        dimension, dtype = structure_dimension(structure), tree_dtype(structure)
        b = self._carried(problem.k, dimension)
        m = min(b + problem.k + self._expansion(problem.k), dimension)
        basis, s, key = self._start(structure, problem.k, b, m, start)
        zero, integer = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        return LOBPCGState(
            basis=basis,
            images=block_zeros(structure, m),
            projected=jnp.zeros((m, m), dtype),
            size=integer,
            ready=jnp.full_like(integer, s),
            carried=integer,
            values=jnp.zeros(b, dtype),
            estimates=jnp.full(b, jnp.inf, dtype),
            seen=jnp.zeros(m, dtype),
            count=integer,
            scale=zero,
            asymmetry=zero,
            finite=jnp.asarray(True),
            drift=integer,
            best=jnp.full((), jnp.inf, dtype),
            stalled=integer,
            explored=integer,
            explore=jnp.where(start.fresh, 0, self.explore if s > problem.k else 0),
            evidence=self._evidence(problem.k, start),
            key=key,
            matvecs=integer,
            restarts=integer,
        )

    def _start(self, structure: PyTree, k: int, b: int, m: int, start: Start):
        rows = 0 if start.block is None else jax.tree.leaves(start.block)[0].shape[0]
        s = min(max(rows, k), b)
        rows = min(rows, s)
        last = min(rows, k) - 1
        # With an explorer next to the wanted vectors, these stay as they are.
        levels = [0.0] * k + [_FRESH] if rows > k else [0.0] * last + [self.noise]
        levels = jnp.asarray((levels + [0.0] * s)[:s], tree_dtype(structure))

        def put(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            basis, key = carry
            fresh, key = draw(key, structure)
            q = fresh = tree_scale(1 / tree_norm(fresh), fresh)
            if start.block is not None:
                given = block_row(start.block, jnp.minimum(i, rows - 1))
                norm = tree_norm(given)
                usable = jnp.isfinite(norm) & (norm > 0) & ~start.fresh & (i < rows)
                unit = tree_scale(1 / jnp.where(usable, norm, 1), given)
                mixed = jax.tree.map(lambda x, y: (x + levels[i] * y).astype(x.dtype), unit, fresh)
                q = tree_where(usable & ~dependent(basis, mixed, i), mixed, fresh)
            return block_set_row(basis, i, orthonormalise(basis, q, i)), key

        basis, key = jax.lax.fori_loop(0, s, put, (block_zeros(structure, m), start.key))
        return basis, s, key

    def _evidence(self, k: int, start: Start) -> EVIDENCE:
        cold = EVIDENCE.block if k > 1 else EVIDENCE.random_start
        if start.block is None:
            return cold
        rows = jax.tree.leaves(start.block)[0].shape[0]
        warm = EVIDENCE.fresh_direction if rows > k and self.explore > 0 else EVIDENCE.none
        return EVIDENCE.where(start.fresh, cold, warm)

    def step(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: LOBPCGState):
        """One product; the Rayleigh-Ritz step after the last one of an iteration."""
        state = once(state.size == state.ready, lambda s: self._expand(problem, s), state)
        q = block_row(state.basis, state.size)
        w = operator.mv(q)
        finite = jnp.isfinite(tree_norm(w))
        w = jax.tree.map(lambda x, y: jnp.where(finite, x, 0).astype(y.dtype), w, q)
        index = jnp.arange(state.projected.shape[0])
        h = jnp.where(index <= state.size, block_dots(state.basis, w), 0)
        # The same entries from the other side: an operator that is not symmetric shows here.
        mirror = block_dots(state.images, q)
        difference = jnp.max(jnp.where(index < state.size, jnp.abs(h - mirror), 0))
        state = eqx.tree_at(
            lambda s: (s.images, s.projected, s.size, s.asymmetry, s.finite, s.matvecs),
            state,
            (
                block_set_row(state.images, state.size, w),
                state.projected.at[:, state.size].set(h).at[state.size, :].set(h),
                state.size + 1,
                jnp.maximum(state.asymmetry, difference),
                state.finite & finite,
                state.matvecs + 1,
            ),
        )
        complete = (state.size == state.ready) | (state.matvecs >= problem.max_matvecs)
        return once(complete, lambda s: rayleigh_ritz(problem, s), state)

    def _expand(self, problem: EigenProblem, state: LOBPCGState) -> LOBPCGState:
        """The next directions: residuals, or the wanted vectors again where images drifted."""
        rebuild = self._rebuild(problem, state)
        state = once(~rebuild, lambda s: self._residuals(problem, s), state)
        return once(rebuild, lambda s: rebuilt(problem.k, s), state)

    def _residuals(self, problem: EigenProblem, state: LOBPCGState) -> LOBPCGState:
        b, m = state.values.shape[0], state.projected.shape[0]
        rank = jnp.arange(b)
        wanted = rank < problem.k
        settled, _ = self._settled(state)
        active = wanted & ~settled & jnp.isfinite(state.estimates)
        active = active & (jnp.cumsum(active) <= self._expansion(problem.k))
        exploring = ~jnp.any(active)
        beyond = jnp.where(jnp.isfinite(state.estimates), state.estimates, -1)
        beyond = jnp.where(wanted & (b > problem.k), -2, beyond)
        active = jnp.where(exploring, rank == jnp.argmax(beyond), active)
        queue = jnp.argsort(~active)

        def put(i: Array, carry: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
            basis, ready, key = carry
            j = queue[i]
            theta = state.values[j]
            x, image = block_row(basis, j), block_row(state.images, j)
            r = jax.tree.map(lambda a, v: (a - theta * v).astype(v.dtype), image, x)
            r = self._precondition(r)
            norm = tree_norm(r)
            good = jnp.isfinite(norm) & (norm > 0)
            r = jax.tree.map(lambda a: jnp.where(good, a / jnp.where(good, norm, 1), 0), r)
            useful = good & ~dependent(basis, r, ready) & (ready < m)
            # Every iteration has one direction at least, or the solve would not end.
            needed = (ready == state.size) & ~useful
            r, key = once(needed, lambda c: draw(c[1], c[0]), (r, key))
            row = jnp.minimum(ready, m - 1)
            basis = once(
                useful | needed, lambda x: block_set_row(x, row, orthonormalise(x, r, row)), basis
            )
            return basis, ready + (useful | needed), key

        carry = (state.basis, state.ready, state.key)
        basis, ready, key = jax.lax.fori_loop(0, jnp.sum(active), put, carry)
        return eqx.tree_at(
            lambda s: (s.basis, s.ready, s.key, s.explored),
            state,
            (basis, ready, key, state.explored + exploring),
        )

    def _precondition(self, r: PyTree) -> PyTree:
        if self.preconditioner is None:
            return r
        if isinstance(self.preconditioner, AbstractPreconditioner):
            return self.preconditioner.inv_mv(r)
        return self.preconditioner.mv(r)

    def _floor(self, state: LOBPCGState) -> tuple[Array, Array]:
        """What rounding adds to a residual with fresh images, and with those at hand."""
        unit = jnp.finfo(state.scale.dtype).eps * state.scale
        return _FLOOR * unit, (_FLOOR + _DRIFT * jnp.maximum(state.drift - 1, 0)) * unit

    def _settled(self, state: LOBPCGState) -> tuple[Bool[Array, " b"], Bool[Array, " b"]]:
        """By rank: whether no product is to be spent on a pair, and whether it has converged."""
        fresh, drifted = self._floor(state)
        tolerance = self.rtol * jnp.abs(state.values) + self.atol
        settled = (state.estimates + fresh <= tolerance) | (state.estimates <= fresh)
        return settled, state.estimates + drifted <= tolerance

    def _rebuild(self, problem: EigenProblem, state: LOBPCGState) -> Bool[Array, ""]:
        """Whether the drift of the images is all that keeps wanted pairs from their tolerance."""
        k = problem.k
        fresh, _ = self._floor(state)
        settled, converged = self._settled(state)
        tolerance = self.rtol * jnp.abs(state.values) + self.atol
        drifted = (state.estimates + fresh <= tolerance) & ~converged
        return (
            jnp.all(settled[:k])
            & jnp.any(drifted[:k])
            & (state.restarts < _REBUILDS)
            & (state.matvecs + k <= problem.max_matvecs)
        )

    def ended(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: LOBPCGState
    ):
        """Whether the solve is over, and how."""
        k = problem.k
        eps = jnp.finfo(state.scale.dtype).eps
        settled, converged = self._settled(state)
        idle = (state.size == state.ready) & (state.count > 0)
        enough = jnp.all(settled[:k]) & (state.explored >= state.explore)
        enough = enough & ~self._rebuild(problem, state)
        enough = enough | (state.stalled >= _PATIENCE)
        enough = enough | (state.count >= structure_dimension(operator.in_structure()))
        enough = enough & idle
        asymmetric = state.asymmetry > 10 * jnp.sqrt(eps) * state.scale
        result = RESULTS.where(jnp.all(converged[:k]), RESULTS.successful, RESULTS.stagnation)
        result = RESULTS.where(enough, result, RESULTS.max_matvecs_reached)
        result = RESULTS.where(asymmetric & idle, RESULTS.asymmetric, result)
        result = RESULTS.where(state.finite, result, RESULTS.nonfinite)
        spent = state.matvecs >= problem.max_matvecs
        return enough | spent | ~state.finite | (asymmetric & idle), result

    def terminate(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: Any):
        """Whether the solve is over."""
        return self.ended(operator, problem, state)[0]

    def finish(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: LOBPCGState, start: Start
    ) -> EigenSolution:
        """The k best pairs and the warm start. No products."""
        structure = operator.in_structure()
        dimension = structure_dimension(structure)
        k = problem.k
        _, result = self.ended(operator, problem, state)
        valid = (jnp.arange(k) < state.carried) & state.finite
        values = jnp.where(valid, state.values[:k], jnp.nan)
        residuals = jnp.where(valid, state.estimates[:k] + self._floor(state)[1], jnp.inf)
        sound = valid & ~(result == RESULTS.asymmetric)
        converged = sound & (residuals <= self.rtol * jnp.abs(values) + self.atol)
        gaps = ritz_gaps(values, state.seen, jnp.arange(state.seen.shape[0]) < state.count)
        evidence = EVIDENCE.where(state.count >= dimension, EVIDENCE.whole_space, state.evidence)
        rows = self.block_size(structure, k)

        def fill(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            block, key = carry
            fresh, key = draw(key, structure)
            return block_set_row(block, i, orthonormalise(block, fresh, i)), key

        held = state.projected.shape[0]
        block = jax.tree.map(
            lambda x: jnp.pad(x[:rows], [(0, max(0, rows - held))] + [(0, 0)] * (x.ndim - 1)),
            state.basis,
        )
        block, key = jax.lax.fori_loop(
            jnp.minimum(jnp.maximum(state.ready, state.size), rows), rows, fill, (block, state.key)
        )
        back = original_order(k, problem.which)
        return EigenSolution(
            values=values[back],
            vectors=jax.tree.map(lambda x: x[:k][back], block),
            residuals=residuals[back],
            bounds=residuals[back],
            estimates=temple_bound(residuals, gaps)[back],
            converged=converged[back],
            is_top=(converged & ~(evidence == EVIDENCE.none))[back],
            evidence=evidence,
            result=result,
            stats={"matvecs": state.matvecs, "restarts": state.restarts},
            state=Start(
                block=block,
                key=key,
                fresh=jnp.asarray(False),
                age=jnp.zeros((), jnp.int32),
            ),
        )
