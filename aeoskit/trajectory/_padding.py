"""Lanes padded to a number that the sweep axis of a mesh divides."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._carry import Lane, Trajectory


def padded_lanes(trajectory: Trajectory) -> int | None:
    """The number of lanes that a chunk runs, a multiple of the size of the sweep axis."""
    placement, lanes = trajectory.objective.placement, trajectory.lanes
    if lanes is None or placement is None or placement.sweep is None:
        return lanes
    share = placement.mesh.shape[placement.sweep]
    return -(-lanes // share) * share


def pad_lanes(tree: PyTree, extra: int) -> PyTree:
    """The tree with its last lane repeated."""
    if not extra:
        return tree

    def pad(leaf: Any) -> Any:
        if not eqx.is_array(leaf):
            return leaf
        return jnp.concatenate([leaf, jnp.stack([leaf[-1]] * extra)])

    return jax.tree.map(pad, tree)


def trim_lanes(lane: Lane, lanes: int | None) -> Lane:
    """The lanes that were asked for."""
    if lanes is None:
        return lane
    return jax.tree.map(lambda leaf: leaf[:lanes] if eqx.is_array(leaf) else leaf, lane)
