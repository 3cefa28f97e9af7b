"""A run as shapes with shardings: the arguments of its programs, with nothing allocated."""

import dataclasses
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from aeoskit.objective import Objective
from aeoskit.sharding import Placement
from aeoskit.trajectory import Carry, Lane, Trajectory
from aeoskit_experiments.execution import build
from aeoskit_experiments.pipelines import Experiment


class AbstractRun(NamedTuple):
    """A trajectory and its carry, whose arrays are `jax.ShapeDtypeStruct`s on a mesh.

    Attributes:
        trajectory: the run.
        carry: its state before the first step.
        params: the parameters of one lane.
        placement: the placement of the arrays.
    """

    trajectory: Trajectory
    carry: Carry
    params: PyTree
    placement: Placement

    @property
    def parameters(self) -> int:
        """The number of parameters of one lane."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params))

    def lane(self) -> tuple[Trajectory, Carry]:
        """The run of one lane, since a solve is per lane."""
        trajectory, carry = self.trajectory, self.carry
        if trajectory.lanes is None:
            return trajectory, carry
        optimizer = jax.tree.map(_without_lane, trajectory.optimizer)
        lane = self.placement.put_state(jax.tree.map(_without_lane, carry.lane), self.params)
        return trajectory.single(optimizer), _with_lane(carry, lane)


def abstract_run(experiment: Experiment, placement: Placement) -> AbstractRun:
    """The shapes of the values of `build`, with their placement.

    Args:
        experiment: the experiment of one group of a sweep.
        placement: the placement of the arrays.

    Raises:
        ValueError: from the library, in one sentence.
    """

    def whole() -> tuple[Trajectory, Carry]:
        # A rewound run has the same shapes.
        setup = build(dataclasses.replace(experiment, rewind=None))
        return setup.trajectory, setup.carry

    trajectory, carry = eqx.filter_eval_shape(whole)
    params = carry.lane.params
    if trajectory.lanes is not None:
        params = jax.tree.map(_without_lane, params)
    params = placement.put_params(params)
    lane = placement.put_state(carry.lane, params, trajectory.lanes)
    trajectory = eqx.tree_at(
        lambda t: (t.objective, t.optimizer),
        trajectory,
        (
            trajectory.objective.place(placement),
            placement.put_state(trajectory.optimizer, params, trajectory.lanes),
        ),
    )
    # A probe may have its own objective, on some of the examples.
    trajectory = eqx.tree_at(
        lambda t: t.probes,
        trajectory,
        jax.tree.map(
            lambda leaf: leaf.place(placement) if isinstance(leaf, Objective) else leaf,
            trajectory.probes,
            is_leaf=lambda leaf: isinstance(leaf, Objective),
        ),
    )
    carry = _with_lane(placement.put_replicated(carry), lane)
    return AbstractRun(trajectory, carry, params, placement)


def _with_lane(carry: Carry, lane: Lane) -> Carry:
    # Not by its constructor, which takes arrays.
    return eqx.tree_at(lambda c: c.lane, carry, lane)


def _without_lane(leaf: PyTree) -> PyTree:
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


def bytes_on_device(tree: PyTree) -> int:
    """The bytes that the arrays of a tree take on one device.

    Args:
        tree: `jax.ShapeDtypeStruct`s with shardings; other leaves are ignored.
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            sharding = leaf.sharding
            shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
            dtype = leaf.dtype
            # A typed key has two 32-bit words.
            size = 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
            total += math.prod(shape) * size
    return total
