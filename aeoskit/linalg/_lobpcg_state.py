"""What LOBPCG carries from product to product, and the Rayleigh-Ritz step of an iteration."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from .solvers._eigensolve import EigenProblem
from ._orthogonal import orthonormalise
from ._results import EVIDENCE
from ._ritz import rank_ritz
from ._tree import block_combine, block_dots, block_row, block_set_row, tree_norm

# Accelerators round float32 products to fewer digits unless told.
_HIGHEST = jax.lax.Precision.HIGHEST
# A unit vector with less than this outside of the trial space is left out.
_DEPENDENT = 0.03
# In units of (machine epsilon * largest Ritz value seen): where residuals may stall.
_NEAR = 100.0


class LOBPCGState(eqx.Module):
    """The trial space: rows X, then P, then W; the first `size` of them have their images."""

    basis: PyTree[Array]
    images: PyTree[Array]
    projected: Float[Array, "m m"]
    size: Int[Array, ""]
    ready: Int[Array, ""]
    carried: Int[Array, ""]
    values: Float[Array, " b"]
    estimates: Float[Array, " b"]
    seen: Float[Array, " m"]
    count: Int[Array, ""]
    scale: Float[Array, ""]
    asymmetry: Float[Array, ""]
    finite: Bool[Array, ""]
    drift: Int[Array, ""]
    best: Float[Array, ""]
    stalled: Int[Array, ""]
    explored: Int[Array, ""]
    explore: Int[Array, ""]
    evidence: EVIDENCE
    key: UInt32[Array, "2"]
    matvecs: Int[Array, ""]
    restarts: Int[Array, ""]


def rayleigh_ritz(problem: EigenProblem, state: LOBPCGState) -> LOBPCGState:
    """X and P of the next iteration, and their images, out of the trial space."""
    m, b, k = state.projected.shape[0], state.values.shape[0], problem.k
    p = min(k, m - b)
    eps = jnp.finfo(state.projected.dtype).eps
    filled = jnp.arange(m) < state.size
    # Rows that are not filled get a value under all others, so that they sort first.
    below = -2 * jnp.linalg.norm(state.projected) - 1
    ascending, vectors = jnp.linalg.eigh(
        state.projected + jnp.diag(jnp.where(filled, 0, below)), symmetrize_input=False
    )
    order, valid = rank_ritz(ascending, state.size, problem.which)
    values = ascending[order]
    vectors = jnp.where(filled[:, None] & valid[None, :], vectors[:, order], 0)
    # What each wanted vector took from P and W, as far as it lies outside of the new X: in
    # the coordinates of the other Ritz vectors, so that it is orthogonal to X by construction.
    rest = vectors[:, b:]
    moved = jnp.where(jnp.arange(m)[:, None] < state.carried, 0, vectors[:, :k])
    moved = jnp.matmul(rest.T, moved, precision=_HIGHEST)
    norms = jnp.linalg.norm(moved, axis=0, keepdims=True)
    some = norms > 10 * eps
    moved = jnp.where(some, moved / jnp.where(some, norms, 1), 0)
    weights, axes = jnp.linalg.eigh(jnp.matmul(moved, moved.T, precision=_HIGHEST))
    kept = weights[::-1][:p] > jnp.sqrt(eps)
    axes = jnp.where(kept[None, :], axes[:, ::-1][:, :p], 0)
    chosen = jnp.concatenate([vectors[:, :b], jnp.matmul(rest, axes, precision=_HIGHEST)], axis=1)
    inner = jnp.matmul(axes.T, values[b:, None] * axes, precision=_HIGHEST)
    projected = jnp.zeros_like(state.projected)
    projected = projected.at[:b, :b].set(jnp.diag(jnp.where(valid[:b], values[:b], 0)))
    projected = projected.at[b : b + p, b : b + p].set(inner)
    basis, images = recombined(state.basis, chosen), recombined(state.images, chosen)
    estimates = residual_norms(basis, images, values[:b])
    estimates = jnp.where(valid[:b], estimates, jnp.inf)
    carried = jnp.minimum(state.size, b)
    size = (carried + jnp.sum(kept)).astype(jnp.int32)
    scale = jnp.maximum(state.scale, jnp.max(jnp.where(valid, jnp.abs(values), 0)))
    # Near the floor of the format, where residuals may stay above it for good.
    near = jnp.max(estimates[:k]) <= _NEAR * eps * scale
    level = jnp.sum(estimates[:k])
    stalled = jnp.where(near & (level > 0.9 * state.best), state.stalled + 1, 0)
    return eqx.tree_at(
        lambda s: (
            s.basis,
            s.images,
            s.projected,
            s.size,
            s.ready,
            s.carried,
            s.values,
            s.estimates,
            s.seen,
            s.count,
            s.scale,
            s.drift,
            s.best,
            s.stalled,
        ),
        state,
        (
            basis,
            images,
            projected,
            size,
            size,
            carried,
            values[:b],
            estimates,
            values,
            state.size,
            scale,
            state.drift + 1,
            jnp.minimum(state.best, level),
            stalled,
        ),
    )


def dependent(basis: PyTree, unit: PyTree, size: Int[Array, ""]) -> Bool[Array, ""]:
    """Whether a vector lies in the span of the first `size` rows, but for a small part."""
    dots = block_dots(basis, unit)
    inside = jnp.sum(jnp.where(jnp.arange(dots.shape[0]) < size, jnp.square(dots), 0))
    return inside > (1 - _DEPENDENT**2) * jnp.square(tree_norm(unit))


def recombined(block: PyTree, chosen: Float[Array, "m c"]) -> PyTree:
    """The block with its first rows replaced by combinations of all."""
    return jax.tree.map(
        lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, 0, axis=0),
        block,
        block_combine(block, chosen),
    )


def residual_norms(basis: PyTree, images: PyTree, values: Float[Array, " b"]) -> Float[Array, " b"]:
    """`||A x - θ x||` of the first rows of a block, from their images."""

    def squares(x: Array, y: Array) -> Array:
        theta = values.reshape(-1, *[1] * (x.ndim - 1))
        rows = values.shape[0]
        difference = y[:rows].astype(values.dtype) - theta * x[:rows].astype(values.dtype)
        return jnp.sum(jnp.square(difference), axis=tuple(range(1, x.ndim)))

    leaves = zip(jax.tree.leaves(basis), jax.tree.leaves(images), strict=True)
    return jnp.sqrt(sum((squares(x, y) for x, y in leaves), jnp.zeros_like(values)))


def rebuilt(k: int, state: LOBPCGState) -> LOBPCGState:
    """The wanted vectors as start vectors: their products to come replace drifted images."""

    def put(i: Array, basis: PyTree) -> PyTree:
        return block_set_row(basis, i, orthonormalise(basis, block_row(basis, i), i))

    count = jnp.minimum(state.carried, k)
    integer = jnp.zeros_like(state.size)
    return eqx.tree_at(
        lambda s: (s.basis, s.projected, s.size, s.ready, s.carried, s.drift, s.restarts),
        state,
        (
            jax.lax.fori_loop(0, count, put, state.basis),
            jnp.zeros_like(state.projected),
            integer,
            count,
            integer,
            integer,
            state.restarts + 1,
        ),
    )
