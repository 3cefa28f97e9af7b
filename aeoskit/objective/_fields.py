"""The maths of an objective: value, gradient, and the Hessian as the Jacobian of the gradient.

A field that is differentiated, once or per product, has the gradient's form: a sum over a batch and
its weight. Gauss-Newton products, in `_gauss_newton`, need no such field.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from ._accumulate import accumulate, num_examples, part_loop, parts_of
from ._kinds import sum_and_weight

# (point, batch) -> (sum of the field over the batch, its weight)
Field = Callable[[PyTree, PyTree], tuple[PyTree, Any]]


def sum_over(objective: Any, function: Callable[[PyTree], PyTree], params: PyTree) -> PyTree:
    """The sum of `function(batch)` over the microbatches of the objective's data."""
    size, _, _ = parts_of(num_examples(objective.data), objective.microbatch)
    return accumulate(
        function,
        objective.data,
        objective.microbatch,
        lambda: part_loop(objective.loss, params, objective.data, size),
    )


def divide(tree: PyTree, weight: Any, like: PyTree) -> PyTree:
    """A sum over the data divided by its weight, in the dtypes of `like`."""
    return jax.tree.map(lambda x, y: (x / weight.astype(x.dtype)).astype(y.dtype), tree, like)


def _batch_loss(objective: Any) -> Callable[[PyTree, PyTree], tuple[Any, Any]]:
    def batch_loss(params: PyTree, batch: PyTree) -> tuple[Any, Any]:
        return sum_and_weight(objective.loss(params, batch), num_examples(batch))

    return batch_loss


def value(objective: Any, params: PyTree) -> Any:
    batch_loss = _batch_loss(objective)
    total, weight = sum_over(objective, lambda batch: batch_loss(params, batch), params)
    return total / weight


def value_and_gradient(objective: Any, params: PyTree) -> tuple[Any, PyTree]:
    batch_loss = _batch_loss(objective)

    def part(batch: PyTree) -> PyTree:
        return jax.value_and_grad(batch_loss, has_aux=True)(params, batch)

    (total, weight), grads = sum_over(objective, part, params)
    return total / weight, divide(grads, weight, params)


def gradient_field(objective: Any) -> Field:
    """The gradient of a batch's summed loss, and the batch's weight."""
    return jax.grad(_batch_loss(objective), has_aux=True)


def product(field: Field, objective: Any, params: PyTree, vector: PyTree) -> PyTree:
    """The Jacobian of the mean field times `vector`, primal and all, one microbatch at a time."""

    def part(batch: PyTree) -> tuple[PyTree, Any]:
        _, tangent, weight = jax.jvp(
            lambda point: field(point, batch), (params,), (vector,), has_aux=True
        )
        return tangent, weight

    total, weight = sum_over(objective, part, params)
    return divide(total, weight, params)


def linearize(field: Field, objective: Any, params: PyTree) -> Any:
    """The Jacobian of the mean field as a `jax.tree_util.Partial`: its primal pass is behind it."""

    def mean(point: PyTree) -> PyTree:
        total, weight = sum_over(objective, lambda batch: field(point, batch), params)
        return divide(total, weight, params)

    return jax.linearize(mean, params)[1]
