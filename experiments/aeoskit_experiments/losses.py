"""Losses of a model's outputs, one number an example, and what is read off the outputs besides."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from aeoskit.objective import SoftmaxCrossEntropy, SquaredError

# Modules that know their Hessian in the outputs, so that a Gauss-Newton product need not
# differentiate them. Targets are one-hot labels; of tokens they are the tokens themselves, and the
# cross-entropy is the mean over all of them.
mse = SquaredError()
cross_entropy = SoftmaxCrossEntropy()


def accuracy(outputs: Float[Array, "n *shape classes"], targets: PyTree) -> Float[Array, ""]:
    """The fraction of predictions whose largest output is the label's.

    Args:
        outputs: the model's outputs: one prediction an example, or a sequence of them.
        targets: one-hot labels of the same shape; or integer labels without the last axis, as
            tokens are; or a pair of one of these and weights of the predictions, 0 where nothing is
            to be told.

    Returns:
        A number from 0 to 1; NaN if all weights are 0.

    >>> accuracy(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]]))
    Array(0.5, dtype=float32)
    >>> accuracy(jnp.eye(2), (jnp.array([0, 0]), jnp.array([1.0, 0.0])))
    Array(1., dtype=float32)
    """
    targets, weights = targets if isinstance(targets, tuple) else (targets, None)
    labels = targets if targets.ndim < outputs.ndim else jnp.argmax(targets, axis=-1)
    right = jnp.argmax(outputs, axis=-1) == labels
    if weights is None:
        return jnp.mean(right)
    return jnp.sum(weights * right) / jnp.sum(weights)
