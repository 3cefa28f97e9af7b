"""Where a carry lies on a mesh of devices, and lanes that one of its axes shares out."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._carry import Carry, Lane, Trajectory


def lie(trajectory: Trajectory, carry: Carry, lanes: int | None) -> Carry:
    """The carry where the objective's placement says, in and out of jit; as it is without one.

    Args:
        trajectory: the run.
        carry: its state.
        lanes: the size of its lane axis, padded or not; None for a single run.

    Returns:
        The carry: parameters and what is shaped like them as the placement says, vectors of warm
        starts as a Krylov basis, all else on every device.
    """
    placement = trajectory.objective.placement
    if placement is None:
        return carry
    params = carry.lane.params
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape if lanes is None else x.shape[1:], x.dtype), params
    )
    lane = placement.put_state(carry.lane, shapes, lanes)
    step, budgets = placement.put_replicated((carry.step, carry.budgets))
    return Carry(step=step, lane=lane, budgets=budgets)


def padded_lanes(trajectory: Trajectory) -> int | None:
    """How many lanes a chunk runs: as many as the sweep axis divides."""
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


def cut_lanes(lane: Lane, lanes: int | None) -> Lane:
    """The lanes that were asked for."""
    if lanes is None:
        return lane
    return jax.tree.map(lambda leaf: leaf[:lanes] if eqx.is_array(leaf) else leaf, lane)
