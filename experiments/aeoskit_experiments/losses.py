"""Losses of a model's outputs, one number per example, and accuracies."""

from typing import Any

import einops
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from aeoskit.objective import AbstractOutputLoss, SoftmaxCrossEntropy, SquaredError

# Modules that know their Hessian in the outputs, so that a Gauss-Newton product need not
# differentiate them. Targets are one-hot labels; of tokens they are the tokens themselves, and the
# cross-entropy is the mean over all of them.
mse = SquaredError()
cross_entropy = SoftmaxCrossEntropy()


def misclassified(outputs: Array, targets: Any) -> Any:
    """The error of each example: 1 if the largest output is not the label's.

    Args:
        outputs: the model's outputs, classes last.
        targets: one-hot labels of the outputs' shape, or labels as whole numbers, one for each row
            or token; or a pair of labels and weights, 0 where there is no target.

    Returns:
        The error rate of each example, `(n,)`; for a pair the weighted sum and the weight.

    >>> misclassified(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])).tolist()
    [0.0, 1.0]
    >>> misclassified(jnp.eye(2), (jnp.array([0, 0]), jnp.array([1.0, 3.0])))
    (Array(3., dtype=float32), Array(4., dtype=float32))
    """
    right, weights = _right(outputs, targets)
    wrong = (~right).astype(outputs.dtype)
    if weights is not None:
        return jnp.sum(weights * wrong), jnp.sum(weights)
    return einops.reduce(wrong, "n ... -> n", "mean")


class MeanLoss(AbstractOutputLoss):
    """The mean of a loss over a batch, as one number: for models that couple the examples.

    An objective evaluates it on the whole data, also on a mesh, where per-example losses would
    depend on each device's part of the data.

    Args:
        loss: the per-example loss.

    Example:
        >>> outputs, targets = jnp.array([[1.0], [2.0]]), jnp.zeros((2, 1))
        >>> MeanLoss(mse)(outputs, targets)
        Array(1.25, dtype=float32)
    """

    loss: AbstractOutputLoss

    def __call__(self, outputs: Float[Array, "n *shape"], targets: PyTree) -> Float[Array, ""]:
        """The mean.

        Args:
            outputs: the model's outputs.
            targets: as for the per-example loss.

        Returns:
            A scalar.
        """
        losses = self.loss(outputs, targets)
        return losses[0] / losses[1] if isinstance(losses, tuple) else jnp.mean(losses)

    def hessian_product(
        self, outputs: Float[Array, "n *shape"], targets: PyTree, vector: Float[Array, "n *shape"]
    ) -> Float[Array, "n *shape"]:
        """The product with the Hessian of the mean.

        Args:
            outputs: the point at which the Hessian is taken.
            targets: as for the per-example loss.
            vector: the vector to multiply.

        Returns:
            An array like `vector`.
        """
        product: Any = self.loss.hessian_product(outputs, targets, vector)
        losses = self.loss(outputs, targets)
        weight = losses[1] if isinstance(losses, tuple) else losses.size
        return (product / weight).astype(vector.dtype)


def accuracy(outputs: Float[Array, "n *shape classes"], targets: PyTree) -> Float[Array, ""]:
    """The accuracy: the fraction of predictions whose largest output is the label's.

    Args:
        outputs: the model's outputs: one prediction per example, or a sequence of them.
        targets: one-hot labels of the same shape; or integer labels without the last axis, as
            tokens are; or a pair of one of these and weights of the predictions, 0 where there is
            no target.

    Returns:
        A number from 0 to 1; NaN if all weights are 0.

    >>> accuracy(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]]))
    Array(0.5, dtype=float32)
    >>> accuracy(jnp.eye(2), (jnp.array([0, 0]), jnp.array([1.0, 0.0])))
    Array(1., dtype=float32)
    """
    right, weights = _right(outputs, targets)
    if weights is None:
        return jnp.mean(right)
    return jnp.sum(weights * right) / jnp.sum(weights)


def _right(outputs: Array, targets: Any) -> tuple[Bool[Array, "n *length"], Array | None]:
    """The mask of the correct predictions, and the weights, if there are any."""
    labels, weights = targets if isinstance(targets, tuple) else (targets, None)
    if labels.ndim == outputs.ndim:
        labels = jnp.argmax(labels, axis=-1)
    return jnp.argmax(outputs, axis=-1) == labels, weights
