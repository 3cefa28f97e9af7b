"""Random vectors, and the part of a vector that is orthogonal to a basis."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, UInt32

from aeoskit.sharding import place_like

from .._platform import target_platform
from ._tree import block_combine, block_dots, block_rows, tree_dtype, tree_norm

# Rows that are read at a time, so that the cost follows the filled part of a basis and not its
# capacity. They are copied: on a CPU the copy should stay in its caches; on an accelerator each
# turn of the loop is a round trip to the host.
_CHUNK_CPU, _CHUNK = 2, 5
# A vector that keeps this much of its norm in a pass is orthogonal to rounding (Kahan and Parlett).
_KEPT = 0.7
_PASSES = 5
# 2**32 over the golden ratio: separates leaves and keys.
_GOLDEN = 0x9E3779B9


def random_vector(key: UInt32[Array, "2"], like: PyTree) -> tuple[PyTree, UInt32[Array, "2"]]:
    """A vector of independent entries, uniform between -1 and 1, and the next key.

    A start vector asks for little: a hash of a counter. The draws of `jax.random` take the compiler
    0.4 s a leaf and use, these a twentieth of that.

    Args:
        key: Two words.
        like: A vector or a structure.

    Returns:
        A vector of the same shapes and shardings, and the next key.

    Example:
        >>> vector, _ = random_vector(jnp.zeros(2, jnp.uint32), jnp.zeros(3))
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
    return place_like(jax.tree.unflatten(treedef, fresh), like), following


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


def _chunks(basis: PyTree, carry: Any, low: Array, high: Array, body: Any) -> Any:
    """`body(part, start, own, carry)` over the rows from `low` up to `high`, a few at a time."""
    rows = block_rows(basis)
    chunk = min(_CHUNK_CPU if target_platform() == "cpu" else _CHUNK, rows)

    def turn(state: tuple[Array, Any]) -> tuple[Array, Any]:
        i, carry = state
        # The last slice is moved back to fit: rows that were done already are not its own.
        start = jnp.minimum(i, rows - chunk)
        part = jax.tree.map(lambda b: jax.lax.dynamic_slice_in_dim(b, start, chunk, axis=0), basis)
        index = start + jnp.arange(chunk)
        return i + chunk, body(part, start, (index >= i) & (index < high), carry)

    return jax.lax.while_loop(lambda state: state[0] < high, turn, (low, carry))[1]


def combine_rows(
    basis: PyTree, x: Float[Array, " c"], size: Int[Array, ""], like: PyTree
) -> PyTree:
    """The combination of the first `size` rows. Zeros that `x` begins with cost nothing."""

    def add(part: PyTree, start: Array, own: Array, total: PyTree) -> PyTree:
        own = jnp.where(own, jax.lax.dynamic_slice_in_dim(x, start, own.shape[0]), 0)
        return jax.tree.map(jnp.add, total, block_combine(part, own))

    total = jax.tree.map(lambda b: jnp.zeros(b.shape[1:], b.dtype), basis)
    return place_like(_chunks(basis, total, jnp.argmax(x != 0), size, add), like)


def orthogonalize(
    basis: PyTree, w: PyTree, size: Int[Array, ""], first: Int[Array, ""]
) -> tuple[PyTree, Float[Array, " c"], Float[Array, ""]]:
    """The part of `w` orthogonal to the first `size` rows, its components, and its norm.

    The rows from `first` on are subtracted before all are: where the others have little in `w`,
    that is as good as all of them twice. With `first` -1 all are twice. (Once, where the rest is
    long, is enough for one vector; the rows that come of it grow apart in hundreds of restarts.)
    """

    def subtract(part: PyTree, start: Array, own: Array, carry: Any) -> Any:
        w, h = carry
        dots = jnp.where(own, block_dots(part, w), 0)
        w = jax.tree.map(lambda x, y: (x - y).astype(x.dtype), w, block_combine(part, dots))
        old = jax.lax.dynamic_slice_in_dim(h, start, dots.shape[0])
        return w, jax.lax.dynamic_update_slice_in_dim(h, old + dots, start, axis=0)

    def body(carry: Any) -> Any:
        w, h, turn, _, before = carry
        low = jnp.maximum(first * (turn == 0), 0)
        w, h = _chunks(basis, (w, h), low, size, subtract)
        return w, h, turn + 1, before, tree_norm(w)

    def needs_another_pass(carry: Any) -> Array:
        _, _, turn, before, after = carry
        least = 1 + (first != 0)
        return (turn < least) | ((after < _KEPT * before) & (turn < _PASSES) & (after > 0))

    h = jnp.zeros(block_rows(basis), tree_dtype(basis))
    norm = tree_norm(w)
    w, h, _, _, norm = jax.lax.while_loop(
        needs_another_pass, body, (w, h, jnp.zeros_like(first), norm, norm)
    )
    return w, h, norm
