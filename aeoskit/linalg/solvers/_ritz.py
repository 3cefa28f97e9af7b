"""The order of Ritz values that `which` asks for."""

from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Which: TypeAlias = Literal["largest", "smallest", "both", "largest_magnitude"]
WHICH = ("largest", "smallest", "both", "largest_magnitude")


def rank_ritz(
    values: Float[Array, " m"], size: Int[Array, ""], which: str
) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
    """Indices of Ritz values, best first, and which ranks hold one.

    `values` ascend, and only the last `size` of them are Ritz values. "both" takes the ends in
    turn: largest, smallest, second largest, ...
    """
    m = values.shape[0]
    rank = jnp.arange(m)
    valid = rank < size
    if which == "largest":
        order = m - 1 - rank
    elif which == "smallest":
        order = jnp.minimum(m - size + rank, m - 1)
    elif which == "both":
        low = jnp.minimum(m - size + (rank - 1) // 2, m - 1)
        order = jnp.where(rank % 2 == 0, m - 1 - rank // 2, low)
    else:
        is_value = rank >= m - size
        order = jnp.argsort(jnp.where(is_value, -jnp.abs(values), jnp.inf))
    return order, valid


def original_order(k: int, which: str) -> np.ndarray:
    """From the order of `rank_ritz` to that of the solution ("both": the larger half first)."""
    if which == "both":
        return np.concatenate([np.arange(0, k, 2), np.arange(1, k, 2)])
    return np.arange(k)
