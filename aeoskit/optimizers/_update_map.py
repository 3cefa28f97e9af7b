"""An optimizer that is a map of parameters, state and data, without a known structure."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import PyTree

from ._interface import AbstractOptimizer, Function


class UpdateMap(AbstractOptimizer):
    """A user's update map, `(params, state, batch) -> (params, state)`.

    It computes its own gradients, of its own loss, and has no known preconditioner or threshold.
    `flip_multiplier` measures its stability; the sharpness along its trajectory is that of the
    trajectory's objective.

    Args:
        initial_state: `params -> state`.
        update_map: `(params, state, batch) -> (params, state)`.
        batch: the data, the same at every step; None until they are known.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> def descend(params, state, batch):
        ...     grads = jax.grad(lambda w: jnp.mean((batch @ w) ** 2))(params)
        ...     return params - 0.5 * grads, state + 1
        >>> optimizer = UpdateMap(lambda params: jnp.asarray(0), descend, batch=jnp.eye(2))
        >>> params, state = optimizer.step(lambda w: 0.0, jnp.ones(2), optimizer.init(jnp.ones(2)))
        >>> params.tolist(), int(state)
        ([0.5, 0.5], 1)
    """

    is_update_map = True
    initial_state: Callable[[PyTree], PyTree] = eqx.field(static=True)
    update_map: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]] = eqx.field(static=True)
    batch: PyTree = None

    def init(self, params: PyTree) -> PyTree:
        """The map's own state before the first step."""
        return self.initial_state(params)

    def step(
        self, function: Function, params: PyTree, state: Any, grads: PyTree | None = None
    ) -> tuple[PyTree, Any]:
        """One step of the map; `function` and `grads` have no effect."""
        del function, grads
        return self.update_map(params, state, self.batch)
