"""Directions orthogonal to a basis, and branches of a solver that do without `lax.cond`."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from aeoskit.sharding import lie_like

from ._tree import block_combine, block_dots, tree_dtype

# Rows of the basis that one pass of orthogonalisation reads at a time, so that its cost follows
# the filled part of the basis and not its capacity.
_CHUNK = 5
# A vector that keeps this much of its norm in a pass is orthogonal to rounding.
_KEPT = 0.7
# 2**32 over the golden ratio: what tells leaves and keys apart.
_GOLDEN = 0x9E3779B9


def once(predicate: Bool[Array, ""], function: Any, value: Any) -> Any:
    """`function(value)` if the predicate holds, else `value`.

    A loop of at most one turn, and not `lax.cond`: under `vmap` a `cond` runs both sides at every
    step, a loop only while some lane asks for it; and it updates the basis in place.
    """
    flat, restore = bundled(value)

    def turn(carry: Any) -> Any:
        return jnp.zeros_like(carry[0]), bundled(function(restore(carry[1])))[0]

    return restore(jax.lax.while_loop(lambda carry: carry[0], turn, (predicate, flat))[1])


def bundled(tree: PyTree) -> tuple[PyTree, Any]:
    """The tree with its scalars in one array a dtype, and the way back.

    A loop that carries them so compiles faster: the backend makes a kernel of every array.
    """
    leaves, treedef = jax.tree.flatten(tree)
    small = [i for i, x in enumerate(leaves) if jnp.ndim(x) == 0]
    dtypes = sorted({jnp.result_type(leaves[i]) for i in small}, key=str)
    groups = [[i for i in small if jnp.result_type(leaves[i]) == d] for d in dtypes]
    flat = (
        [jnp.stack([leaves[i] for i in g]) for g in groups],
        [x for i, x in enumerate(leaves) if i not in set(small)],
    )

    def restore(flat: Any) -> PyTree:
        out: list[Any] = [None] * len(leaves)
        for group, values in zip(groups, flat[0], strict=True):
            for j, i in enumerate(group):
                out[i] = values[j]
        rest = iter(flat[1])
        return jax.tree.unflatten(treedef, [next(rest) if x is None else x for x in out])

    return flat, restore


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


def project_out(
    basis: PyTree,
    w: PyTree,
    size: Int[Array, ""],
    first: Int[Array, ""] | None = None,
) -> tuple[PyTree, Float[Array, " m"]]:
    """Subtracts from `w` its components along the first `size` rows; returns these too.

    With `first`, the rows from there on are subtracted once before all are: where the others have
    nothing but rounding in `w`, that is as good as all of them twice.
    """
    rows = jax.tree.leaves(basis)[0].shape[0]
    chunk = min(_CHUNK, rows)
    dtype = tree_dtype(basis)
    turns = (size + chunk - 1) // chunk
    early = jnp.zeros_like(turns) if first is None else jnp.maximum(turns - first // chunk, 0)

    def body(turn: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        w, h = carry
        i = turn - early + jnp.where(turn < early, turns, 0)
        # The last slice is moved back to fit: rows that were done already get coefficient zero.
        start = jnp.minimum(i * chunk, rows - chunk)
        part = jax.tree.map(lambda b: jax.lax.dynamic_slice_in_dim(b, start, chunk, axis=0), basis)
        index = start + jnp.arange(chunk)
        dots = jnp.where((index >= i * chunk) & (index < size), block_dots(part, w), 0)
        w = jax.tree.map(lambda x, y: (x - y).astype(x.dtype), w, block_combine(part, dots))
        old = jax.lax.dynamic_slice_in_dim(h, start, chunk)
        return w, jax.lax.dynamic_update_slice_in_dim(h, old + dots, start, axis=0)

    return jax.lax.fori_loop(0, early + turns, body, (w, jnp.zeros(rows, dtype)))
