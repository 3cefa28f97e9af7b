"""Lanczos with thick restart, full reorthogonalisation, and a block of warm start vectors.

The state keeps an orthonormal basis V (rows, m at most), the projected matrix T, and s residual
vectors C (*slots*) with coefficients B such that, always,

    A V = V T + C B,    V^T C = 0.

A Ritz pair (θ, V y) then has the residual vector C (B y): known without a product. Each step
takes one direction out of span(C), multiplies it, and puts what is left of the product into the
slot that became free. With one slot this is Lanczos with thick restart (Wu and Simon, SIAM J.
Matrix Anal. Appl. 22, 2000). With several it is a block method that spends every product on
the wanted pair that has not converged (the residual expansion of Davidson's method), which is
what a warm start by several old Ritz vectors needs.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Int, PyTree

from ._eigensolve import AbstractEigenSolver, EigenProblem, Start
from ._error_bars import ritz_gaps, temple_bound
from ._lanczos_start import start_vectors
from ._lanczos_state import LanczosState, rayleigh_ritz, restart
from ._orthogonal import draw, once, orthonormalise, project_out
from ._results import EVIDENCE, RESULTS
from ._ritz import WHICH, original_order, rank_ritz, sort_key, structure_dimension
from ._solution import EigenSolution
from ._tree import (
    block_combine,
    block_dots,
    block_gram,
    block_row,
    block_set_row,
    block_zeros,
    tree_dtype,
    tree_norm,
    tree_scale,
    tree_where,
)

# In units of (machine epsilon * largest Ritz value seen): what rounding alone adds to a residual.
_FLOOR = 8.0
# How many times longer a renewed explorer is followed: about what a cold solve costs.
_LONG = 3
# In units of epsilon times the largest Ritz value: with every residual under it, the space
# counts as invariant (exhausted).
_INVARIANT = 100.0


class Lanczos(AbstractEigenSolver):
    """Thick-restart Lanczos for symmetric operators: one product a step, tested after each.

    A cold solve of k=1 costs what Lanczos with a full basis costs, until the basis is full. A warm
    solve costs k + 1 + `explore` products at least, and k + 1 + 3 `explore` every
    `renew_every`-th time. The default budget is `20 * basis` products.

    **Warm start.** `solution.state` holds k + `guard` Ritz vectors, an *explorer*, a key and an
    age. The next solve starts from the first k - 1 vectors, the k-th mixed with the guards (it
    has to separate them, and so sees them change places), and the explorer: the best Ritz vector
    beyond these, with fresh noise added. When the wanted pairs have settled, `explore` products
    follow the largest residual beyond them. What the explorer gained is kept, so that a direction
    that grows slowly is amplified from solve to solve.

    **What `converged` does not say.** A small residual says that a pair is an eigenpair, never
    that it is the top one. No Krylov method can promise that, cold or warm: a direction that the
    start vectors lack stays unseen. What is done about it: an eigenvalue that comes from outside
    all that was seen meets fresh noise in every solve, and at the latest after `renew_every`
    solves a long search (3 `explore` products) from a start that is noise alone, orthogonal to the
    wanted pairs. On spectra whose top is well apart from the bulk it was found by then in all
    cases that we tried (`tests/linalg/test_tracking.py` has them); in a dense spectrum, or where
    it exceeds the old top by less than a few per cent, it may take longer, and until then the
    old pair is reported as converged.
    `renew_every=0` gives the long search up, `explore=0` both. A looser `rtol` resolves less: at
    1e-2 a cluster of a few per cent is one value. So does a cold solve, which can settle on the
    lower of two values that differ by a few per cent.

    **Repeated eigenvalues.** A Krylov space holds one copy of each. When the space is exhausted
    before k pairs are found, or all of them are exact, it goes on from a fresh random direction,
    until such a direction brings nothing new. Where the space is not exhausted (large
    operators), it may report one copy only; that is what a block is for.

    Args:
        basis: The number of vectors that the solver holds (residual vectors included, one
            excepted). Peak memory is `basis` vectors, those kept at a restart, and about four
            more.
        rtol: A pair has converged when `||A v - θ v|| <= rtol |θ| + atol`. The test adds an
            allowance for rounding, `8 ε max|θ|`, to the residual: a tolerance under that floor
            ends in `RESULTS.stagnation`, never in `converged`.
        atol: See `rtol`.
        guard: How many Ritz vectors beyond k, the explorer aside, the warm start keeps.
        noise: The weight of a random unit vector in the start where the caller gives vectors
            and no state.
        mix: The weight of each guard in the k-th start vector.
        explore: Products that a warm solve spends beyond the wanted pairs.
        renew_every: Every so many solves the explorer is replaced by a fresh random direction
            and followed longer; 0: never.

    Raises:
        ValueError: An option out of range; at a solve, a basis too small for k.

    Example:
        >>> from aeoskit.linalg import eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.array([1.0, 4.0, 2.0, 3.0]))
        >>> solution = eigensolve(operator, Lanczos(rtol=1e-4))
        >>> float(solution.values[0])
        4.0
    """

    ends: ClassVar[tuple[str, ...]] = WHICH
    symmetric: ClassVar[bool] = True
    basis: int = eqx.field(default=20, static=True)
    rtol: float = eqx.field(default=1e-3, static=True)
    atol: float = eqx.field(default=0.0, static=True)
    guard: int = eqx.field(default=2, static=True)
    noise: float = eqx.field(default=0.1, static=True)
    mix: float = eqx.field(default=0.3, static=True)
    explore: int = eqx.field(default=4, static=True)
    renew_every: int = eqx.field(default=8, static=True)

    def __check_init__(self):
        if self.basis < 3:
            raise ValueError(f"Lanczos(basis={self.basis}): a basis needs 3 vectors; use 20.")
        for name in ("rtol", "atol", "noise", "mix"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(
                    f"Lanczos({name}={value}): a tolerance is finite and not negative; "
                    "the defaults are rtol=1e-3, atol=0, noise=0.1, mix=0.3."
                )
        for name in ("guard", "explore", "renew_every"):
            count = getattr(self, name)
            if count < 0:
                raise ValueError(
                    f"Lanczos({name}={count}): a count is not negative; "
                    "the defaults are guard=2, explore=4, renew_every=8."
                )

    def default_max_matvecs(self, dimension: int) -> int:
        """20 products for each basis vector."""
        return 20 * self.basis

    def block_size(self, structure: PyTree, k: int) -> int:
        """How many vectors the warm start of a solve for k pairs holds."""
        return min(k + self.guard + 1, structure_dimension(structure))

    def init(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start):
        """An empty basis, and the start vectors in the slots. No products."""
        structure = operator.in_structure()
        dimension = structure_dimension(structure)
        dtype = tree_dtype(structure)
        # The age is data: all solves of a scan are one compiled program.
        renew = (self.renew_every > 0) & (start.age >= self.renew_every - 1) & ~start.fresh
        wanted = problem.k, self.guard, self.mix, self.noise
        slots, pending, key = start_vectors(structure, start, renew, *wanted)
        s = pending.shape[0]
        m = min(self.basis + 1 - s, dimension)
        if m < min(problem.k + 2, dimension):
            raise ValueError(
                f"Lanczos(basis={self.basis}) is too small for k={problem.k} with {s} start "
                f"vectors: use basis={problem.k + 1 + s} or more (2k + 10 is a good choice)."
            )
        integer = jnp.zeros((), jnp.int32)
        zero = jnp.zeros((), dtype)
        return LanczosState(
            basis=block_zeros(structure, m),
            slots=slots,
            projected=jnp.zeros((m, m), dtype),
            coefficients=jnp.zeros((s, m), dtype),
            pending=pending,
            size=integer,
            ritz_values=jnp.zeros(m, dtype),
            ritz_vectors=jnp.eye(m, dtype=dtype),
            estimates=jnp.full(m, jnp.inf, dtype),
            scale=zero,
            asymmetry=zero,
            finite=jnp.asarray(True),
            explored=integer,
            explore=jnp.where(start.fresh, 0, jnp.where(renew, _LONG, 1) * self.explore).astype(
                jnp.int32
            ),
            age=jnp.where(start.fresh | renew, 0, start.age + 1).astype(jnp.int32),
            evidence=self._evidence(structure, problem, start),
            injected=jnp.asarray(False),
            injected_at=jnp.full((), jnp.inf, dtype),
            key=key,
            matvecs=integer,
            restarts=integer,
        )

    def _evidence(self, structure: PyTree, problem: EigenProblem, start: Start) -> EVIDENCE:
        if start.block is None:
            return EVIDENCE.random_start
        rows = jax.tree.leaves(start.block)[0].shape[0]
        sought = self.explore > 0 and rows > problem.k + self.guard
        warm = EVIDENCE.fresh_direction if sought else EVIDENCE.none
        return EVIDENCE.where(start.fresh, EVIDENCE.random_start, warm)

    def step(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: LanczosState):
        """One product."""
        m = state.projected.shape[0]
        if m < structure_dimension(operator.in_structure()):
            state = once(state.size == m, lambda s: restart(problem, s), state)
        state, q, slot, expected = self._expand(problem, state)
        basis = block_set_row(state.basis, state.size, q)
        w = operator.mv(q)
        finite = jnp.isfinite(tree_norm(w))
        w = jax.tree.map(lambda x, y: jnp.where(finite, x, 0).astype(y.dtype), w, q)
        w, h = project_out(basis, w, state.size + 1)
        index = jnp.arange(m)
        h = jnp.where(index <= state.size, h, 0)
        difference = jnp.max(jnp.where(index < state.size, jnp.abs(h - expected), 0))
        projected = state.projected.at[:, state.size].set(h).at[state.size, :].set(h)
        column = jnp.zeros_like(state.coefficients[:, 0]).at[slot].set(1)
        coefficients = state.coefficients.at[:, state.size].set(column)
        state = eqx.tree_at(
            lambda s: (
                s.basis,
                s.slots,
                s.projected,
                s.coefficients,
                s.size,
                s.finite,
                s.asymmetry,
                s.matvecs,
            ),
            state,
            (
                basis,
                block_set_row(state.slots, slot, w),
                projected,
                coefficients,
                state.size + 1,
                state.finite & finite,
                jnp.maximum(state.asymmetry, difference),
                state.matvecs + 1,
            ),
        )
        return rayleigh_ritz(state)

    def _expand(self, problem: EigenProblem, state: LanczosState):
        """The next direction, the slot that it frees, and its expected row of T."""
        eps = jnp.finfo(state.projected.dtype).eps
        order, _ = rank_ritz(state.ritz_values, state.size, problem.which)
        settled, _ = self._settled(problem, state)
        estimates = jnp.where(jnp.isfinite(state.estimates), state.estimates, -1)[order]
        wanted = jnp.arange(order.shape[0]) < self._needed(problem, state)
        open_ = wanted & ~settled & (estimates >= 0)
        # With all wanted pairs settled, the largest residual beyond them: a direction that no one
        # has seen shows there first, long before it shows in a value.
        exploring = ~jnp.any(open_)
        beyond = jnp.argmax(jnp.where(jnp.arange(order.shape[0]) < problem.k, -1, estimates))
        # In an exhausted space nothing is left there: on with the largest residual of all.
        alive = (state.explored < state.explore) & (
            estimates[beyond] > _INVARIANT * eps * state.scale
        )
        beyond = jnp.where(alive, beyond, jnp.argmax(estimates))
        rank = jnp.where(exploring, beyond, jnp.argmax(open_))
        is_start = jnp.any(state.pending)
        first = jnp.argmax(state.pending)
        z = state.coefficients @ state.ritz_vectors[:, order[rank]]
        one_hot = (jnp.arange(z.shape[0]) == first).astype(z.dtype)
        a = jnp.where(is_start, one_hot, z)
        q = block_combine(state.slots, a)
        norm = tree_norm(q)
        # A residual that is still wanted is followed down to the floor.
        threshold = jnp.where(jnp.any(open_), _FLOOR, _INVARIANT) * state.scale
        small = norm <= eps * jnp.where(is_start, 100.0, threshold)
        key_value = sort_key(state, problem)
        q, key = once(small, lambda c: draw(c[1], c[0]), (q, state.key))
        q = orthonormalise(state.basis, q, state.size)
        g = block_dots(state.slots, q)
        expected = g @ state.coefficients
        slots = jax.tree.map(
            lambda c, x: (c - jnp.tensordot(g, x, axes=0)).astype(c.dtype), state.slots, q
        )
        # C a is now zero: the slot with the largest share is a combination of the others.
        norms = jnp.sqrt(jnp.diagonal(block_gram(state.slots, state.slots)))
        slot = jnp.where(is_start, first, jnp.argmax(jnp.abs(a) * norms))
        pivot = a[slot]
        ratios = jnp.where(pivot == 0, 0, a / jnp.where(pivot == 0, 1, pivot))
        coefficients = state.coefficients - jnp.outer(ratios, state.coefficients[slot])
        coefficients = coefficients.at[slot].set(0)
        inject = small & ~is_start
        state = eqx.tree_at(
            lambda s: (
                s.slots,
                s.coefficients,
                s.pending,
                s.key,
                s.injected,
                s.injected_at,
                s.explored,
            ),
            state,
            (
                slots,
                coefficients,
                state.pending.at[slot].set(False),
                key,
                state.injected | inject,
                jnp.where(inject, key_value, state.injected_at),
                state.explored + jnp.where(is_start | ~exploring, 0, 1),
            ),
        )
        return state, q, slot, expected

    def _needed(self, problem: EigenProblem, state: LanczosState) -> Int[Array, ""]:
        # After a fresh direction one pair more has to settle: the best that it could bring.
        extra = state.injected & (problem.k > 1)
        return problem.k + extra.astype(jnp.int32)

    def _settled(self, problem: EigenProblem, state: LanczosState):
        """By rank: whether each pair meets its tolerance, or is at the floor of the format."""
        eps = jnp.finfo(state.projected.dtype).eps
        order, valid = rank_ritz(state.ritz_values, state.size, problem.which)
        values, estimates = state.ritz_values[order], state.estimates[order]
        floor = _FLOOR * eps * state.scale
        converged = valid & (estimates + floor <= self.rtol * jnp.abs(values) + self.atol)
        return converged | (valid & (estimates <= floor)), converged

    def terminate(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: LanczosState
    ):
        """Whether the solve is over, and how."""
        m = state.projected.shape[0]
        eps = jnp.finfo(state.projected.dtype).eps
        dimension = structure_dimension(operator.in_structure())
        settled, converged = self._settled(problem, state)
        complete = state.size >= dimension
        rank = jnp.arange(m)
        needed = jnp.minimum(self._needed(problem, state), dimension)
        enough = jnp.all(settled | (rank >= needed)) & (state.size >= needed)
        worst = jnp.max(jnp.where(jnp.isfinite(state.estimates), state.estimates, 0))
        invariant = worst <= _INVARIANT * eps * state.scale
        if problem.k > 1:
            drift = jnp.abs(sort_key(state, problem) - state.injected_at)
            unchanged = state.injected & (drift <= 100 * eps * state.scale)
            enough = enough & (~invariant | unchanged)
        enough = enough & ~jnp.any(state.pending) & (state.explored >= state.explore)
        enough = enough | complete
        asymmetric = state.asymmetry > 10 * jnp.sqrt(eps) * state.scale
        good = jnp.all(converged | (rank >= problem.k))
        result = RESULTS.where(good, RESULTS.successful, RESULTS.stagnation)
        result = RESULTS.where(enough, result, RESULTS.max_matvecs_reached)
        result = RESULTS.where(asymmetric, RESULTS.asymmetric, result)
        result = RESULTS.where(state.finite, result, RESULTS.nonfinite)
        spent = state.matvecs >= problem.max_matvecs
        started = state.matvecs > 0
        return started & (enough | spent | ~state.finite | asymmetric), result

    def finish(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: LanczosState
    ) -> EigenSolution:
        """The k best pairs and the warm start. No products: residuals come from the relation."""
        structure = operator.in_structure()
        eps = jnp.finfo(state.projected.dtype).eps
        k = problem.k
        _, result = self.terminate(operator, problem, state)
        order, valid = rank_ritz(state.ritz_values, state.size, problem.which)
        rows = self.block_size(structure, k)
        # A small basis may hold fewer vectors than the warm start: those are drawn.
        missing = max(0, rows - order.shape[0])
        order, valid = jnp.pad(order, (0, missing)), jnp.pad(valid, (0, missing))
        chosen = state.ritz_vectors[:, order[:rows]] * valid[None, :rows]
        block = block_combine(state.basis, chosen)
        key = state.key

        def fill(carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            block, key = carry
            for i in range(rows):
                fresh, key = draw(key, structure)
                fresh = tree_scale(1 / tree_norm(fresh), fresh)
                block = block_set_row(block, i, tree_where(valid[i], block_row(block, i), fresh))
            return block, key

        block, key = once(~jnp.all(valid[:rows]), fill, (block, key))
        top = order[:k]
        values = state.ritz_values[top]
        residual_vectors = block_combine(
            state.slots, state.coefficients @ state.ritz_vectors[:, top]
        )
        squares = sum(
            jnp.sum(jnp.square(x.astype(values.dtype)), axis=tuple(range(1, x.ndim)))
            for x in jax.tree.leaves(residual_vectors)
        )
        residuals = jnp.sqrt(squares) + _FLOOR * eps * state.scale
        values = jnp.where(valid[:k] & state.finite, values, jnp.nan)
        residuals = jnp.where(valid[:k] & state.finite, residuals, jnp.inf)
        sound = state.finite & ~(result == RESULTS.asymmetric)
        converged = sound & (residuals <= self.rtol * jnp.abs(values) + self.atol)
        # The residual vectors themselves have the last word.
        result = RESULTS.where(
            (result == RESULTS.successful) & ~jnp.all(converged), RESULTS.stagnation, result
        )
        seen = jnp.arange(state.ritz_values.shape[0]) >= state.ritz_values.shape[0] - state.size
        gaps = ritz_gaps(values, state.ritz_values, seen)
        complete = state.size >= structure_dimension(structure)
        evidence = EVIDENCE.where(complete, EVIDENCE.whole_space, state.evidence)
        back = original_order(k, problem.which)
        vectors = jax.tree.map(lambda b: b[:k][back], block)
        return EigenSolution(
            values=values[back],
            vectors=vectors,
            residuals=residuals[back],
            bounds=residuals[back],
            estimates=temple_bound(residuals, gaps)[back],
            converged=converged[back],
            is_top=(converged & ~(evidence == EVIDENCE.none))[back],
            evidence=evidence,
            result=result,
            stats={"matvecs": state.matvecs, "restarts": state.restarts},
            state=Start(block=block, key=key, fresh=jnp.asarray(False), age=state.age),
        )
