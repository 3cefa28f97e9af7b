"""Losses of a model's outputs, one number an example, and what is read off the outputs besides."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from aeoskit.objective import SoftmaxCrossEntropy, SquaredError

# Modules that know their Hessian in the outputs, so that a Gauss-Newton product need not
# differentiate them. Targets are one-hot labels; of tokens they are the tokens themselves, and the
# cross-entropy is the mean over all of them.
mse = SquaredError()
cross_entropy = SoftmaxCrossEntropy()


def accuracy(
    outputs: Float[Array, "n classes"], targets: Float[Array, "n classes"]
) -> Float[Array, ""]:
    """The fraction of examples whose largest output is the label's.

    Args:
        outputs: the model's outputs.
        targets: one-hot labels.

    Returns:
        A number from 0 to 1.

    >>> accuracy(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]]))
    Array(0.5, dtype=float32)
    """
    return jnp.mean(jnp.argmax(outputs, axis=-1) == jnp.argmax(targets, axis=-1))
