"""The maths of an objective: value, gradient, and the vector fields whose Jacobians are curvature.

The Hessian is the Jacobian of the gradient. The Gauss-Newton matrix `JᵀHJ` at `w` is the Jacobian
at `q = w` of the field `q -> J(w)ᵀ ∇ℓ(f(q))`, which holds the pull-back `J(w)ᵀ` still. So one way
to differentiate a field, once or per product, serves both.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from ._accumulate import accumulate, num_examples, part_loop, parts_of
from ._function import ModelLoss
from ._kinds import sum_and_weight

# (point, batch) -> (sum of the field over the batch, its weight)
Field = Callable[[PyTree, PyTree], tuple[PyTree, Any]]


def _total(objective: Any, function: Callable[[PyTree], PyTree], params: PyTree) -> PyTree:
    size, _, _ = parts_of(num_examples(objective.data), objective.microbatch)
    return accumulate(
        function,
        objective.data,
        objective.microbatch,
        lambda: part_loop(objective.loss, params, objective.data, size),
    )


def _divide(tree: PyTree, weight: Any, like: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: (x / weight.astype(x.dtype)).astype(y.dtype), tree, like)


def _batch_loss(objective: Any) -> Callable[[PyTree, PyTree], tuple[Any, Any]]:
    def batch_loss(params: PyTree, batch: PyTree) -> tuple[Any, Any]:
        return sum_and_weight(objective.loss(params, batch), num_examples(batch))

    return batch_loss


def value(objective: Any, params: PyTree) -> Any:
    batch_loss = _batch_loss(objective)
    total, weight = _total(objective, lambda batch: batch_loss(params, batch), params)
    return total / weight


def value_and_gradient(objective: Any, params: PyTree) -> tuple[Any, PyTree]:
    batch_loss = _batch_loss(objective)

    def part(batch: PyTree) -> PyTree:
        return jax.value_and_grad(batch_loss, has_aux=True)(params, batch)

    (total, weight), grads = _total(objective, part, params)
    return total / weight, _divide(grads, weight, params)


def gradient_field(objective: Any, params: PyTree) -> Field:
    """The gradient, a field of the point alone."""
    del params
    return jax.grad(_batch_loss(objective), has_aux=True)


def gauss_newton_field(objective: Any, params: PyTree) -> Field:
    """`q -> J(params)ᵀ ∇ℓ(f(q))`, whose Jacobian at `q = params` is `JᵀHJ`."""
    loss = objective.loss
    assert isinstance(loss, ModelLoss)

    def field(point: PyTree, batch: PyTree) -> tuple[PyTree, Any]:
        inputs, targets = batch
        size = num_examples(batch)
        outputs = loss.model(point, inputs)
        slope, weight = jax.grad(
            lambda outputs: sum_and_weight(loss.output_loss(outputs, targets), size), has_aux=True
        )(outputs)
        _, pull_back = jax.vjp(lambda p: loss.model(p, inputs), params)
        return pull_back(slope)[0], weight

    return field


def product(field: Field, objective: Any, params: PyTree, vector: PyTree) -> PyTree:
    """The Jacobian of the mean field times `vector`, primal and all, one microbatch at a time."""

    def part(batch: PyTree) -> tuple[PyTree, Any]:
        _, tangent, weight = jax.jvp(
            lambda point: field(point, batch), (params,), (vector,), has_aux=True
        )
        return tangent, weight

    total, weight = _total(objective, part, params)
    return _divide(total, weight, params)


def linearize(field: Field, objective: Any, params: PyTree) -> Any:
    """The Jacobian of the mean field as a `jax.tree_util.Partial`: its primal pass is behind it."""

    def mean(point: PyTree) -> PyTree:
        total, weight = _total(objective, lambda batch: field(point, batch), params)
        return _divide(total, weight, params)

    return jax.linearize(mean, params)[1]
