"""Losses of a model's outputs, one number an example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mse(
    outputs: Float[Array, "n classes"], targets: Float[Array, "n classes"]
) -> Float[Array, " n"]:
    """Squared error `½‖f - y‖²` per example, summed over the classes.

    Args:
        outputs: the model's outputs `f`.
        targets: one-hot labels `y`.

    Returns:
        The loss of each example.

    >>> mse(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]))
    Array([1.], dtype=float32)
    """
    return 0.5 * jnp.sum((outputs - targets) ** 2, axis=-1)


def cross_entropy(
    outputs: Float[Array, "n classes"], targets: Float[Array, "n classes"]
) -> Float[Array, " n"]:
    """Softmax cross-entropy per example, in nats.

    Args:
        outputs: the model's outputs, as logits.
        targets: one-hot labels, or probabilities that add up to one.

    Returns:
        The loss of each example.

    >>> cross_entropy(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]]))
    Array([0.6931...], dtype=float32)
    """
    return -jnp.sum(targets * jax.nn.log_softmax(outputs, axis=-1), axis=-1)


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
