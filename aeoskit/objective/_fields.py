"""The maths of an objective: value, gradient, and the Hessian as the Jacobian of the gradient.

A field that is differentiated, once or per product, has the gradient's form: a sum over a batch and
its weight. Gauss-Newton products, in `_gauss_newton`, need no such field.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._accumulate import num_examples
from ._finite import checked, one_or_nan
from ._kinds import sum_and_weight
from ._shards import sum_over

# (loss, point, batch) -> (sum of the field over the batch, its weight)
Field = Callable[[Callable[..., Any], PyTree, PyTree], tuple[PyTree, Any]]


def divide(tree: PyTree, weight: Any, like: PyTree) -> PyTree:
    """A sum over the data divided by its weight, in the dtypes of `like`."""
    return jax.tree.map(lambda x, y: (x / weight.astype(x.dtype)).astype(y.dtype), tree, like)


def _batch_loss(loss: Callable[..., Any], params: PyTree, batch: PyTree) -> tuple[Any, Any]:
    return sum_and_weight(loss(params, batch), num_examples(batch))


def value(objective: Any, params: PyTree) -> Any:
    def part(loss: Any, batch: PyTree, params: PyTree) -> PyTree:
        return None, _batch_loss(loss, params, batch)

    _, (total, weight) = sum_over(objective, part, params)
    return total / weight


def value_and_gradient(objective: Any, params: PyTree) -> tuple[Any, PyTree]:
    def part(loss: Any, batch: PyTree, params: PyTree) -> PyTree:
        (total, weight), grads = jax.value_and_grad(
            lambda p: _batch_loss(loss, p, batch), has_aux=True
        )(params)
        return grads, (total, weight)

    grads, (total, weight) = sum_over(objective, part, params, lies="params")
    return total / weight, divide(grads, weight, params)


def gradient_field() -> Field:
    """The gradient of a batch's summed loss, and the batch's weight: NaN where the loss is."""

    def field(loss: Any, point: PyTree, batch: PyTree) -> tuple[PyTree, Any]:
        slope = jax.value_and_grad(lambda p: _batch_loss(loss, p, batch), has_aux=True)
        (total, weight), grads = slope(point)
        return grads, jnp.where(jnp.isfinite(total), weight, jnp.nan)

    return field


def product(field: Field, objective: Any, params: PyTree, vector: PyTree) -> PyTree:
    """The Jacobian of the mean field times `vector`, primal and all, one microbatch at a time."""

    def part(loss: Any, batch: PyTree, params: PyTree, vector: PyTree) -> tuple[PyTree, Any]:
        _, tangent, weight = jax.jvp(
            lambda point: field(loss, point, batch), (params,), (vector,), has_aux=True
        )
        return tangent, weight

    total, weight = sum_over(objective, part, params, vector)
    return divide(total, weight, params)


def linearize(field: Field, objective: Any, params: PyTree) -> Any:
    """The Jacobian of the mean field as a `jax.tree_util.Partial`: its primal pass is behind it."""

    def part(loss: Any, batch: PyTree, point: PyTree) -> tuple[PyTree, Any]:
        return field(loss, point, batch)

    def mean(point: PyTree) -> PyTree:
        total, weight = sum_over(objective, part, point)
        return divide(total, weight, params)

    gradient, linear = jax.linearize(mean, params)
    return checked(one_or_nan(gradient), linear)
