"""Gradients of single examples: of their own losses, or some with Gauss-Newton's moments."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._function import ModelLoss
from ._kinds import accumulator, sum_and_weight
from ._output_losses import (
    SoftmaxCrossEntropy,
    SquaredError,
    are_labels,
    expand_weights,
    split_weights,
)

# An example without its leading axis, and its number -> gradients (m, *leaf), and the weight. The
# sum over the m of their outer products is the example's part of the matrix.
ExampleGradients = Callable[[PyTree, Array], tuple[PyTree, Array]]


def loss_gradients(loss: Callable[..., Any], params: PyTree) -> ExampleGradients:
    """The gradient of the sum of each example's losses."""

    def gradients(example: PyTree, number: Array) -> tuple[PyTree, Array]:
        del number
        batch = jax.tree.map(lambda x: x[None], example)
        slope = jax.grad(lambda p: sum_and_weight(loss(p, batch), 1), has_aux=True)
        grads, weight = slope(params)
        return jax.tree.map(lambda g: g[None], grads), weight

    return gradients


def output_gradients(
    loss: ModelLoss, params: PyTree, key: Array | None = None, samples: int = 1
) -> ExampleGradients:
    """Gradients `Jᵀr` of each example, whose outer products sum to `JᵀHJ`.

    Without a key there is one for each entry of the outputs, and the sum is exact. With a key there
    are `samples` random ones, and it holds on average.
    """

    def gradients(example: PyTree, number: Array) -> tuple[PyTree, Array]:
        inputs, targets = jax.tree.map(lambda x: x[None], example)
        output_loss = loss.output_loss.function
        outputs, pull = jax.vjp(lambda p: loss.model(p, inputs), params)
        if key is None:
            vectors = _roots(output_loss, outputs)
        else:
            # An example's draws are its own, however the data are cut into microbatches.
            keys = jax.random.split(jax.random.fold_in(key, number), samples)
            draws = jax.vmap(lambda key: _draw(output_loss, outputs, key))(keys)
            vectors = draws / jnp.sqrt(jnp.asarray(samples, draws.dtype))
        vectors = _weighted(output_loss, outputs, targets, vectors).astype(outputs.dtype)
        (grads,) = jax.vmap(pull)(vectors)
        _, weight = sum_and_weight(output_loss(outputs, targets), 1)
        return grads, weight

    return gradients


def outputs_per_example(loss: ModelLoss, params: PyTree, data: PyTree) -> int:
    """The number of numbers that the model returns for one example."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), data[0])
    return jax.eval_shape(loss.model, params, shapes).size


def has_known_root(output_loss: Any) -> bool:
    """True if the square root of this output loss's Hessian is known."""
    return isinstance(output_loss, SoftmaxCrossEntropy | SquaredError)


def _roots(output_loss: Callable[..., Any], outputs: Array) -> Array:
    """Vectors whose outer products sum to the Hessian of the unweighted output loss."""
    wide = accumulator(outputs.dtype)
    entries = jnp.eye(outputs.size, dtype=wide).reshape(outputs.size, *outputs.shape)
    if isinstance(output_loss, SquaredError):
        return entries
    # diag p - ppᵀ is the mean over classes c of (p - e_c)(p - e_c)ᵀ, each position by itself.
    probabilities = jax.nn.softmax(outputs.astype(wide), axis=-1)[None]
    class_probabilities = jnp.sum(probabilities * entries, axis=-1, keepdims=True)
    one_hot = jnp.sum(entries, axis=-1, keepdims=True)
    return jnp.sqrt(class_probabilities) * (one_hot * probabilities - entries)


def _draw(output_loss: Callable[..., Any], outputs: Array, key: Array) -> Array:
    """A vector of mean zero, its covariance the Hessian of the unweighted output loss.

    It is the slope of the loss at a target drawn from the model's own outputs: normal of variance
    one, or a class.
    """
    wide = accumulator(outputs.dtype)
    if isinstance(output_loss, SquaredError):
        return jax.random.normal(key, outputs.shape, wide)
    logits = outputs.astype(wide)
    drawn = jax.random.categorical(key, logits)
    return jax.nn.softmax(logits, axis=-1) - jax.nn.one_hot(drawn, outputs.shape[-1], dtype=wide)


def _weighted(
    output_loss: Callable[..., Any], outputs: Array, targets: PyTree, vectors: Array
) -> Array:
    """The vectors `(m, *outputs)` times the roots of what weighs the Hessian: it is quadratic."""
    wide = accumulator(outputs.dtype)
    values, weights = split_weights(outputs, targets)
    ndim, scale = outputs.ndim, None
    if isinstance(output_loss, SoftmaxCrossEntropy):
        ndim = outputs.ndim - 1
        if not are_labels(outputs, values):
            scale = jnp.sum(values.astype(wide), axis=-1)
    if weights is not None:
        weights = expand_weights(weights, ndim).astype(wide)
        scale = weights if scale is None else weights * scale
    if scale is None:
        return vectors
    root = jnp.sqrt(scale)
    return vectors * (root if ndim == outputs.ndim else root[..., None])[None]
