"""What power iteration carries from product to product: its probe and its sweeps."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from ._lobpcg_state import residual_norms
from ._orthogonal import draw, once, orthonormalise, project_out
from ._results import EVIDENCE
from ._ritz import rank_ritz
from ._tree import (
    block_combine,
    block_gram,
    block_row,
    block_set_row,
    tree_axpy,
    tree_dot,
    tree_norm,
    tree_scale,
    tree_where,
)

# How far from the unwanted end towards the wanted one the shift is put, in units of the spectrum's
# width; with several wanted values, whose last may lie next to that end, a little beyond it.
_INWARD = 0.25
_OUTWARD = -0.05
# A unit vector with less than this outside of the rows before it is replaced by a random one.
_DEPENDENT = 1e-3


class PowerState(eqx.Module):
    """The vectors and their images; `filled` of these belong to the vectors at hand."""

    vectors: PyTree[Array]
    images: PyTree[Array]
    filled: Int[Array, ""]
    values: Float[Array, " k"]
    estimates: Float[Array, " k"]
    count: Int[Array, ""]
    previous: PyTree[Array]
    current: PyTree[Array]
    diagonal: Float[Array, " probe"]
    off_diagonal: Float[Array, " probe"]
    probed: Int[Array, ""]
    probes: Int[Array, ""]
    best: Float[Array, ""]
    shift: Float[Array, ""]
    scale: Float[Array, ""]
    asymmetry: Float[Array, ""]
    finite: Bool[Array, ""]
    evidence: EVIDENCE
    key: UInt32[Array, "2"]
    matvecs: Int[Array, ""]


def sort_value(which: str, value: Array) -> Array:
    """Larger for what is wanted."""
    return -value if which == "smallest" else value if which == "largest" else jnp.abs(value)


def outside(
    vectors: PyTree, q: PyTree, size: Int[Array, ""], key: Array
) -> tuple[PyTree, UInt32[Array, "2"]]:
    """A unit vector orthogonal to the first `size` rows: along `q`, or random where that fails."""
    norm = tree_norm(q)
    good = jnp.isfinite(norm) & (norm > 0)
    q = jax.tree.map(lambda x: jnp.where(good, x / jnp.where(good, norm, 1), 0).astype(x.dtype), q)
    left = tree_norm(project_out(vectors, q, size)[0])
    q, key = once(left <= _DEPENDENT, lambda c: draw(c[1], c[0]), (q, key))
    return orthonormalise(vectors, q, size), key


def next_sweep(state: PowerState) -> PowerState:
    """The vectors `(A - σ I) X`, orthonormal."""
    first = block_row(state.vectors, 0), block_row(state.images, 0)

    def put(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        vectors, key = carry
        x = block_row(vectors, i)
        q = tree_axpy(-state.shift, x, block_row(state.images, i))
        # A value that equals the shift: the vector is exact already.
        q = tree_where(tree_norm(q) > 0, q, x)
        q, key = outside(vectors, q, i, key)
        return block_set_row(vectors, i, q), key

    k = state.values.shape[0]
    vectors, key = jax.lax.fori_loop(0, k, put, (state.vectors, state.key))
    return eqx.tree_at(
        lambda s: (s.vectors, s.key, s.filled, s.previous, s.current),
        state,
        (vectors, key, jnp.zeros_like(state.filled), *first),
    )


def store(w: PyTree, state: PowerState) -> PowerState:
    """The next image of a sweep. An operator that is not symmetric shows beside the last sweep."""
    q = block_row(state.vectors, state.filled)
    known = state.count > 0
    difference = jnp.abs(tree_dot(state.previous, w) - tree_dot(state.current, q))
    return eqx.tree_at(
        lambda s: (s.images, s.filled, s.asymmetry),
        state,
        (
            block_set_row(state.images, state.filled, w),
            state.filled + 1,
            jnp.maximum(state.asymmetry, jnp.where(known, difference, 0)),
        ),
    )


def probe(which: str, w: PyTree, state: PowerState) -> PowerState:
    """One Lanczos step without a basis; after the last one, the shift."""
    i, q, eps = state.probed, state.current, jnp.finfo(state.scale.dtype).eps
    before = jnp.where(i > 0, state.off_diagonal[i - 1], 0)
    alpha = tree_dot(q, w)
    difference = jnp.abs(tree_dot(state.previous, w) - before)
    w = tree_axpy(-before, state.previous, tree_axpy(-alpha, q, w))
    beta = tree_norm(w)
    scale = jnp.maximum(state.scale, jnp.maximum(jnp.abs(alpha), jnp.maximum(beta, before)))
    # An invariant space: on with a random vector, beside which the old one is not orthogonal.
    closed = beta <= 100 * eps * scale
    w, key = once(closed, lambda c: draw(c[1], c[0]), (w, state.key))
    w = tree_scale(1 / tree_norm(w), w)
    previous = jax.tree.map(lambda x: jnp.where(closed, 0, x), q)
    state = eqx.tree_at(
        lambda s: (
            s.previous,
            s.current,
            s.diagonal,
            s.off_diagonal,
            s.probed,
            s.scale,
            s.asymmetry,
            s.key,
        ),
        state,
        (
            previous,
            w,
            state.diagonal.at[i].set(alpha),
            state.off_diagonal.at[i].set(jnp.where(closed, 0, beta)),
            i + 1,
            scale,
            jnp.maximum(state.asymmetry, difference),
            key,
        ),
    )
    return once(state.probed == state.probes, lambda s: _with_shift(which, s), state)


def _with_shift(which: str, state: PowerState) -> PowerState:
    index = jnp.arange(state.diagonal.shape[0])
    # A probe cut short by the budget: the first value stands in for those that are missing.
    diagonal = jnp.where(index < state.probes, state.diagonal, state.diagonal[0])
    beside = jnp.where(index < state.probes - 1, state.off_diagonal, 0)[:-1]
    ends = jnp.linalg.eigvalsh(
        jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1), symmetrize_input=False
    )
    part = _INWARD if state.values.shape[0] == 1 else _OUTWARD
    wanted, unwanted = (ends[0], ends[-1]) if which == "smallest" else (ends[-1], ends[0])
    return eqx.tree_at(
        lambda s: (s.shift, s.best, s.scale),
        state,
        (
            unwanted + part * (wanted - unwanted),
            sort_value(which, wanted),
            jnp.maximum(state.scale, jnp.max(jnp.abs(ends))),
        ),
    )


def rayleigh_ritz(which: str, state: PowerState) -> PowerState:
    k = state.values.shape[0]
    done = jnp.arange(k) < state.filled
    inside = done[:, None] & done[None, :]
    raw = jnp.where(inside, block_gram(state.vectors, state.images), 0)
    projected = (raw + raw.T) / 2
    below = -2 * jnp.linalg.norm(projected) - 1
    ascending, rotation = jnp.linalg.eigh(
        projected + jnp.diag(jnp.where(done, 0, below)), symmetrize_input=False
    )
    order, valid = rank_ritz(ascending, state.filled, which)
    values = jnp.where(valid, ascending[order], 0)
    rotation = jnp.where(done[:, None] & valid[None, :], rotation[:, order], 0)
    vectors = block_combine(state.vectors, rotation)
    images = block_combine(state.images, rotation)
    estimates = jnp.where(valid, residual_norms(vectors, images, values), jnp.inf)
    return eqx.tree_at(
        lambda s: (
            s.vectors,
            s.images,
            s.values,
            s.estimates,
            s.count,
            s.scale,
            s.asymmetry,
        ),
        state,
        (
            vectors,
            images,
            values,
            estimates,
            state.filled,
            jnp.maximum(state.scale, jnp.max(jnp.abs(values))),
            jnp.maximum(state.asymmetry, jnp.max(jnp.abs(raw - raw.T))),
        ),
    )
