"""What thick-restart Lanczos carries from product to product, and its small dense algebra."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from .solvers._eigensolve import EigenProblem
from ._results import EVIDENCE, RESULTS
from ._ritz import rank_ritz
from ._tree import block_combine


class LanczosState(eqx.Module):
    """What one product needs from those before it.

    All numbers are in units of `unit`, about the largest entry of the first product (0 before
    there is one), so that no square over- or underflows.
    """

    basis: PyTree[Array]
    slots: PyTree[Array]
    projected: Float[Array, "m m"]
    coefficients: Float[Array, "s m"]
    gram: Float[Array, "s s"]
    put: Float[Array, " s"]
    levels: Float[Array, " s"]
    pending: Bool[Array, " s"]
    size: Int[Array, ""]
    ritz_values: Float[Array, " m"]
    ritz_vectors: Float[Array, "m m"]
    estimates: Float[Array, " m"]
    scale: Float[Array, ""]
    unit: Float[Array, ""]
    asymmetry: Float[Array, ""]
    finite: Bool[Array, ""]
    explored: Int[Array, ""]
    explore: Int[Array, ""]
    age: Int[Array, ""]
    evidence: EVIDENCE
    injected: Bool[Array, ""]
    injected_at: Float[Array, ""]
    direction: Float[Array, " s"]
    following: Bool[Array, ""]
    done: Bool[Array, ""]
    result: RESULTS
    key: UInt32[Array, "2"]
    matvecs: Int[Array, ""]
    restarts: Int[Array, ""]


def rayleigh_ritz(state: LanczosState) -> LanczosState:
    """The Ritz values (ascending, the last `size` of them), vectors and residual norms."""
    m = state.projected.shape[0]
    # Rows that are not filled get a value under all others, so that they sort first.
    below = -2 * jnp.linalg.norm(state.projected) - 1
    empty = jnp.arange(m) >= state.size
    values, vectors = jnp.linalg.eigh(
        state.projected + jnp.diag(jnp.where(empty, below, 0)), symmetrize_input=False
    )
    valid = jnp.arange(m) >= m - state.size
    z = state.coefficients @ vectors
    squares = jnp.sum(z * (state.gram @ z), axis=0)
    estimates = jnp.where(valid, jnp.sqrt(jnp.maximum(squares, 0)), jnp.inf)
    scale = jnp.max(jnp.where(valid, jnp.abs(values), 0))
    return eqx.tree_at(
        lambda s: (s.ritz_values, s.ritz_vectors, s.estimates, s.scale),
        state,
        (values, vectors, estimates, jnp.maximum(state.scale, scale)),
    )


def restart(problem: EigenProblem, state: LanczosState) -> LanczosState:
    """Keeps the best Ritz vectors: the relation between V, T, C and B stays exact.

    The Ritz pairs of the state stay those of the step before: the next one overwrites them.
    """
    m = state.projected.shape[0]
    keep = kept_at_restart(m, problem.k)
    order, _ = rank_ritz(state.ritz_values, state.size, problem.which)
    chosen = state.ritz_vectors[:, order[:keep]]
    rotated = block_combine(state.basis, chosen)
    basis = jax.tree.map(
        lambda b, r: jax.lax.dynamic_update_slice_in_dim(b, r, 0, axis=0), state.basis, rotated
    )
    diagonal = jnp.zeros(m, state.projected.dtype).at[:keep].set(state.ritz_values[order[:keep]])
    coefficients = jnp.zeros_like(state.coefficients)
    coefficients = coefficients.at[:, :keep].set(state.coefficients @ chosen)
    return eqx.tree_at(
        lambda s: (s.basis, s.projected, s.coefficients, s.size, s.restarts),
        state,
        (
            basis,
            jnp.diag(diagonal),
            coefficients,
            jnp.full_like(state.size, keep),
            state.restarts + 1,
        ),
    )


def kept_at_restart(m: int, k: int) -> int:
    """How many Ritz vectors a restart keeps in a basis of m: the wanted, and half of the rest."""
    return max(1, min(m - 1, k + max(1, (m - k) // 2)))
