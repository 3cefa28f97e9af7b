"""Gradients of single examples: of their own losses, or random ones with Gauss-Newton's moments."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._function import ModelLoss
from ._kinds import accumulator, sum_and_weight
from ._output_losses import SoftmaxCrossEntropy, SquaredError
from ._output_losses import _are_labels as are_labels
from ._output_losses import _split as split
from ._output_losses import _spread as spread

# An example without its leading axis, and its number -> gradients (draws, *leaf), and the weight.
ExampleGradients = Callable[[PyTree, Array], tuple[PyTree, Array]]


def of_losses(loss: Callable[..., Any], params: PyTree) -> ExampleGradients:
    """The gradient of the sum of each example's losses."""

    def gradients(example: PyTree, number: Array) -> tuple[PyTree, Array]:
        del number
        batch = jax.tree.map(lambda x: x[None], example)
        slope = jax.grad(lambda p: sum_and_weight(loss(p, batch), 1), has_aux=True)
        grads, weight = slope(params)
        return jax.tree.map(lambda g: g[None], grads), weight

    return gradients


def of_draws(loss: ModelLoss, params: PyTree, key: Array, samples: int) -> ExampleGradients:
    """Random gradients of each example, of mean zero; their second moments are `JᵀHJ`."""

    def gradients(example: PyTree, number: Array) -> tuple[PyTree, Array]:
        inputs, targets = jax.tree.map(lambda x: x[None], example)
        output_loss = loss.output_loss.function
        outputs, pull = jax.vjp(lambda p: loss.model(p, inputs), params)
        # An example's draws are its own, however the data are cut into microbatches.
        keys = jax.random.split(jax.random.fold_in(key, number), samples)
        vectors = jax.vmap(lambda key: _draw(output_loss, outputs, targets, key))(keys)
        (grads,) = jax.vmap(pull)(vectors)
        _, weight = sum_and_weight(output_loss(outputs, targets), 1)
        return grads, weight

    return gradients


def knows_draws(output_loss: Any) -> bool:
    """Whether the square root of the Hessian of this output loss is known."""
    return isinstance(output_loss, SoftmaxCrossEntropy | SquaredError)


def _draw(output_loss: Callable[..., Any], outputs: Array, targets: PyTree, key: Array) -> Array:
    """A vector of mean zero, its covariance the output Hessian of the sum of the losses.

    Without weights it is the slope of the loss at a target drawn from the model's own outputs:
    normal of variance one, or a class.
    """
    wide = accumulator(outputs.dtype)
    values, weights = split(outputs, targets)
    scale = None
    if isinstance(output_loss, SquaredError):
        vector = jax.random.normal(key, outputs.shape, wide)
        ndim = outputs.ndim
    else:
        logits = outputs.astype(wide)
        drawn = jax.random.categorical(key, logits)
        vector = jax.nn.softmax(logits, axis=-1)
        vector = vector - jax.nn.one_hot(drawn, outputs.shape[-1], dtype=wide)
        ndim = outputs.ndim - 1
        if not are_labels(outputs, values):
            scale = jnp.sum(values.astype(wide), axis=-1)
    if weights is not None:
        weights = spread(weights, ndim).astype(wide)
        scale = weights if scale is None else weights * scale
    if scale is not None:
        # Covariances are quadratic: the weight enters by its root.
        root = jnp.sqrt(scale)
        vector = vector * (root if ndim == outputs.ndim else root[..., None])
    return vector.astype(outputs.dtype)
