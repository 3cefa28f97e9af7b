"""Losses of a model's outputs that know their own Hessian in the outputs."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._kinds import accumulator

Losses = Float[Array, " n"] | tuple[Float[Array, ""], Float[Array, ""]]


class AbstractOutputLoss(eqx.Module):
    """A loss of outputs and targets with a closed form for its Hessian in the outputs.

    `Objective.from_model` takes any function of outputs and targets, and differentiates it twice
    for a Gauss-Newton product. Of a subclass of this it calls `hessian_product` instead.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.objective import AbstractOutputLoss, Objective
        >>> class LogCosh(AbstractOutputLoss):
        ...     def __call__(self, outputs, targets):
        ...         return jnp.log(jnp.cosh(outputs - targets))
        ...     def hessian_product(self, outputs, targets, vector):
        ...         return vector / jnp.cosh(outputs - targets) ** 2
        >>> data = (jnp.array([1.0, 2.0]), jnp.array([1.0, 2.0]))
        >>> objective = Objective.from_model(lambda w, x: w * x, LogCosh(), data)
        >>> objective.gauss_newton(jnp.array(1.0)).mv(jnp.array(1.0))  # the mean of x²
        Array(2.5, dtype=float32)
    """

    @abc.abstractmethod
    def __call__(self, outputs: PyTree, targets: PyTree) -> Any:
        """The losses: `(n,)`, one an example; a pair of scalars `(sum, weight)`; or a scalar mean.

        Args:
            outputs: what the model returned, `(n, ...)`.
            targets: what it is compared with, leaves `(n, ...)`.
        """

    @abc.abstractmethod
    def hessian_product(self, outputs: PyTree, targets: PyTree, vector: PyTree) -> PyTree:
        """The product of the Hessian in the outputs and a vector that is shaped like them.

        The Hessian is that of the sum of the losses of an `(n,)`, of the sum of a pair, of a scalar
        mean itself.

        Args:
            outputs: where the Hessian is taken.
            targets: as for the loss.
            vector: what is multiplied.
        """


class SoftmaxCrossEntropy(AbstractOutputLoss):
    """Softmax cross-entropy per example, in nats.

    Outputs are logits `(n, classes)`, or `(n, ..., classes)` for a sequence of predictions in each
    example, as of tokens. Targets are one of

    - labels: integers of the outputs' shape without the last axis. No one-hot array is made;
    - one-hot labels or probabilities of the outputs' shape. Their sum need not be one: zeros mask;
    - a pair of one of these and weights, of the outputs' shape without the last axis or some of its
      leading axes: a mask, for example. The label of a zero weight is not looked at.

    For `(n, classes)` without weights the losses are `(n,)`. Otherwise they are
    `(sum, weight)`: the objective is the mean over all predictions, or their weighted mean.

    The product with the Hessian is `p (u - ⟨p, u⟩)` for each prediction, with `p` the softmax. It
    needs one array of the outputs' size, `p`, besides `u` itself, whose place the product takes.

    Source: Schraudolph, *Fast curvature matrix-vector products* (2002), for "matching" losses.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = SoftmaxCrossEntropy()
        >>> loss(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]]))
        Array([0.6931...], dtype=float32)
        >>> loss(jnp.zeros((1, 2)), jnp.array([1]))
        Array([0.6931...], dtype=float32)
        >>> loss.hessian_product(jnp.zeros((1, 2)), jnp.array([1]), jnp.array([[1.0, 0.0]]))
        Array([[ 0.25, -0.25]], dtype=float32)
    """

    def __call__(self, outputs: Float[Array, "n *shape"], targets: PyTree) -> Losses:
        """The loss of each example, or `(sum, weight)`.

        Args:
            outputs: the logits.
            targets: labels, probabilities, or a pair of these and weights.

        Returns:
            The losses, as for the class.

        Raises:
            ValueError: if the shapes of targets or weights do not fit.
        """
        targets, weights = split_weights(outputs, targets)
        if are_labels(outputs, targets):
            losses = _label_losses(outputs, targets)
        else:
            losses = -jnp.sum(targets * jax.nn.log_softmax(outputs, axis=-1), axis=-1)
        if weights is None and outputs.ndim == 2:
            return losses
        return _weighted_sum(losses, weights)

    def hessian_product(
        self, outputs: Float[Array, "n *shape"], targets: PyTree, vector: Float[Array, "n *shape"]
    ) -> Float[Array, "n *shape"]:
        """The product with the Hessian of the (weighted) sum of the losses.

        Args:
            outputs: the logits.
            targets: as for the loss.
            vector: what is multiplied.

        Returns:
            An array like `vector`.
        """
        targets, weights = split_weights(outputs, targets)
        wide = accumulator(outputs.dtype)
        # `p` is the one array of the outputs' size that a linearization has to keep. Written like
        # this XLA makes no other; `u` relative to one of its entries would cost one on CPUs.
        p = jax.nn.softmax(outputs.astype(wide), axis=-1).astype(outputs.dtype)
        mean = jnp.sum(p.astype(wide) * vector.astype(wide), axis=-1, keepdims=True)
        product = p * (vector.astype(wide) - mean)
        scale = None
        if not are_labels(outputs, targets):
            scale = jnp.sum(targets.astype(wide), axis=-1)
        if weights is not None:
            weights = expand_weights(weights, outputs.ndim - 1).astype(wide)
            scale = weights if scale is None else weights * scale
        if scale is not None:
            product = scale[..., None] * product
        return product.astype(vector.dtype)


class SquaredError(AbstractOutputLoss):
    """Squared error `½‖f - y‖²` per example, summed over the classes.

    Outputs and targets are alike, `(n, ...)`. Targets may be a pair of these and weights, of some
    of the leading axes of the outputs; the losses are then `(sum, weight)` instead of `(n,)`.
    The Hessian in the outputs is the identity, or the weights.

    Example:
        >>> import jax.numpy as jnp
        >>> SquaredError()(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]))
        Array([1.], dtype=float32)
    """

    def __call__(self, outputs: Float[Array, "n *shape"], targets: PyTree) -> Losses:
        """The loss of each example, or `(sum, weight)`.

        Args:
            outputs: what the model returned, `f`.
            targets: `y`, or a pair of `y` and weights.

        Returns:
            The losses, as for the class.

        Raises:
            ValueError: if the shapes of targets or weights do not fit.
        """
        targets, weights = split_weights(outputs, targets)
        _check_alike(outputs, targets)
        axes = tuple(range(1 if weights is None else weights.ndim, outputs.ndim))
        losses = 0.5 * jnp.sum((outputs - targets) ** 2, axis=axes)
        return losses if weights is None else _weighted_sum(losses, weights)

    def hessian_product(
        self, outputs: Float[Array, "n *shape"], targets: PyTree, vector: Float[Array, "n *shape"]
    ) -> Float[Array, "n *shape"]:
        """The vector itself, times the weights where there are any.

        Args:
            outputs: what the model returned; not looked at.
            targets: as for the loss.
            vector: what is multiplied.

        Returns:
            An array like `vector`.
        """
        _, weights = split_weights(outputs, targets)
        if weights is None:
            return vector
        return vector * expand_weights(weights, vector.ndim).astype(vector.dtype)


def split_weights(outputs: Array, targets: PyTree) -> tuple[Array, Array | None]:
    """Targets and weights, if there are any."""
    if not isinstance(targets, tuple | list):
        return targets, None
    if len(targets) != 2:
        raise ValueError(
            f"the targets are {len(targets)} arrays: pass one, or a pair (targets, weights)"
        )
    targets, weights = targets
    if weights.ndim >= outputs.ndim + (outputs.ndim == 1) or (
        weights.shape != outputs.shape[: weights.ndim]
    ):
        raise ValueError(
            f"the weights have shape {weights.shape} and the outputs {outputs.shape}: weights are "
            "shaped as the leading axes of the outputs, without the last"
        )
    return targets, weights


def are_labels(outputs: Array, targets: Array) -> bool:
    if outputs.ndim < 2:
        raise ValueError(
            f"the outputs have shape {outputs.shape}: cross-entropy needs logits (n, ..., classes)"
        )
    if targets.shape == outputs.shape[:-1] and jnp.issubdtype(targets.dtype, jnp.integer):
        return True
    _check_alike(outputs, targets, ", or integer labels without its last axis")
    return False


def _check_alike(outputs: Array, targets: Array, otherwise: str = "") -> None:
    if targets.shape != outputs.shape:
        raise ValueError(
            f"the targets are {targets.dtype}{list(targets.shape)} and the outputs have shape "
            f"{list(outputs.shape)}: targets must have that shape{otherwise}"
        )


def _label_losses(outputs: Array, labels: Array) -> Array:
    """The losses of integer labels; NaN for one that is not a class."""
    wide = accumulator(outputs.dtype)
    top = jax.lax.stop_gradient(jnp.max(outputs, axis=-1, keepdims=True)).astype(wide)
    total = jnp.sum(jnp.exp(outputs.astype(wide) - top), axis=-1)
    chosen = jnp.take_along_axis(outputs, labels[..., None], axis=-1, mode="fill")
    losses = jnp.log(total) - (chosen.astype(wide) - top)[..., 0]
    # Negative indices would count from the end.
    return jnp.where(labels < 0, jnp.nan, losses).astype(outputs.dtype)


def expand_weights(weights: Array, ndim: int) -> Array:
    return weights.reshape(weights.shape + (1,) * (ndim - weights.ndim))


def _weighted_sum(losses: Array, weights: Array | None) -> tuple[Array, Array]:
    wide = accumulator(losses.dtype)
    losses = losses.astype(wide)
    if weights is None:
        return jnp.sum(losses), jnp.asarray(losses.size, wide)
    weights = expand_weights(weights, losses.ndim).astype(wide)
    # A token that is masked may have a label that is not a class.
    total = jnp.sum(jnp.where(weights == 0, 0, weights * losses))
    return total, jnp.sum(jnp.broadcast_to(weights, losses.shape))
