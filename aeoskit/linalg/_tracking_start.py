"""The rows that a tracking solve starts from."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ._orthogonal import draw, once, orthonormalise, project_out
from ._start import Start
from ._tracking_model import Memory
from ._tree import (
    block_combine,
    block_gram,
    block_row,
    block_set_row,
    block_zeros,
    tree_axpy,
    tree_norm,
    tree_where,
)

# Rows farther than this from orthonormal are orthonormalised one after the other.
_SLOPPY = 1e-2


def start_rows(
    structure: PyTree, start: Start, rows: int, given: int, noise: Any
) -> tuple[PyTree, Bool[Array, " rows"], Array]:
    """Orthonormal rows, which of them are the start's own, and the next key.

    Rows that are missing, zero or not finite are random. Noise goes into the first row that a
    caller gave.
    """
    key = start.key
    block = block_zeros(structure, rows)
    usable = jnp.zeros(rows, bool)
    if start.block is not None:
        count = jax.tree.leaves(start.block)[0].shape[0]
        count = min(count, rows if isinstance(start.memory, Memory) else given)
        own = jax.tree.map(lambda b: b[:count], start.block)
        squares = jnp.diagonal(block_gram(own, own))
        good = jnp.isfinite(squares) & (squares > 0) & ~start.fresh
        scales = jnp.where(good, 1 / jnp.sqrt(jnp.where(good, squares, 1)), 0)
        own = jax.tree.map(lambda b: jnp.where(good.reshape(-1, *[1] * (b.ndim - 1)), b, 0), own)
        own = block_combine(own, jnp.diag(scales))
        block = jax.tree.map(
            lambda b, x: jax.lax.dynamic_update_slice_in_dim(b, x, 0, axis=0), block, own
        )
        usable = usable.at[:count].set(good)
        if not isinstance(start.memory, Memory):
            fresh, key = draw(key, structure)
            level = jnp.where(good[0], noise / tree_norm(fresh), 0)
            block = block_set_row(block, 0, tree_axpy(level, fresh, block_row(block, 0)))
    gram = block_gram(block, block)
    sloppy = jnp.max(jnp.abs(gram - jnp.eye(rows))) > _SLOPPY
    # Rounding turns rows a little from solve to solve; one step of Newton's brings them back.
    near = jax.tree.map(lambda x: x, block)
    correction = 1.5 * jnp.eye(rows) - 0.5 * jnp.where(sloppy, jnp.eye(rows), gram)
    block = block_combine(near, correction.astype(gram.dtype))

    def one_after_the_other(
        carry: tuple[PyTree, Array, Array],
    ) -> tuple[PyTree, Array, Array]:
        block, usable, key = carry

        def body(i: Int[Array, ""], carry: tuple[PyTree, Array, Array]):
            block, usable, key = carry
            fresh, key = draw(key, structure)
            row = block_row(block, i)
            left = project_out(block, row, i)[0]
            good = usable[i] & (tree_norm(left) > _SLOPPY)
            row = orthonormalise(block, tree_where(good, row, fresh), i)
            return block_set_row(block, i, row), usable.at[i].set(good), key

        return jax.lax.fori_loop(0, rows, body, (block, usable, key))

    block, usable, key = once(sloppy, one_after_the_other, (block, usable, key))
    return block, usable, key
