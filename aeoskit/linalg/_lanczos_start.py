"""The start vectors of a solve, cold or warm."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree, UInt32

from ._eigensolve import Start
from ._orthogonal import draw
from ._tree import (
    block_combine,
    block_gram,
    block_row,
    block_set_row,
    tree_axpy,
    tree_norm,
    tree_scale,
)

# Next to the explorer's unit vector: an explorer that found a dead end is renewed in a few solves.
_FRESH = 0.5


def start_vectors(
    structure: PyTree,
    start: Start,
    renew: Bool[Array, ""],
    k: int,
    guard: int,
    mix: float,
    noise: float,
) -> tuple[PyTree, Bool[Array, " s"], UInt32[Array, "2"]]:
    """At most k vectors, the last one mixed with the guards; then the explorer, if there is one.

    Returns the block, which of its rows are start vectors, and the next key.
    """
    fresh, key = draw(start.key, structure)
    fresh = tree_scale(1 / tree_norm(fresh), fresh)
    if start.block is None:
        return jax.tree.map(lambda x: x[None], fresh), jnp.array([True]), key
    rows = jax.tree.leaves(start.block)[0].shape[0]
    squares = jnp.diagonal(block_gram(start.block, start.block))
    explorer = rows > k + guard
    # Zero, NaN and infinite vectors are left out; so are an explorer that is to be renewed and
    # all of a block that no solve has filled.
    usable = jnp.isfinite(squares) & (squares > 0) & ~start.fresh
    if explorer:
        usable = usable.at[rows - 1].set(usable[rows - 1] & ~renew)
    block = jax.tree.map(
        lambda b: jnp.where(usable.reshape(-1, *[1] * (b.ndim - 1)), b, 0), start.block
    )
    norms = jnp.sqrt(jnp.where(usable, squares, 1))
    wanted = min(k, rows)
    s = wanted + explorer
    # Vector i < k - 1 is row i alone; the k-th takes its own and the guards.
    weights = jnp.eye(rows, s, dtype=squares.dtype).at[wanted:, wanted - 1].set(mix)
    if explorer:
        own = jnp.arange(rows) == rows - 1
        weights = weights.at[rows - 1].set(0).at[:, s - 1].set(own.astype(weights.dtype))
    weights = jnp.where(usable[:, None], weights / norms[:, None], 0)
    slots = block_combine(block, weights)
    some = jnp.any(weights[:, s - 1] != 0)
    level = jnp.where(some, _FRESH if explorer else noise, 1.0)
    slots = block_set_row(slots, s - 1, tree_axpy(level, fresh, block_row(slots, s - 1)))
    pending = jnp.any(weights != 0, axis=0).at[s - 1].set(True)
    return slots, pending, key
