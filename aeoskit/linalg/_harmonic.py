"""The small dense problem of interior eigenvalues: harmonic Ritz vectors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._ritz import rank_ritz

# How many harmonic vectors beyond k enter the space in which values are taken.
GUARD = 2


def small_product(a: Array, b: Array) -> Array:
    """A product of small matrices, at full precision."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _harmonic(
    projected: Float[Array, "m m"], gram: Float[Array, "m m"], size: Int[Array, ""]
) -> tuple[Array, Array]:
    """Harmonic Ritz vectors, nearest zero first, and which columns hold one."""
    m = gram.shape[0]
    eps = jnp.finfo(gram.dtype).eps
    empty = jnp.arange(m) >= size
    above = 2 * jnp.trace(gram) + 1
    squares, rotation = jnp.linalg.eigh(
        gram + jnp.diag(jnp.where(empty, above, 0)), symmetrize_input=False
    )
    largest = jnp.max(jnp.where(empty, 0, squares))
    # Images this short are rounding: an eigenvalue at the shift, which comes first.
    floor = jnp.maximum(eps * largest, jnp.finfo(squares.dtype).tiny)
    close = (squares <= floor) & ~empty
    half = rotation / jnp.sqrt(jnp.maximum(squares, floor))[None, :]
    inverse = small_product(half.T, small_product(projected, half))
    apart = empty | close
    inverse = jnp.where(apart[:, None] | apart[None, :], 0, (inverse + inverse.T) / 2)
    beyond = 2 * jnp.linalg.norm(inverse) + 1
    values, vectors = jnp.linalg.eigh(
        inverse + jnp.diag(jnp.where(empty, -beyond, jnp.where(close, beyond, 0))),
        symmetrize_input=False,
    )
    order, valid = rank_ritz(values, size, "largest_magnitude")
    return small_product(half, vectors[:, order]), valid


def nearest_zero(
    projected: Float[Array, "m m"], gram: Float[Array, "m m"], size: Int[Array, ""], k: int
) -> tuple[Float[Array, " q"], Float[Array, "m m"], Bool[Array, " m"]]:
    """The eigenvalues nearest zero that a space suggests.

    Args:
        projected: `VᵀAV`, of which the first `size` rows and columns are filled.
        gram: `(AV)ᵀ(AV)`.
        size: How many vectors there are.
        k: How many pairs are wanted.

    Returns:
        `k + GUARD` Ritz values (fewer in a smaller space), nearest first; orthonormal columns, best
        first; which columns hold a vector.
    """
    m = gram.shape[0]
    eps = jnp.finfo(gram.dtype).eps
    vectors, valid = _harmonic(projected, gram, size)
    # Orthonormal, each span of leading columns as it was.
    vectors = jnp.linalg.qr(jnp.where(valid[None, :], vectors, 0))[0]
    vectors = jnp.where(valid[None, :], vectors, 0)
    q = min(m, k + GUARD)
    head = vectors[:, :q]
    small = small_product(head.T, small_product(projected, head))
    beyond = 2 * jnp.linalg.norm(small) + 1
    values, turn = jnp.linalg.eigh(small + jnp.diag(jnp.where(valid[:q], 0, beyond)))
    head = small_product(head, turn)
    # By the length of the image: that of a mixture of far eigenvectors is long, wherever its Ritz
    # value is.
    squares = jnp.sum(head * small_product(gram, head), axis=0)
    noise = m * eps * jnp.trace(gram)
    distance = jnp.maximum(jnp.abs(values), jnp.sqrt(jnp.maximum(squares - noise, 0)))
    order = jnp.argsort(jnp.where(values < beyond / 2, distance, jnp.inf))
    return values[order], vectors.at[:, :q].set(head[:, order]), valid
