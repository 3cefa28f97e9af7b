"""A probe: a measurement along the way."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from aeoskit.probes import AbstractProbe, Measurement, ProbeContext


class MyProbe(AbstractProbe):
    """The norm of the parameters, and how far they moved since the last measurement.

    Args:
        every: Steps between two measurements.
    """

    every: int = eqx.field(static=True, default=10)

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the columns in the record."""
        return ("params_norm", "moved")

    @property
    def solves(self) -> bool:
        """True if a measurement loops over products with the Hessian."""
        return False

    def init(self, params: PyTree, key: PRNGKeyArray) -> PyTree:
        """The state before the first measurement, zeros; of `params` only the shapes are read."""
        return jax.tree.map(jnp.zeros_like, params)

    def measure(self, context: ProbeContext, state: PyTree) -> tuple[Measurement, PyTree]:
        """The measurement before a step, and the state of the next one.

        The context has the objective, params, grads, the optimizer and its state.
        """
        moved = jax.tree.map(jnp.subtract, context.params, state)
        return {"params_norm": _norm(context.params), "moved": _norm(moved)}, context.params


def _norm(tree: PyTree) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
