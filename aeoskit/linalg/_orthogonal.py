"""Directions orthogonal to a basis, and branches of a solver that do without `lax.cond`."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from ._tree import block_combine, block_dots, tree_dtype, tree_norm, tree_random_like, tree_scale

# Rows of the basis that one pass of orthogonalisation reads at a time, so that its cost follows
# the filled part of the basis and not its capacity.
_CHUNK = 5


def once(predicate: Bool[Array, ""], function: Any, value: Any) -> Any:
    """`function(value)` if the predicate holds, else `value`.

    A loop of at most one turn, and not `lax.cond`: under `vmap` a `cond` runs both sides at every
    step, a loop only while some lane asks for it; and it updates the basis in place.
    """
    out = jax.lax.while_loop(
        lambda carry: carry[0],
        lambda carry: (jnp.zeros_like(carry[0]), function(carry[1])),
        (predicate, value),
    )
    return out[1]


def draw(key: UInt32[Array, "2"], like: PyTree) -> tuple[PyTree, UInt32[Array, "2"]]:
    key, sub = jax.random.split(jax.random.wrap_key_data(key, impl="threefry2x32"))
    return tree_random_like(sub, like), jax.random.key_data(key)


def project_out(
    basis: PyTree, w: PyTree, size: Int[Array, ""]
) -> tuple[PyTree, Float[Array, " m"]]:
    """Subtracts from `w` its components along the first `size` rows; returns these too."""
    rows = jax.tree.leaves(basis)[0].shape[0]
    chunk = min(_CHUNK, rows)
    dtype = tree_dtype(basis)

    def body(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        w, h = carry
        # The last slice is moved back to fit: rows that were done already get coefficient zero.
        start = jnp.minimum(i * chunk, rows - chunk)
        part = jax.tree.map(lambda b: jax.lax.dynamic_slice_in_dim(b, start, chunk, axis=0), basis)
        index = start + jnp.arange(chunk)
        dots = jnp.where((index >= i * chunk) & (index < size), block_dots(part, w), 0)
        w = jax.tree.map(lambda x, y: (x - y).astype(x.dtype), w, block_combine(part, dots))
        old = jax.lax.dynamic_slice_in_dim(h, start, chunk)
        return w, jax.lax.dynamic_update_slice_in_dim(h, old + dots, start, axis=0)

    turns = (size + chunk - 1) // chunk
    return jax.lax.fori_loop(0, turns, body, (w, jnp.zeros(rows, dtype)))


def orthonormalise(basis: PyTree, q: PyTree, size: Int[Array, ""]) -> PyTree:
    """A unit vector along the part of `q` orthogonal to the basis, repeated until it holds."""

    def unit(v: PyTree) -> tuple[PyTree, Array]:
        norm = tree_norm(v)
        return tree_scale(jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0), v), norm

    def body(carry: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
        v, _, turn = carry
        v, norm = unit(project_out(basis, v, size)[0])
        return v, norm, turn + 1

    def again(carry: tuple[PyTree, Array, Array]) -> Bool[Array, ""]:
        _, norm, turn = carry
        # Kahan and Parlett: a vector that keeps most of its norm is orthogonal to rounding.
        return (turn == 0) | ((norm < 0.7) & (turn < 4))

    first, norm = unit(q)
    return jax.lax.while_loop(again, body, (first, norm, jnp.zeros((), jnp.int32)))[0]
