"""The maths of a Gauss-Newton product: push a vector through the model, curve it, pull it back."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._accumulate import num_examples
from ._fields import divide
from ._function import ModelLoss
from ._kinds import loss_kind, sum_and_weight
from ._output_losses import AbstractOutputLoss
from ._shards import sum_over


def _curve(loss: ModelLoss, outputs: PyTree, targets: PyTree, image: PyTree, size: int) -> Any:
    """The product of the output Hessian of a batch's summed loss and `image`, and the weight."""
    output_loss = loss.output_loss.function

    def total(outputs: PyTree) -> tuple[Any, Any]:
        return sum_and_weight(output_loss(outputs, targets), size)

    if not isinstance(output_loss, AbstractOutputLoss):
        slope = jax.grad(total, has_aux=True)
        _, curved, weight = jax.jvp(slope, (outputs,), (image,), has_aux=True)
        return curved, weight
    # Where the loss is per example the weight is a number: what computed the loss is dropped.
    _, weight = total(outputs)
    curved = output_loss.hessian_product(outputs, targets, image)
    if loss_kind(jax.eval_shape(output_loss, outputs, targets), size) == "mean":
        curved = jax.tree.map(lambda x: x * jnp.asarray(size, x.dtype), curved)
    return curved, weight


def product(objective: Any, params: PyTree, vector: PyTree) -> PyTree:
    """`JᵀHJ v` of the mean, one microbatch at a time."""

    def part(loss: Any, batch: PyTree, params: PyTree, vector: PyTree) -> tuple[PyTree, Any]:
        assert isinstance(loss, ModelLoss)
        inputs, targets = batch
        # One linearization serves both ways, so that its residuals are there once.
        outputs, push = jax.linearize(lambda p: loss.model(p, inputs), params)
        curved, weight = _curve(loss, outputs, targets, push(vector), num_examples(batch))
        (pulled,) = jax.linear_transpose(push, params)(curved)
        return pulled, weight

    total, weight = sum_over(objective, part, params, vector)
    return divide(total, weight, params)


def linearize(objective: Any, params: PyTree) -> Any:
    """The product as a `jax.tree_util.Partial` whose residuals hold what the vector does not enter.

    The product is linear in the vector, so that its derivative at zero is itself; what it is at
    zero is not used, and dropped when the program is compiled.
    """
    zero = jax.tree.map(jnp.zeros_like, params)
    return jax.linearize(lambda vector: product(objective, params, vector), zero)[1]
