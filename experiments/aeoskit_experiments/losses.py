"""Losses of a model's outputs, one number an example, and what is read off the outputs besides."""

from typing import Any

import einops
import jax.numpy as jnp
from jaxtyping import Array, Float

from aeoskit.objective import SoftmaxCrossEntropy, SquaredError

# Modules that know their Hessian in the outputs, so that a Gauss-Newton product need not
# differentiate them. Targets are one-hot labels; of tokens they are the tokens themselves, and the
# cross-entropy is the mean over all of them.
mse = SquaredError()
cross_entropy = SoftmaxCrossEntropy()


def misclassified(outputs: Array, targets: Any) -> Any:
    """Where the largest output is not the label's: a loss whose mean is the error.

    Args:
        outputs: the model's outputs, classes last.
        targets: one-hot labels of the outputs' shape, or labels as whole numbers, one for each row
            or token; or a pair of labels and weights, 0 where nothing is to be told.

    Returns:
        The fraction that is wrong of each example, `(n,)`; of a pair its sum and its weight.

    >>> misclassified(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])).tolist()
    [0.0, 1.0]
    >>> misclassified(jnp.eye(2), (jnp.array([0, 0]), jnp.array([1.0, 3.0])))
    (Array(3., dtype=float32), Array(4., dtype=float32))
    """
    labels, weights = targets if isinstance(targets, tuple) else (targets, None)
    if labels.shape == outputs.shape:
        labels = jnp.argmax(labels, axis=-1)
    wrong = (jnp.argmax(outputs, axis=-1) != labels).astype(outputs.dtype)
    if weights is not None:
        return jnp.sum(weights * wrong), jnp.sum(weights)
    return einops.reduce(wrong, "n ... -> n", "mean")


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
