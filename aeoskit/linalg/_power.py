"""Power iteration with a shift, and its block form: orthogonal iteration."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, PyTree

from ._eigensolve import AbstractEigenSolver, EigenProblem
from ._error_bars import ritz_gaps, temple_bound
from ._options import Scalar, check_numbers
from ._orthogonal import draw, once, orthonormalise
from ._power_state import PowerState, next_sweep, outside, probe, rayleigh_ritz, sort_value, store
from ._results import EVIDENCE, RESULTS
from ._ritz import structure_dimension
from ._solution import EigenSolution
from ._start import Start
from ._tree import (
    block_row,
    block_set_row,
    block_zeros,
    tree_axpy,
    tree_dtype,
    tree_norm,
    tree_scale,
    tree_where,
)
from ._vector_structure import vector_structure

# In units of (machine epsilon * largest value seen): what rounding alone adds to a residual.
_FLOOR = 8.0


def _shift_leaf(shift: Scalar | None) -> Array | None:
    return None if shift is None else jnp.asarray(shift, jnp.result_type(float))


class PowerIteration(AbstractEigenSolver):
    """Power iteration on `A - σ I`, with a shift that makes the wanted end dominate.

    **When not to use it.** Wherever another solver can be used. It forgets all but its last
    vector: its error shrinks by `|λ₂ - σ| / |λ₁ - σ|` a product, where that of `Lanczos` shrinks as
    if the square root of that gap were the gap, at no more products and little more memory. It is
    here for comparison, and as the method that needs three vectors only. Within a cluster its
    residual meets a loose tolerance long before its vector is the top one.

    **Shift.** Plain power iteration finds the value of largest modulus, which is the wrong end of
    an indefinite operator whose negative side is the longer one. Unless `shift` says otherwise,
    `probe` Lanczos products first estimate both ends. For k = 1, σ is put a quarter of the way
    from the unwanted end to the wanted one: that end stays dominated even where the estimate
    misses half of the width, and the rate is better than with σ at the end itself. For k > 1 it is
    put a twentieth of the width beyond the unwanted end. "largest_magnitude" takes σ = 0 and no
    probe; it does not converge where `λ` and `-λ` are both of largest modulus.

    **k > 1.** Orthogonal iteration: a sweep of k products, then a Rayleigh-Ritz step among the k
    vectors. It converges as `|λ_{k+1} - σ| / |λ_k - σ|`.

    The residual comes from the same product as the value. The default budget is 1,000 products.
    Memory: 2 k vectors, and about four more; one block more while a sweep ends, if k > 1.

    Args:
        rtol: A pair has converged when `||A v - θ v|| <= rtol |θ| + atol`.
        atol: See `rtol`.
        shift: σ, in the operator's units; estimated if None.
        probe: How many products estimate the ends of the spectrum.
        noise: The weight of a random unit vector in the last wanted start vector where the caller
            gives vectors, and in that of a state.

    Raises:
        ValueError: An option out of range.

    Example:
        >>> from aeoskit.linalg import eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.array([2.0, 1.0, -9.0]))
        >>> solution = eigensolve(operator, PowerIteration(rtol=1e-4))
        >>> round(float(solution.values[0]), 3)
        2.0
    """

    ends: ClassVar[tuple[str, ...]] = ("largest", "smallest", "largest_magnitude")
    symmetric: ClassVar[bool] = True
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0
    shift: Float[Array, ""] | None = eqx.field(default=None, converter=_shift_leaf)
    probe: int = eqx.field(default=8, static=True)
    noise: Scalar = 0.1

    def __check_init__(self):
        check_numbers(self, ("rtol", "atol", "noise"), "rtol=1e-3, atol=0, noise=0.1")
        if self.probe < 2:
            raise ValueError(
                f"PowerIteration(probe={self.probe}): two products at least tell one end from "
                "the other; use 8, or give the shift."
            )

    def default_max_matvecs(self, dimension: int) -> int:
        """1,000."""
        return 1000

    def block_size(self, structure: PyTree, k: int) -> int:
        """The k vectors."""
        return k

    def init(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start):
        """Orthonormal start vectors. No products."""
        structure = vector_structure(operator)
        k, dtype = problem.k, tree_dtype(structure)
        vectors, key = self._start(structure, k, start)
        current, key = draw(key, structure)
        zero, integer = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        # The budget of a probe leaves a sweep; without an estimate, the shift is zero.
        wanted = self.probe if self.shift is None and problem.which != "largest_magnitude" else 0
        probe = jnp.clip(problem.max_matvecs - k, 0, wanted)
        shift = zero if self.shift is None else self.shift.astype(dtype)
        return PowerState(
            vectors=vectors,
            images=block_zeros(structure, k),
            filled=integer,
            values=jnp.zeros(k, dtype),
            estimates=jnp.full(k, jnp.inf, dtype),
            count=integer,
            previous=jax.tree.map(jnp.zeros_like, current),
            current=tree_scale(1 / tree_norm(current), current),
            diagonal=jnp.zeros(max(wanted, 1), dtype),
            off_diagonal=jnp.zeros(max(wanted, 1), dtype),
            probed=integer,
            probes=probe.astype(jnp.int32),
            best=jnp.full((), -jnp.inf, dtype),
            shift=shift,
            scale=zero,
            asymmetry=zero,
            finite=jnp.asarray(True),
            evidence=self._evidence(k, start),
            key=key,
            matvecs=integer,
        )

    def _start(self, structure: PyTree, k: int, start: Start) -> tuple[PyTree, Array]:
        rows = 0 if start.block is None else jax.tree.leaves(start.block)[0].shape[0]

        def put(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            vectors, key = carry
            fresh, key = draw(key, structure)
            q = fresh = tree_scale(1 / tree_norm(fresh), fresh)
            if rows > 0:
                given = block_row(start.block, jnp.minimum(i, rows - 1))
                norm = tree_norm(given)
                usable = jnp.isfinite(norm) & (norm > 0) & ~start.fresh & (i < rows)
                q = tree_scale(1 / jnp.where(usable, norm, 1), given)
                level = jnp.where(i == min(rows, k) - 1, self.noise, 0)
                q = tree_where(usable, tree_axpy(level, fresh, q), fresh)
            q, key = outside(vectors, q, i, key)
            return block_set_row(vectors, i, q), key

        return jax.lax.fori_loop(0, k, put, (block_zeros(structure, k), start.key))

    def _evidence(self, k: int, start: Start) -> EVIDENCE:
        cold = EVIDENCE.block if k > 1 else EVIDENCE.random_start
        if start.block is None:
            return cold
        return EVIDENCE.where(start.fresh, cold, EVIDENCE.none)

    def step(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: PowerState):
        """One product: of the probe first, then of a sweep."""
        k = problem.k
        state = once(state.filled == k, next_sweep, state)
        probing = state.probed < state.probes
        row = jnp.minimum(state.filled, k - 1)
        q = tree_where(probing, state.current, block_row(state.vectors, row))
        w = operator.mv(q)
        finite = jnp.isfinite(tree_norm(w))
        w = jax.tree.map(lambda x, y: jnp.where(finite, x, 0).astype(y.dtype), w, q)
        state = eqx.tree_at(
            lambda s: (s.finite, s.matvecs), state, (state.finite & finite, state.matvecs + 1)
        )
        state = once(probing, lambda s: probe(problem.which, w, s), state)
        state = once(~probing, lambda s: store(w, s), state)
        spent = state.matvecs >= problem.max_matvecs
        over = (state.filled == k) | (spent & (state.filled > 0))
        return once(over, lambda s: rayleigh_ritz(problem.which, s), state)

    def _settled(self, state: PowerState) -> tuple[Bool[Array, " k"], Bool[Array, " k"]]:
        """Whether more products are of no use to each pair, and whether it has converged."""
        floor = _FLOOR * jnp.finfo(state.scale.dtype).eps * state.scale
        converged = state.estimates + floor <= self.rtol * jnp.abs(state.values) + self.atol
        return converged | (state.estimates <= floor), converged

    def terminate(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: PowerState
    ):
        """Whether the solve is over, and how."""
        eps = jnp.finfo(state.scale.dtype).eps
        settled, converged = self._settled(state)
        idle = (state.filled == problem.k) & (state.count > 0)
        enough = idle & jnp.all(settled)
        asymmetric = (state.asymmetry > 10 * jnp.sqrt(eps) * state.scale) & (
            idle | (state.probed < state.probes)
        )
        result = RESULTS.where(jnp.all(converged), RESULTS.successful, RESULTS.stagnation)
        result = RESULTS.where(enough, result, RESULTS.max_matvecs_reached)
        result = RESULTS.where(asymmetric, RESULTS.asymmetric, result)
        result = RESULTS.where(state.finite, result, RESULTS.nonfinite)
        # A sweep that cannot be completed is not begun, unless it is the first.
        short = idle & (state.matvecs + problem.k > problem.max_matvecs)
        spent = short | (state.matvecs >= problem.max_matvecs)
        return enough | spent | ~state.finite | asymmetric, result

    def finish(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: PowerState
    ) -> EigenSolution:
        """The k pairs and the warm start. No products: the images are those of the vectors."""
        structure = operator.in_structure()
        k = problem.k
        _, result = self.terminate(operator, problem, state)
        # Off a completed sweep only where a product was not finite.
        valid = (jnp.arange(k) < state.count) & state.finite
        floor = _FLOOR * jnp.finfo(state.scale.dtype).eps * state.scale
        values = jnp.where(valid, state.values, jnp.nan)
        residuals = jnp.where(valid, state.estimates + floor, jnp.inf)
        sound = valid & ~(result == RESULTS.asymmetric)
        converged = sound & (residuals <= self.rtol * jnp.abs(values) + self.atol)

        def fill(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            vectors, key = carry
            fresh, key = draw(key, structure)
            return block_set_row(vectors, i, orthonormalise(vectors, fresh, i)), key

        vectors, key = jax.lax.fori_loop(state.count, k, fill, (state.vectors, state.key))
        evidence = state.evidence
        if k == structure_dimension(structure):
            evidence = EVIDENCE.where(valid[k - 1], EVIDENCE.whole_space, evidence)
        # The probe may have seen more of the wanted end than the iteration found.
        missed = sort_value(problem.which, values[0]) + residuals[0] < state.best
        return EigenSolution(
            values=values,
            vectors=vectors,
            residuals=residuals,
            bounds=residuals,
            estimates=temple_bound(residuals, ritz_gaps(values, values, valid)),
            converged=converged,
            is_top=converged & ~(evidence == EVIDENCE.none) & ~missed,
            evidence=evidence,
            result=result,
            stats={"matvecs": state.matvecs, "restarts": jnp.zeros((), jnp.int32)},
            state=Start(
                block=vectors,
                key=key,
                fresh=jnp.asarray(False),
                age=jnp.zeros((), jnp.int32),
            ),
        )
