"""A model: an equinox module that maps one example to its outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from aeoskit_experiments.data import Dataset


class MyNet(eqx.Module):
    """A network with one hidden layer.

    Args:
        width: Units in the hidden layer.
    """

    # The sentence above is the help of --width; `dataset` and `key` are provided, every other
    # argument is an option. Floating-point arrays are trained.
    hidden: eqx.nn.Linear
    output: eqx.nn.Linear

    def __init__(self, dataset: Dataset, *, width: int = 64, key: PRNGKeyArray):
        first, second = jax.random.split(key)
        self.hidden = eqx.nn.Linear(dataset.inputs.shape[1], width, key=first)
        self.output = eqx.nn.Linear(width, dataset.num_classes, key=second)

    def __call__(self, x: Float[Array, " features"]) -> Float[Array, " outputs"]:
        """The outputs for one example; `jax.vmap` evaluates a batch."""
        return self.output(jnp.tanh(self.hidden(x)))
