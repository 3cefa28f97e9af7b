"""Arnoldi with Krylov-Schur restart, for operators that are not symmetric.

As in `_lanczos`, the state keeps an orthonormal basis V (rows, m at most), the projected matrix
H, and s residual vectors C (*slots*) with coefficients B such that

    A V = V H + C B,    Vᵀ C = 0,

so that a Ritz pair (θ, V x) has the residual vector C (B x), known without a product. Each step
takes one real direction out of span(C), multiplies it, and puts what is left of the product into
the slot that became free. A full basis is cut to an invariant subspace of H.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ._arnoldi_state import (
    ArnoldiState,
    SmallState,
    direction,
    floor,
    power_of_two,
    signature,
    verdict,
)
from ._assisted import AbstractAssisted, has_eig
from .solvers._eigensolve import AbstractEigenSolver, EigenProblem
from ._krylov_schur import ENDS, analyse, kept_at_restart, restart, ritz_block
from ._lanczos_start import start_vectors
from ._options import Scalar, check_numbers
from ._orthogonal import draw, once, orthonormalise, project_out
from ._results import EVIDENCE, RESULTS
from ._ritz import structure_dimension
from ._solution import EigenSolution
from ._start import Start
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
from ._vector_structure import vector_structure

# How many times longer a renewed explorer is followed, as in Lanczos.
_LONG = 3


class Arnoldi(AbstractEigenSolver, AbstractAssisted):
    """Krylov-Schur Arnoldi for any real operator: one product a step, tested after each.

    `values` and `vectors` are complex (leaves `(k, *leaf)`, of unit norm, not orthogonal to each
    other). Complex eigenvalues come in conjugate pairs, side by side, positive imaginary part
    first; where k cuts a pair, that one is returned. A restart never splits a pair. Every product
    is with a real vector, and the basis is real.

    **Error bars.** `residuals` are `||A v - θ v||`, with an allowance for rounding. They bound no
    error: for an operator that is not normal, a small residual says that θ is an eigenvalue of an
    operator nearby. `bounds` (and `estimates`, the same numbers) are *residual × condition*, the
    first-order error of a simple eigenvalue, with the condition number `1/|yᴴx|` of the unit left
    and right eigenvectors of the *projected* matrix: an estimate, though it is called `bounds`.
    It sees the left eigenvector through the basis only, so that it is never too high, and low
    until the basis is the whole space: by a third or so on random matrices, by thirty times on a
    badly scaled one, by orders of magnitude on Grcar's. For the condition number itself solve the
    transposed operator too. `stats["condition"]` holds the estimates, `(k,)`.

    **What `converged` does not say.** As for `Lanczos`: that there is no better pair. `is_top`
    says that it was looked for: a random start, a fresh direction beside a warm start, or the
    whole space. On operators far from normal (Grcar's matrix) Ritz values first fill the
    pseudospectrum, so that pairs with tiny residuals may lie well inside or outside of the
    spectrum.

    **The small problem** is a decomposition of a `basis × basis` matrix after every product: 0.4
    ms at 30, which any product worth counting exceeds; testing less often would cost products. XLA
    has it on CPU and GPU. Elsewhere (TPU) `eigensolve` runs the host driver, and the small problem
    is solved on the host's CPU between two products; under `jit` that is a `ValueError`.

    **Cost.** A cold solve spends products only until the pairs have converged. A warm solve spends
    k + 2 + `explore` at least. Memory: `basis` vectors, those kept at a restart (about half), and
    about four more.

    Args:
        basis: The number of vectors that the solver holds (residual vectors included, one
            excepted); at least k + 4, and with a warm start 2k + 6.
        rtol: A pair has converged when `||A v - θ v|| <= rtol |θ| + atol`. The test adds an
            allowance for rounding, 8 epsilons of the largest product and what restarts lost, to
            the residual: a tolerance under that floor ends in `RESULTS.stagnation`, never in
            `converged`.
        atol: See `rtol`; an eigenvalue zero needs one.
        noise: The weight of a random unit vector in the start where the caller gives vectors and
            no state.
        explore: Products that a warm solve spends beyond the wanted pairs, in a direction with
            fresh noise.
        renew_every: Every so many warm solves that direction is all fresh, and followed three
            times longer; 0: never.
        small: Where the small problem is solved: "auto" (compiled where the backend can),
            "compiled", or "host".

    Raises:
        ValueError: An option out of range; at a solve, a basis too small for k; a backend that
            cannot solve the small problem inside a compiled program that has to hold it.

    Source: Stewart, *A Krylov-Schur algorithm for large eigenproblems*, SIAM J. Matrix Anal.
    Appl. 23 (2001). It differs: real vectors only, several residual vectors, and the invariant
    subspace is found from eigenvectors, one at a time where these are ill-conditioned.

    Example:
        >>> from aeoskit.linalg import eigensolve
        >>> turn = jnp.array([[0.0, 2.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
        >>> operator = lx.MatrixLinearOperator(turn)
        >>> solution = eigensolve(operator, Arnoldi(), k=2, which="largest_magnitude")
        >>> solution.values.imag.round(3).tolist()
        [2.0, -2.0]
    """

    ends: ClassVar[tuple[str, ...]] = ENDS
    symmetric: ClassVar[bool] = False
    rescales: ClassVar[bool] = True
    basis: int = eqx.field(default=30, static=True)
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0
    noise: Scalar = 0.1
    explore: int = eqx.field(default=4, static=True)
    renew_every: int = eqx.field(default=8, static=True)
    small: Literal["auto", "compiled", "host"] = eqx.field(default="auto", static=True)

    def __check_init__(self):
        if self.basis < 5:
            raise ValueError(f"Arnoldi(basis={self.basis}): a basis needs 5 vectors; use 30.")
        check_numbers(self, ("rtol", "atol", "noise"), "rtol=1e-3, atol=0, noise=0.1")
        for name in ("explore", "renew_every"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"Arnoldi({name}={getattr(self, name)}): a count is not negative; the "
                    "defaults are explore=4, renew_every=8."
                )
        if self.small not in ("auto", "compiled", "host"):
            raise ValueError(f"Arnoldi(small={self.small!r}): choose auto, compiled or host.")

    def default_max_matvecs(self, dimension: int) -> int:
        """20 products for each basis vector."""
        return 20 * self.basis

    def norm_seen(self, state: ArnoldiState) -> Float[Array, ""]:
        """The longest product seen."""
        return state.small.unit * state.small.scale

    def block_size(self, structure: PyTree, k: int) -> int:
        """The k vectors, one more in case k cuts a pair, and the explorer."""
        return min(k + 2, structure_dimension(structure))

    def place(self, platform: str) -> "Arnoldi":
        """The solver, with its small problem where programs for the platform can solve it."""
        if self.small != "auto":
            return self
        return dataclasses.replace(self, small="compiled" if has_eig(platform) else "host")

    @property
    def assisted(self) -> bool:
        """Whether the host driver has to call `assist` after every step."""
        return self.small == "host"

    def init(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start):
        """An empty basis, and the start vectors in the slots. No products."""
        structure = vector_structure(operator)
        dimension, dtype = structure_dimension(structure), tree_dtype(structure)
        k = problem.k
        renew = (self.renew_every > 0) & (start.age >= self.renew_every - 1) & ~start.fresh
        slots, pending, key = start_vectors(structure, start, renew, k + 1, 0, 0.0, self.noise)
        s = pending.shape[0]
        m = min(self.basis + 1 - s, dimension)
        if m < min(k + 4, dimension):
            raise ValueError(
                f"Arnoldi(basis={self.basis}) is too small for k={k} with {s} start vectors: use "
                f"basis={k + 3 + s} or more (2k + 20 is a good choice)."
            )
        integer, zero = jnp.zeros((), jnp.int32), jnp.zeros((), dtype)
        number = jnp.result_type(dtype, jnp.complex64)
        small = SmallState(
            unit=jnp.ones((), dtype),
            projected=jnp.zeros((m, m), dtype),
            coefficients=jnp.zeros((s, m), dtype),
            gram=block_gram(slots, slots),
            pending=pending,
            size=integer,
            values=jnp.zeros(m, number),
            vectors=jnp.zeros((m, m), number),
            estimates=jnp.full(m, jnp.inf, dtype),
            condition=jnp.full(m, jnp.inf, dtype),
            rotation=jnp.zeros((m, kept_at_restart(m, k) + 1), dtype),
            kept=integer,
            scale=zero,
            drift=zero,
            finite=jnp.asarray(True),
            explored=integer,
            explore=jnp.where(start.fresh, 0, jnp.where(renew, _LONG, 1) * self.explore).astype(
                jnp.int32
            ),
            age=jnp.where(start.fresh | renew, 0, start.age + 1).astype(jnp.int32),
            evidence=self._evidence(problem, start),
            injected=jnp.asarray(False),
            injected_at=jnp.full((), jnp.inf, dtype),
            key=key,
            matvecs=integer,
            restarts=integer,
        )
        return ArnoldiState(basis=block_zeros(structure, m), slots=slots, small=small)

    def _evidence(self, problem: EigenProblem, start: Start) -> EVIDENCE:
        if start.block is None:
            return EVIDENCE.random_start
        rows = jax.tree.leaves(start.block)[0].shape[0]
        sought = self.explore > 0 and rows > problem.k + 1
        warm = EVIDENCE.fresh_direction if sought else EVIDENCE.none
        return EVIDENCE.where(start.fresh, EVIDENCE.random_start, warm)

    def step(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: ArnoldiState):
        """One product, and the small problem unless the host solves it."""
        m = state.small.projected.shape[0]
        dimension = structure_dimension(operator.in_structure())
        if m < dimension:
            state = once(state.small.size == m, restart, state)
        state, q, slot, row = self._expand(problem, state)
        small = state.small
        basis = block_set_row(state.basis, small.size, q)
        w = operator.mv(q)
        unit = jnp.where(small.scale > 0, small.unit, power_of_two(w))
        w = tree_scale(1 / unit, w)
        norm = tree_norm(w)
        finite = jnp.isfinite(norm)
        w = jax.tree.map(lambda x, y: jnp.where(finite, x, 0).astype(y.dtype), w, q)
        w, h = project_out(basis, w, small.size + 1)
        index = jnp.arange(m)
        slots = block_set_row(state.slots, slot, w)
        filled = small.size
        projected = small.projected.at[filled, :].set(jnp.where(index < filled, row, 0))
        projected = projected.at[:, filled].set(jnp.where(index <= filled, h, 0))
        column = jnp.zeros_like(small.coefficients[:, 0]).at[slot].set(1)
        small = eqx.tree_at(
            lambda s: (
                s.unit,
                s.projected,
                s.coefficients,
                s.gram,
                s.size,
                s.finite,
                s.scale,
                s.matvecs,
            ),
            small,
            (
                unit,
                projected,
                small.coefficients.at[:, filled].set(column),
                block_gram(slots, slots),
                filled + 1,
                small.finite & finite,
                jnp.maximum(small.scale, jnp.where(finite, norm, 0)),
                small.matvecs + 1,
            ),
        )
        if not self.assisted:
            small = analyse(problem.which, problem.k, dimension, small)
        return ArnoldiState(basis=basis, slots=slots, small=small)

    def assist(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: ArnoldiState
    ) -> tuple[ArnoldiState, bool]:
        """The small problem, on the host's CPU: the state after it, and whether all is done."""
        dimension = structure_dimension(operator.in_structure())
        places = jax.tree.map(lambda x: x.sharding, state.small)
        with jax.default_device(jax.devices("cpu")[0]):
            small, done = _assist(self, dimension, *jax.device_get((problem, state.small)))
        small = jax.device_put(jax.device_get(small), places)
        return eqx.tree_at(lambda s: s.small, state, small), bool(done)

    def _expand(self, problem: EigenProblem, state: ArnoldiState):
        """The next direction, the slot that it frees, and its row of H."""
        small = state.small
        a, start, exploring, threshold = direction(self.rtol, self.atol, problem, small)
        q = block_combine(state.slots, a)
        norm = tree_norm(q)
        exhausted = norm <= threshold
        q, key = once(exhausted, lambda c: draw(c[1], c[0]), (q, small.key))
        q = orthonormalise(state.basis, q, small.size)
        g = block_dots(state.slots, q)
        row = jnp.matmul(g, small.coefficients, precision=jax.lax.Precision.HIGHEST)
        slots = jax.tree.map(
            lambda c, x: (c - jnp.tensordot(g, x, axes=0)).astype(c.dtype), state.slots, q
        )
        # C a is now zero: the slot with the largest share is a combination of the others.
        norms = jnp.sqrt(jnp.diagonal(block_gram(state.slots, state.slots)))
        # (A start vector frees its own, even if nothing was left of it.)
        slot = jnp.where(start, jnp.argmax(small.pending), jnp.argmax(jnp.abs(a) * norms))
        pivot = a[slot]
        ratios = jnp.where(pivot == 0, 0, a / jnp.where(pivot == 0, 1, pivot))
        coefficients = small.coefficients - jnp.outer(ratios, small.coefficients[slot])
        inject = exhausted & ~start
        small = eqx.tree_at(
            lambda s: (
                s.coefficients,
                s.pending,
                s.key,
                s.injected,
                s.injected_at,
                s.explored,
            ),
            small,
            (
                coefficients.at[slot].set(0),
                small.pending.at[slot].set(False),
                key,
                small.injected | inject,
                jnp.where(inject, signature(problem.k, small), small.injected_at),
                small.explored + jnp.where(start | ~exploring, 0, 1),
            ),
        )
        return ArnoldiState(basis=state.basis, slots=slots, small=small), q, slot, row

    def ended(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: ArnoldiState
    ):
        """Whether the solve is over, and how."""
        dimension = structure_dimension(operator.in_structure())
        return verdict(self.rtol, self.atol, dimension, problem, state.small)

    def terminate(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: Any):
        """Whether the solve is over."""
        return self.ended(operator, problem, state)[0]

    def finish(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: ArnoldiState, start: Start
    ) -> EigenSolution:
        """The k best pairs and the warm start. No products: residuals come from the relation."""
        structure = vector_structure(operator)
        small, k = state.small, problem.k
        _, result = self.ended(operator, problem, state)
        rows = self.block_size(structure, k)
        valid = jnp.arange(rows) < small.size
        # A conjugate pair leaves its real and its imaginary part.
        best = small.vectors[:, :rows]
        chosen = jnp.where(small.values[:rows].imag < 0, best.imag, best.real)
        block = block_combine(state.basis, chosen)

        def fill(carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            block, key = carry
            for i in range(rows):
                fresh, key = draw(key, structure)
                fresh = tree_scale(1 / tree_norm(fresh), fresh)
                block = block_set_row(block, i, tree_where(valid[i], block_row(block, i), fresh))
            return block, key

        block, key = once(~jnp.all(valid), fill, (block, small.key))
        vectors = ritz_block(state.basis, best[:, :k])
        # A pair that was never found has a random vector and the value NaN.
        vectors = jax.tree.map(
            lambda v, b: jnp.where(valid[:k].reshape(-1, *[1] * (v.ndim - 1)), v, b[:k]),
            vectors,
            block,
        )
        sound = valid[:k] & small.finite
        values = jnp.where(sound, small.values[:k], jnp.nan)
        values = values * small.unit
        residuals = jnp.where(sound, small.estimates[:k] + floor(small), jnp.inf) * small.unit
        converged = sound & (residuals <= self.rtol * jnp.abs(values) + self.atol)
        # The residuals themselves have the last word.
        result = RESULTS.where(
            (result == RESULTS.successful) & ~jnp.all(converged), RESULTS.stagnation, result
        )
        condition = jnp.where(sound, small.condition[:k], jnp.inf)
        bounds = residuals * condition
        complete = small.size >= structure_dimension(structure)
        evidence = EVIDENCE.where(complete, EVIDENCE.whole_space, small.evidence)
        return EigenSolution(
            values=values,
            vectors=vectors,
            residuals=residuals,
            bounds=bounds,
            estimates=bounds,
            converged=converged,
            is_top=converged & ~(evidence == EVIDENCE.none),
            evidence=evidence,
            result=result,
            stats=dict(matvecs=small.matvecs, restarts=small.restarts, condition=condition),
            state=Start(block=block, key=key, fresh=jnp.asarray(False), age=small.age),
        )


@eqx.filter_jit
def _assist(
    solver: Arnoldi, dimension: int, problem: EigenProblem, small: SmallState
) -> tuple[SmallState, Array]:
    small = analyse(problem.which, problem.k, dimension, small)
    return small, verdict(solver.rtol, solver.atol, dimension, problem, small)[0]
