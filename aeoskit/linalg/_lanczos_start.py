"""The start vectors of a solve, cold or warm."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, UInt32

from ._options import Scalar
from ._orthogonal import draw
from ._results import EVIDENCE
from ._start import Start
from ._tree import (
    block_combine,
    block_gram,
    block_row,
    block_set_row,
    block_zeros,
    tree_axpy,
    tree_dtype,
    tree_norm,
)

# Next to the explorer's unit vector: an explorer that found a dead end is renewed in a few solves.
_FRESH = 0.5


def start_vectors(
    structure: PyTree,
    start: Start,
    renew: Bool[Array, ""],
    k: int,
    guard: int,
    mix: Scalar,
    noise: Scalar,
) -> tuple[PyTree, Bool[Array, " s"], UInt32[Array, "2"]]:
    """The vectors of `given_vectors`, the last one with its noise.

    Returns the block, which of its rows are start vectors, and the next key.
    """
    slots, levels, pending = given_vectors(structure, start, renew, k, guard, mix, noise)
    fresh, key = draw(start.key, structure)
    last = pending.shape[0] - 1
    with_noise = tree_axpy(levels[last] / tree_norm(fresh), fresh, block_row(slots, last))
    return block_set_row(slots, last, with_noise), pending, key


def given_vectors(
    structure: PyTree,
    start: Start,
    renew: Bool[Array, ""],
    k: int,
    guard: int,
    mix: Scalar,
    noise: Scalar,
    block: int = 1,
) -> tuple[PyTree, Float[Array, " s"], Bool[Array, " s"]]:
    """At most k vectors, the last one mixed with the guards; then the explorer, if there is one.

    Where these are fewer than `block`, or where there are none, places for random vectors.

    Returns the block, how much noise each row needs (a unit vector as long as that), and which of
    its rows are start vectors.
    """
    dtype = tree_dtype(structure)
    if start.block is None:
        slots = block_zeros(structure, block)
        return slots, jnp.ones(block, dtype), jnp.ones(block, bool)
    rows = jax.tree.leaves(start.block)[0].shape[0]
    squares = jnp.diagonal(block_gram(start.block, start.block))
    explorer = rows > k + guard
    # Zero, NaN and infinite vectors are left out; so are an explorer that is to be renewed and
    # all of a block that no solve has filled.
    usable = jnp.isfinite(squares) & (squares > 0) & ~start.fresh
    if explorer:
        usable = usable.at[rows - 1].set(usable[rows - 1] & ~renew)
    given = jax.tree.map(
        lambda b: jnp.where(usable.reshape(-1, *[1] * (b.ndim - 1)), b, 0), start.block
    )
    norms = jnp.sqrt(jnp.where(usable, squares, 1))
    wanted = min(k, rows)
    last = wanted + explorer - 1
    s = max(last + 1, block)
    # Vector i < k - 1 is row i alone; the k-th takes its own and the guards.
    weights = jnp.eye(rows, s, dtype=dtype).at[:, wanted:].set(0).at[wanted:, wanted - 1].set(mix)
    if explorer:
        own = jnp.arange(rows) == rows - 1
        weights = weights.at[rows - 1].set(0).at[:, last].set(own.astype(dtype))
    weights = jnp.where(usable[:, None], weights / norms[:, None], 0)
    slots = block_combine(given, weights)
    there = jnp.any(weights != 0, axis=0)
    index = jnp.arange(s)
    # A state has an explorer and needs no random vectors, but for one that no solve has filled.
    random = (index > last) & ~jnp.asarray(explorer) | start.fresh & (index >= s - block)
    levels = jnp.where(index == last, jnp.where(there, _FRESH if explorer else noise, 1), 0)
    levels = jnp.where(random, 1, levels).astype(dtype)
    return slots, levels, there | (index == last) | random


def start_evidence(start: Start, k: int, guard: int, explore: int, block: int) -> EVIDENCE:
    """What such a start says for the pairs that grow out of it."""
    cold = EVIDENCE.random_start if block == 1 else EVIDENCE.block
    if start.block is None:
        return cold
    rows = jax.tree.leaves(start.block)[0].shape[0]
    if rows > k + guard:
        warm = EVIDENCE.fresh_direction if explore > 0 else EVIDENCE.none
    else:
        warm = EVIDENCE.block if block > min(rows, k) else EVIDENCE.none
    return EVIDENCE.where(start.fresh, cold, warm)
