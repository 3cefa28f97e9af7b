"""Directions: random ones, and what of a vector is outside of a basis."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, UInt32

from aeoskit.sharding import lie_like

from ._tree import block_combine, block_dots, block_rows, tree_dtype, tree_norm

# A vector that keeps this much of its norm in a pass is orthogonal to rounding (Kahan and Parlett).
_KEPT = 0.7
_PASSES = 5
# 2**32 over the golden ratio: what tells leaves and keys apart.
_GOLDEN = 0x9E3779B9


def draw(key: UInt32[Array, "2"], like: PyTree) -> tuple[PyTree, UInt32[Array, "2"]]:
    """A vector of independent entries, uniform between -1 and 1, and the next key.

    A start vector asks for little: a hash of a counter. The draws of `jax.random` take the compiler
    0.4 s a leaf and use, these a twentieth of that.

    Args:
        key: Two words.
        like: A vector or a structure.

    Returns:
        A vector that lies like it, and the next key.

    Example:
        >>> vector, _ = draw(jnp.zeros(2, jnp.uint32), jnp.zeros(3))
        >>> vector.shape
        (3,)
    """
    leaves, treedef = jax.tree.flatten(like)
    fresh = []
    for i, leaf in enumerate(leaves):
        words = _hash(
            _hash(_counter(leaf.shape) + key[0]) ^ (key[1] + jnp.uint32(i * _GOLDEN % 2**32))
        )
        # 24 bits, so that float32 holds them exactly.
        uniform = (words >> 8).astype(jnp.float32) * 2.0**-23 - (1 - 2.0**-24)
        fresh.append(uniform.astype(leaf.dtype))
    following = key + jnp.array([_GOLDEN, 0x7FEB352D], jnp.uint32)
    return lie_like(jax.tree.unflatten(treedef, fresh), like), following


def _counter(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """0, 1, 2, ... in row-major order, modulo 2**32; each device counts for its own part."""
    total, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        total += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return total


def _hash(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A mixing permutation of 32-bit words: Wellons' `lowbias32`."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def outside(
    basis: PyTree, w: PyTree, size: Int[Array, ""]
) -> tuple[PyTree, Float[Array, " c"], Float[Array, ""]]:
    """The part of `w` orthogonal to the first `size` rows, its components, and its norm.

    All rows are subtracted twice at least. (Once, where the rest is long, is enough for one vector;
    the rows that come of it grow apart in hundreds of restarts.) Empty rows are read as well: to
    cut them off would copy the others.
    """
    there = jnp.arange(block_rows(basis)) < size

    def body(carry: Any) -> Any:
        w, h, turn, _, before = carry
        dots = jnp.where(there, block_dots(basis, w), 0)
        w = jax.tree.map(lambda x, y: (x - y).astype(x.dtype), w, block_combine(basis, dots))
        return w, h + dots, turn + 1, before, tree_norm(w)

    def again(carry: Any) -> Array:
        _, _, turn, before, after = carry
        return (turn < 2) | ((after < _KEPT * before) & (turn < _PASSES) & (after > 0))

    h, norm = jnp.zeros(block_rows(basis), tree_dtype(basis)), tree_norm(w)
    w, h, _, _, norm = jax.lax.while_loop(again, body, (w, h, jnp.zeros_like(size), norm, norm))
    return w, h, norm
