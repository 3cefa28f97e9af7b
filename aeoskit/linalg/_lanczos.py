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

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from .solvers._eigensolve import AbstractEigenSolver, EigenProblem
from ._error_bars import ritz_gaps, temple_bound
from ._lanczos_start import given_vectors, start_evidence
from ._lanczos_state import LanczosState, rayleigh_ritz, restart
from ._lanczos_verdict import FLOOR, INVARIANT, judge
from ._options import Scalar, check_numbers
from ._orthogonal import draw, once, orthonormalise, project_out
from ._results import EVIDENCE, RESULTS
from ._ritz import WHICH, original_order, rank_ritz, sort_key, structure_dimension
from ._solution import EigenSolution
from ._start import Start
from ._tree import (
    block_combine,
    block_dots,
    block_gram,
    block_row,
    block_set_row,
    block_zeros,
    tree_axpy,
    tree_dot,
    tree_dtype,
    tree_norm,
    tree_scale,
)
from ._vector_structure import vector_structure

# How many times longer a renewed explorer is followed: about what a cold solve costs.
_LONG = 3


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
    operators), it may report one copy only. A start of `block` random vectors holds `block` copies
    of each, and both of two values that no tolerance tells apart: at about 1.3 times the products
    for pairs.

    Args:
        basis: The number of vectors that the solver holds (residual vectors included, one
            excepted). Peak memory is `basis`, those kept at a restart, and about four more.
        block: How many random vectors a cold start has, those that the caller gives included.
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
    rescales: ClassVar[bool] = True
    basis: int = eqx.field(default=20, static=True)
    block: int = eqx.field(default=1, static=True)
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0
    guard: int = eqx.field(default=2, static=True)
    noise: Scalar = 0.1
    mix: Scalar = 0.3
    explore: int = eqx.field(default=4, static=True)
    renew_every: int = eqx.field(default=8, static=True)

    def __check_init__(self):
        if self.basis < 3:
            raise ValueError(f"Lanczos(basis={self.basis}): a basis needs 3 vectors; use 20.")
        if self.block < 1:
            raise ValueError(f"Lanczos(block={self.block}): a start has 1 vector at least.")
        check_numbers(
            self, ("rtol", "atol", "noise", "mix"), "rtol=1e-3, atol=0, noise=0.1, mix=0.3"
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

    def norm_seen(self, state: LanczosState) -> Float[Array, ""]:
        """The largest Ritz value seen."""
        return jnp.where(state.unit > 0, state.unit, 1) * state.scale

    def block_size(self, structure: PyTree, k: int) -> int:
        """How many vectors the warm start of a solve for k pairs holds."""
        return min(k + self.guard + 1, structure_dimension(structure))

    def init(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start):
        """An empty basis, and the start vectors in the slots. No products."""
        structure = vector_structure(operator)
        dimension, dtype = structure_dimension(structure), tree_dtype(structure)
        # The age is data: all solves of a scan are one compiled program.
        renew = (self.renew_every > 0) & (start.age >= self.renew_every - 1) & ~start.fresh
        slots, levels, pending = given_vectors(
            structure, start, renew, problem.k, self.guard, self.mix, self.noise, self.block
        )
        s = pending.shape[0]
        m = min(self.basis + 1 - s, dimension)
        if m < min(problem.k + 2, dimension):
            raise ValueError(
                f"Lanczos(basis={self.basis}) is too small for k={problem.k} with {s} start "
                f"vectors: use basis={problem.k + 1 + s} or more (2k + 10 is a good choice)."
            )
        # Every start vector of a block has its turn, whatever settled before.
        cold = self.block if self.block > 1 else 0
        warm = jnp.where(renew, _LONG, 1) * self.explore
        integer = jnp.zeros((), jnp.int32)
        zero = jnp.zeros((), dtype)
        return LanczosState(
            basis=block_zeros(structure, m),
            slots=slots,
            projected=jnp.zeros((m, m), dtype),
            coefficients=jnp.zeros((s, m), dtype),
            gram=jnp.zeros((s, s), dtype) if start.block is None else block_gram(slots, slots),
            put=jnp.zeros(s, dtype),
            levels=levels,
            pending=pending,
            size=integer,
            ritz_values=jnp.zeros(m, dtype),
            ritz_vectors=jnp.eye(m, dtype=dtype),
            estimates=jnp.full(m, jnp.inf, dtype),
            scale=zero,
            unit=zero,
            asymmetry=zero,
            finite=jnp.asarray(True),
            explored=integer,
            explore=jnp.where(start.fresh, cold, warm).astype(jnp.int32),
            age=jnp.where(start.fresh | renew, 0, start.age + 1).astype(jnp.int32),
            evidence=start_evidence(start, problem.k, self.guard, self.explore, self.block),
            injected=jnp.asarray(False),
            injected_at=jnp.full((), jnp.inf, dtype),
            direction=jnp.zeros(s, dtype),
            following=jnp.asarray(False),
            done=jnp.asarray(False),
            result=RESULTS.max_matvecs_reached,
            key=start.key,
            matvecs=integer,
            restarts=integer,
        )

    def step(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: LanczosState):
        """One product."""
        m = state.projected.shape[0]
        dimension = structure_dimension(operator.in_structure())
        if m < dimension:
            state = once(state.size == m, lambda s: restart(problem, s), state)
        state, q, slot, expected = self._expand(problem, state, dimension)
        basis = block_set_row(state.basis, state.size, q)
        w = operator.mv(q)
        dtype = state.projected.dtype
        peaks = [jnp.max(jnp.abs(x), initial=0).astype(dtype) for x in jax.tree.leaves(w)]
        peak = jnp.max(jnp.stack(peaks))
        first = jnp.maximum(peak, 8 * jnp.finfo(dtype).tiny)
        unit = jnp.where((state.unit == 0) & (peak > 0) & jnp.isfinite(peak), first, state.unit)
        factor = 1 / jnp.where(unit > 0, unit, 1)
        w = jax.tree.map(lambda x, y: (factor * x).astype(y.dtype), w, q)
        index = jnp.arange(m)
        # Products of a symmetric operator have known components along the old rows, most often
        # along the last one alone: those are subtracted twice, the others are rounding.
        known = (index < state.size) & (expected != 0)
        near = jnp.where(jnp.any(known), jnp.argmax(known), state.size)
        w, h = project_out(basis, w, state.size + 1, near)
        if state.pending.shape[0] == 1:
            slots = jax.tree.map(lambda x: x[None], w)
            gram = tree_dot(w, w)[None, None]
        else:
            slots = block_set_row(state.slots, slot, w)
            gram = block_gram(slots, slots)
        # What is not finite stays in a slot that no one reads any more.
        finite = jnp.isfinite(peak) & jnp.isfinite(jnp.sum(h)) & jnp.isfinite(jnp.sum(gram))
        h = jnp.where(finite & (index <= state.size), h, 0)
        difference = jnp.max(jnp.where(index < state.size, jnp.abs(h - expected), 0))
        column = jnp.arange(gram.shape[0]) == slot
        state = eqx.tree_at(
            lambda s: (
                s.basis,
                s.slots,
                s.projected,
                s.coefficients,
                s.gram,
                s.put,
                s.size,
                s.unit,
                s.finite,
                s.asymmetry,
                s.matvecs,
            ),
            state,
            (
                basis,
                slots,
                state.projected.at[:, state.size].set(h).at[state.size, :].set(h),
                state.coefficients.at[:, state.size].set(column.astype(dtype)),
                jnp.where(finite, gram, 0),
                jnp.where(column, jnp.sqrt(jnp.diagonal(gram)), state.put),
                state.size + 1,
                unit,
                state.finite & finite,
                jnp.maximum(state.asymmetry, difference),
                state.matvecs + 1,
            ),
        )
        return judge(self.rtol, self.atol, dimension, problem, rayleigh_ritz(state))

    def _expand(self, problem: EigenProblem, state: LanczosState, dimension: int):
        """The next direction, the slot that it frees, and its expected row of T."""
        eps = jnp.finfo(state.projected.dtype).eps
        single = state.pending.shape[0] == 1
        starting = jnp.any(state.pending)
        first = jnp.argmax(state.pending)
        one_hot = (jnp.arange(state.pending.shape[0]) == first).astype(state.direction.dtype)
        a = jnp.where(starting, one_hot, state.direction)
        lengths = jnp.sqrt(jnp.diagonal(state.gram))
        if single:
            q, length, norm = block_row(state.slots, 0), lengths[0], jnp.abs(a[0]) * lengths[0]
        else:
            q = block_combine(state.slots, a)
            length = norm = tree_norm(q)
        # A residual that is still wanted is followed down to the floor.
        threshold = jnp.where(state.following, FLOOR, INVARIANT) * state.scale
        small = norm <= eps * jnp.where(starting, 100.0, threshold)
        level = jnp.where(small, 1, jnp.where(starting, state.levels[first], 0))
        q = tree_scale(jnp.where(small, 0, 1 / jnp.where(small, 1, length)), q)

        def add_noise(carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            fresh, key = draw(carry[1], carry[0])
            return tree_axpy(level / math.sqrt(dimension), fresh, carry[0]), key

        q, key = once(level > 0, add_noise, (q, state.key))
        # A slot is orthogonal to the basis up to rounding of what was put into it; so is what is
        # made of slots, unless most of that cancels, here or before.
        put = jnp.sum(jnp.abs(a) * state.put)
        cancelled = jnp.asarray(False) if single else norm < 0.5 * put
        q = orthonormalise(state.basis, q, state.size, starting | small | cancelled)
        if single:
            slots, slot = state.slots, jnp.zeros((), jnp.int32)
            expected = jnp.where(small, 0, length) * state.coefficients[0]
            coefficients = jnp.zeros_like(state.coefficients)
        else:
            g = block_dots(state.slots, q)
            expected = g @ state.coefficients
            slots = jax.tree.map(
                lambda c, x: (c - jnp.tensordot(g, x, axes=0)).astype(c.dtype), state.slots, q
            )
            # C a is now zero: the slot that had the largest share is a combination of the others.
            slot = jnp.where(starting, first, jnp.argmax(jnp.abs(a) * lengths))
            pivot = a[slot]
            ratios = jnp.where(pivot == 0, 0, a / jnp.where(pivot == 0, 1, pivot))
            coefficients = state.coefficients - jnp.outer(ratios, state.coefficients[slot])
            coefficients = coefficients.at[slot].set(0)
        inject = small & ~starting
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
                jnp.where(inject, sort_key(state, problem), state.injected_at),
                state.explored + jnp.where(starting | state.following, 0, 1),
            ),
        )
        return state, q, slot, expected

    def terminate(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: LanczosState
    ):
        """Whether the solve is over, and how."""
        return state.done, state.result

    def finish(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: LanczosState
    ) -> EigenSolution:
        """The k best pairs and the warm start. No products: residuals come from the relation."""
        structure = operator.in_structure()
        eps = jnp.finfo(state.projected.dtype).eps
        k = problem.k
        unit = jnp.where(state.unit > 0, state.unit, 1)
        order, valid = rank_ritz(state.ritz_values, state.size, problem.which)
        rows = self.block_size(structure, k)
        # A small basis may hold fewer vectors than the warm start: the others are zero, and the
        # next solve draws what it misses.
        missing = max(0, rows - order.shape[0])
        order, valid = jnp.pad(order, (0, missing)), jnp.pad(valid, (0, missing))
        block = block_combine(state.basis, state.ritz_vectors[:, order[:rows]] * valid[None, :rows])
        top, found = order[:k], valid[:k] & state.finite
        values = state.ritz_values[top]
        residuals = state.estimates[top]
        if state.pending.shape[0] > 1:
            # A norm from the Gram matrix forgives cancellation; the vectors have the last word.
            y = state.ritz_vectors[:, top]
            vectors = block_combine(state.slots, state.coefficients @ y)
            residuals = jnp.sqrt(jnp.diagonal(block_gram(vectors, vectors)))
        residuals = jnp.where(found, residuals + FLOOR * eps * state.scale, jnp.inf)
        values = jnp.where(found, values, jnp.nan)
        sound = state.finite & ~(state.result == RESULTS.asymmetric)
        converged = sound & (residuals <= self.rtol * jnp.abs(values) + self.atol / unit)
        result = RESULTS.where(
            (state.result == RESULTS.successful) & ~jnp.all(converged),
            RESULTS.stagnation,
            state.result,
        )
        seen = jnp.arange(state.ritz_values.shape[0]) >= state.ritz_values.shape[0] - state.size
        estimates = temple_bound(residuals, ritz_gaps(values, state.ritz_values, seen))
        complete = state.size >= structure_dimension(structure)
        evidence = EVIDENCE.where(complete, EVIDENCE.whole_space, state.evidence)
        back = original_order(k, problem.which)
        bounds = (unit * residuals)[back]
        return EigenSolution(
            values=(unit * values)[back],
            vectors=jax.tree.map(lambda b: b[:k][back], block),
            residuals=bounds,
            bounds=bounds,
            estimates=(unit * estimates)[back],
            converged=converged[back],
            is_top=(converged & ~(evidence == EVIDENCE.none))[back],
            evidence=evidence,
            result=result,
            stats={"matvecs": state.matvecs, "restarts": state.restarts},
            state=Start(block=block, key=state.key, fresh=jnp.asarray(False), age=state.age),
        )
