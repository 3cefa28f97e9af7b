"""The maths of an objective: value, gradient, and the Hessian as the Jacobian of the gradient.

A field that is differentiated, once or per product, has the gradient's form: a sum over a batch and
its weight. Gauss-Newton products, in `_gauss_newton`, need no such field.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._accumulate import num_examples
from ._anatomy import lacks_forward, loss_anatomy
from ._differences import moved, relative_step
from ._finite import one_or_nan, with_factor
from ._kinds import sum_and_weight
from ._shards import Layout, place_as, sum_over

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


def value_and_gradient(
    objective: Any, params: PyTree, layout: Layout = "params"
) -> tuple[Any, PyTree]:
    def part(loss: Any, batch: PyTree, params: PyTree) -> PyTree:
        (total, weight), grads = jax.value_and_grad(
            lambda p: _batch_loss(loss, p, batch), has_aux=True
        )(params)
        return grads, (total, weight)

    grads, (total, weight) = sum_over(objective, part, params, layout=layout)
    return total / weight, divide(grads, weight, params)


def gradient_field() -> Field:
    """The gradient of a batch's summed loss, and the batch's weight: NaN where the loss is."""

    def field(loss: Any, point: PyTree, batch: PyTree) -> tuple[PyTree, Any]:
        slope = jax.value_and_grad(lambda p: _batch_loss(loss, p, batch), has_aux=True)
        (total, weight), grads = slope(point)
        return grads, jnp.where(jnp.isfinite(total), weight, jnp.nan)

    return field


def difference(field: Field, objective: Any, params: PyTree, vector: PyTree, h: Any) -> PyTree:
    """The central difference of the mean field along `vector`, one microbatch at a time."""

    def part(
        loss: Any, batch: PyTree, params: PyTree, vector: PyTree, h: PyTree
    ) -> tuple[PyTree, Any]:
        (step,) = h
        after, weight = field(loss, moved(params, vector, step), batch)
        before, _ = field(loss, moved(params, vector, -step), batch)
        return jax.tree.map(lambda a, b: (a - b) / (2 * step), after, before), weight

    total, weight = sum_over(objective, part, params, vector, (h,))
    return divide(total, weight, params)


def forward(field: Field, objective: Any, params: PyTree, vector: PyTree) -> PyTree:
    """The Jacobian of the mean field times `vector`, primal and all, one microbatch at a time."""

    def part(loss: Any, batch: PyTree, params: PyTree, vector: PyTree) -> tuple[PyTree, Any]:
        _, tangent, weight = jax.jvp(
            lambda point: field(loss, point, batch), (params,), (vector,), has_aux=True
        )
        return tangent, weight

    total, weight = sum_over(objective, part, params, vector)
    return divide(total, weight, params)


def reverse(field: Field, objective: Any, params: PyTree, vector: PyTree) -> PyTree:
    """The same without forward derivatives: twice in reverse; three times where it has to be.

    A Jacobian that is not symmetric is the transpose of what a reverse pass computes.
    """

    def part(loss: Any, batch: PyTree, params: PyTree, vector: PyTree) -> tuple[PyTree, Any]:
        _, pull, weight = jax.vjp(lambda point: field(loss, point, batch), params, has_aux=True)
        pulled = pull if objective.symmetric else jax.linear_transpose(lambda u: pull(u)[0], params)
        (image,) = pulled(vector)
        return image, weight

    total, weight = sum_over(objective, part, params, vector)
    return divide(total, weight, params)


def product(field: Field, objective: Any, params: PyTree, vector: PyTree) -> PyTree:
    """The Jacobian of the mean field times `vector`, computed as `objective.product` asks."""
    if objective.product == "difference":
        return difference(field, objective, params, vector, relative_step(params, vector))
    function = forward if objective.product == "forward" else reverse
    derivative = functools.partial(function, field, objective, params, vector)
    with explain_missing_derivative(objective, params, derivative):
        return derivative()


def _pull_back(pull: Any, vector: PyTree) -> PyTree:
    return pull(vector)[0]


def linearize(objective: Any, params: PyTree) -> tuple[Any, PyTree, Any]:
    """The mean loss, its gradient, and the gradient's Jacobian as a `jax.tree_util.Partial`.

    The Jacobian's primal pass is behind it, and the gradient was computed in it.
    """

    def mean(point: PyTree) -> tuple[PyTree, Any]:
        value, grads = value_and_gradient(objective, point, layout="basis")
        return grads, value

    # A vector like the parameters is as good as any.
    derivative = functools.partial(forward, gradient_field(), objective, params, params)
    with explain_missing_derivative(objective, params, derivative):
        if objective.product == "reverse":
            grads, pull, value = jax.vjp(mean, params, has_aux=True)
            linear = jax.tree_util.Partial(_pull_back, pull)
        else:
            grads, linear, value = jax.linearize(mean, params, has_aux=True)
    linear = with_factor(one_or_nan((value, grads)), linear)
    placement = objective.placement
    return value, grads if placement is None else place_as(placement, grads, "params"), linear


@contextlib.contextmanager
def explain_missing_derivative(
    objective: Any, params: PyTree, derivative: Callable[[], PyTree]
) -> Iterator[None]:
    """Explains errors of a loss that has a gradient and no second derivative, with the way out."""
    try:
        suspect = objective.product == "forward" and (
            "custom_vjp" in loss_anatomy(objective, params).hiding
        )
        if suspect and lacks_forward(jax.make_jaxpr(derivative)().jaxpr):
            raise NotImplementedError("a custom_vjp function has no forward derivative")
        yield
    except (TypeError, ValueError, NotImplementedError) as error:
        try:
            jax.eval_shape(lambda: value_and_gradient(objective, params))
        except Exception:  # it is not the second derivative that is missing
            raise error from None
        reason = " ".join(str(error).split())[:120]
        ways = 'product="difference" (two gradients a product)'
        if objective.product == "forward":
            ways = f'product="reverse" (its transpose), or {ways} where that fails too'
        raise ValueError(
            f"the gradient of the loss has no {objective.product} derivative, as with custom_vjp, "
            f"a callback or an attention kernel (jax: {reason}): make the objective with {ways}"
        ) from error
